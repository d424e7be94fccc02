"""A small LSP client, which runs the language server as a child process: for the demo and for the
typing benchmark.

Owns the process, the numbering of requests and the answers to the server's own requests. Knows
neither the meaning of requests nor how results are shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlm_lsp.lsp.framing import FrameReader, FramingError, to_frame

OnNotification = Callable[[str, dict[str, Any]], None]
_READ_BYTES = 1 << 16
_END_SECONDS_MAX = 5.0
_METHOD_NOT_FOUND = -32601
_COMPLAINT_BYTES_MAX = 1000


class LspClientError(Exception):
    """The language server refused a request or ended."""


class LspClient:
    """One running language server; `on_notification` is called for each of its notifications."""

    def __init__(self, on_notification: OnNotification) -> None:
        self._on_notification = on_notification
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._complaint = b""  # the end of what the server wrote to stderr
        self._ended: LspClientError | None = None
        self._has_ended = asyncio.Event()
        self._last_id = 0

    async def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the server, by default in this process's environment.

        Raises: OSError if that fails.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        self._process = process
        self._tasks = [
            asyncio.create_task(self._read_messages(process)),
            asyncio.create_task(self._read_complaints(process)),
        ]

    async def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Returns the result of a request. Raises LspClientError if it fails or the server ends."""
        if self._ended is not None:
            raise self._ended
        self._last_id += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = answer
        try:
            self._send({"id": self._last_id, "method": method, "params": params})
            return await answer
        finally:
            del self._waiting[self._last_id]

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Sends a notification."""
        self._send({"method": method, "params": params})

    async def until(self, event: asyncio.Event) -> None:
        """Waits for the caller's event. Raises LspClientError if the server ends first."""
        waits = [asyncio.create_task(one.wait()) for one in (event, self._has_ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._ended is not None and not event.is_set():
            raise self._ended

    async def close(self) -> None:
        """Ends the server, by force if it does not end when asked."""
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(_END_SECONDS_MAX):
                if self._ended is None:
                    await self.request("shutdown")
                    self.notify("exit", {})
                await process.wait()
        except (LspClientError, TimeoutError):
            if process.returncode is None:
                process.kill()
                await process.wait()
        await asyncio.gather(*self._tasks)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        body = {"jsonrpc": "2.0", **message}
        if body.get("params", {}) is None:
            del body["params"]
        self._process.stdin.write(to_frame(json.dumps(body).encode()))

    async def _read_messages(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        reader = FrameReader()
        try:
            while data := await process.stdout.read(_READ_BYTES):
                for body in reader.feed(data):
                    if isinstance(body, FramingError):
                        raise ValueError(body.message)
                    self._receive(json.loads(body))
            last_words = self._complaint.decode(errors="replace").strip().splitlines()[-1:]
            reason = " ".join(["The language server ended.", *last_words])
        except ValueError as error:
            reason = f"The language server sent what is not LSP: {error}"
        self._ended = LspClientError(reason)
        self._has_ended.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._ended)

    async def _read_complaints(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(_READ_BYTES):
            self._complaint = (self._complaint + data)[-_COMPLAINT_BYTES_MAX:]

    def _receive(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._settle(message)
        elif "id" not in message:
            self._on_notification(message["method"], message.get("params") or {})
        elif message["method"] == "workspace/configuration":
            items = message["params"]["items"]
            self._send({"id": message["id"], "result": [None] * len(items)})
        elif message["method"] in ("window/workDoneProgress/create", "client/registerCapability"):
            self._send({"id": message["id"], "result": None})
        else:
            error = {"code": _METHOD_NOT_FOUND, "message": f"{message['method']} is not known."}
            self._send({"id": message["id"], "error": error})

    def _settle(self, message: dict[str, Any]) -> None:
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(LspClientError(str(message["error"].get("message"))))
        else:
            answer.set_result(message.get("result"))
