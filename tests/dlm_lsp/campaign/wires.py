"""Two ways to a language server for a campaign, and the book of what was asked and answered.

Both carry LSP's bytes. In this process the server handles what is written at once, so that its
texts and answers can be compared with the editor's at every moment; the other way is a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dlm_lsp.lsp.server import Server
from dlm_lsp.lsp.transport import _Connection

SECONDS_MAX = 120.0  # Only a hang exceeds this limit.

Message = dict[str, Any]


class Wire(Protocol):
    """A connection to a server; `on_message` gets each message that the server sends."""

    on_message: Callable[[Message], None]
    process_id: int

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> int: ...


class InProcess:
    """The server behind its framing, in this process. Bytes arrive in pieces of random length."""

    def __init__(self, rng: random.Random) -> None:
        self.on_message: Callable[[Message], None] = lambda message: None
        self.server = Server()
        self.process_id = os.getpid()
        self._rng = rng
        self._connection = _Connection(self.server, self._receive)

    def write(self, data: bytes) -> None:
        while data:
            end = self._rng.choice((len(data), self._rng.randrange(len(data)) + 1))
            self._connection.deliver(data[:end])
            data = data[end:]

    async def drain(self) -> None: ...

    async def close(self) -> int:
        code = await self._connection.ended
        await self.server.close()
        return code

    def rest_seconds(self, seconds: float) -> None:
        """Lets the server work ahead after so short a rest."""
        self.server.session._ahead._rest_seconds = seconds

    def text_of(self, uri: str) -> str | None:
        """The text of a document as the server has it."""
        document = self.server.session.documents.get(uri)
        return None if document is None else document.text

    def _receive(self, data: bytes) -> None:
        header, _, body = data.partition(b"\r\n\r\n")
        assert header == b"Content-Length: %d" % len(body), header
        self.on_message(json.loads(body))


class OwnProcess:
    """A server process of its own, as an editor starts it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.on_message: Callable[[Message], None] = lambda message: None
        self.process_id = process.pid
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, folder: Path, environment: Mapping[str, str]) -> OwnProcess:
        with (folder / "stderr.txt").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dlm_lsp", "--stdio"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                limit=1 << 28,
            )
        return cls(process)

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    async def drain(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.drain()

    async def close(self) -> int:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                header = await self._process.stdout.readuntil(b"\r\n\r\n")
                body = await self._process.stdout.readexactly(int(header.split()[1]))
                self.on_message(json.loads(body))


class Peer:
    """The editor's end: every request must be answered once, and what comes is counted.

    Attributes:
        faults: what broke a rule; an exception would end in the server's own error handling.
        handlers: answers to the server's requests, by method; others are answered with null.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.handlers: dict[str, Callable[[Any], Any]] = {}
        self._open: dict[int, Callable[[Message], None]] = {}
        self._last_id = 0
        wire.on_message = self._receive

    @property
    def open_ids(self) -> list[int]:
        """The requests without an answer so far."""
        return list(self._open)

    def send(self, message: Message) -> None:
        self.send_body(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def send_body(self, body: bytes) -> None:
        self.wire.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: Any, on_answer: Callable[[Message], None]) -> int:
        """Sends a request; its answer is given to `on_answer` when it comes."""
        self._last_id += 1
        self._open[self._last_id] = on_answer
        self.counts["requests"] += 1
        self.send({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    async def request(self, method: str, params: Any = None) -> Message:
        """Returns the whole answer to a request."""
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.ask(method, params, answered.set_result)
        async with asyncio.timeout(SECONDS_MAX):
            return await answered

    async def run(self, command: str, **fields: Any) -> Any:
        """Runs one of the server's commands; returns its result."""
        params = {"command": command, "arguments": [fields]}
        answer = await self.request("workspace/executeCommand", params)
        if "error" in answer:
            self.faults.append(f"{command}: {answer['error']}")
        return answer.get("result")

    async def all_answered(self) -> None:
        """Waits until no request is open. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS_MAX):
            while self._open:
                await asyncio.sleep(0.001)

    def _receive(self, message: Message) -> None:
        if "method" in message:
            self.counts[f"got {message['method']}"] += 1
            if "id" in message:  # Answered later: the server is in the middle of sending.
                asyncio.get_running_loop().call_soon(self._answer, message)
            return
        if message["id"] is None:
            self.counts["refusals"] += 1
            return
        on_answer = self._open.pop(message["id"], None)
        if on_answer is None:
            self.faults.append(f"an answer to no open request: {message}")
            return
        self.counts["answers"] += 1
        if ("result" in message) == ("error" in message):
            self.faults.append(f"neither a result nor an error, or both: {message}")
        on_answer(message)

    def _answer(self, message: Message) -> None:
        handler = self.handlers.get(message["method"], lambda params: None)
        self.send({"id": message["id"], "result": handler(message["params"])})
