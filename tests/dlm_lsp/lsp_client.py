"""A raw LSP client over a real server process, for tests: full control over ids and bytes.

Owns the process, its streams and what came back. Adds nothing to what a test sends, and drops
nothing of what the server says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.dlm_lsp.scripted_host import Job, ScriptedHost
from tests.helpers.warm import WarmProcess, start_warm

SECONDS_MAX = 60.0  # Only a hang exceeds this limit.
AUTOMATIC, INVOKED = 2, 1
# A document and its text, which is completed at line 1, character 11.
URI = "file:///home/me/add.py"
TEXT = "def add(a, b):\n    return \n"
INLINE: dict[str, Any] = {"textDocument": {"inlineCompletion": {}}}

Message = dict[str, Any]


class LspError(Exception):
    """The server answered a request with an error."""

    def __init__(self, error: Message) -> None:
        super().__init__(error["message"])
        self.code = error["code"]
        self.message = error["message"]


class LspClient:
    """One server process.

    Attributes:
        notifications: all that came, in order.
        requests: of the server to this client, in order; answered by `answers`, else with null.
        refusals: error responses without an id.
    """

    def __init__(self, process: asyncio.subprocess.Process | WarmProcess) -> None:
        self.process = process
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.notifications: list[Message] = []
        self.requests: list[Message] = []
        self.refusals: list[Message] = []
        self.answered: list[int | str] = []
        self._waiting: dict[int | str, asyncio.Future[Message]] = {}
        self._news = asyncio.Condition()
        self._last_id = 0
        self._reader = asyncio.create_task(self._read())

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def send_body(self, body: bytes) -> None:
        self.send_bytes(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def send(self, message: Any) -> None:
        self.send_body(json.dumps(message).encode())

    def notify(self, method: str, params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def ask(self, method: str, params: Any = None, *, id: int | str | None = None) -> int | str:
        """Sends a request and returns its id, to be given to `answer`."""
        if id is None:
            self._last_id += 1
            id = self._last_id
        self.expect(id)
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        return id

    def expect(self, id: int | str) -> None:
        """Waits for one answer with this id; `ask` does so by itself."""
        self._waiting[id] = asyncio.get_running_loop().create_future()

    async def answer(self, id: int | str) -> Any:
        """The result of a request. Raises LspError."""
        async with asyncio.timeout(SECONDS_MAX):
            message = await self._waiting[id]
        assert ("result" in message) != ("error" in message)
        if "error" in message:
            raise LspError(message["error"])
        return message["result"]

    async def request(self, method: str, params: Any = None) -> Any:
        return await self.answer(self.ask(method, params))

    async def initialize(
        self, dlm: Any = None, capabilities: Message | None = None, **params: Any
    ) -> Message:
        """Initializes the server; `dlm` holds our settings.

        Follow-ups, which begin after a rest, are off unless a test asks for them.
        """
        dlm = {"followUp": False, **dlm} if isinstance(dlm, dict) else dlm
        result = await self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": None,
                "capabilities": INLINE if capabilities is None else capabilities,
                "initializationOptions": None if dlm is None else {"dlm": dlm},
                **params,
            },
        )
        self.notify("initialized", {})
        return result

    async def greet(
        self, url: str, text: str = TEXT, capabilities: Message | None = None, **dlm: Any
    ) -> Message:
        """Initializes the server for the host at a URL, and opens the document URI."""
        result = await self.initialize({"engine": {"url": url}} | dlm, capabilities)
        self.open(URI, text)
        return result

    def open(self, uri: str, text: str, version: int = 1, language: str = "python") -> None:
        document = {"uri": uri, "languageId": language, "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})

    def change(self, uri: str, version: int, *changes: Message) -> None:
        document = {"uri": uri, "version": version}
        params = {"textDocument": document, "contentChanges": list(changes)}
        self.notify("textDocument/didChange", params)

    def insert(self, uri: str, version: int, line: int, character: int, text: str) -> None:
        self.change(uri, version, insertion(line, character, text))

    def ask_inline(
        self, uri: str, line: int, character: int, kind: int = AUTOMATIC, **params: Any
    ) -> int | str:
        context = {"triggerKind": kind} | params.pop("context", {})
        return self.ask(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": uri},
                "position": {"line": line, "character": character},
                "context": context,
                **params,
            },
        )

    async def inline(
        self, uri: str, line: int, character: int, kind: int = AUTOMATIC, **params: Any
    ) -> Any:
        return await self.answer(self.ask_inline(uri, line, character, kind, **params))

    async def seen(self, method: str, fits: Callable[[Any], bool] = lambda params: True) -> Any:
        """Waits for and returns the parameters of the first notification of this kind."""
        async with asyncio.timeout(SECONDS_MAX), self._news:
            while True:
                for message in self.notifications:
                    if message["method"] == method and fits(message["params"]):
                        return message["params"]
                await self._news.wait()

    async def asked(self, method: str) -> Any:
        """Waits for and returns the parameters of the server's first request of this kind."""
        async with asyncio.timeout(SECONDS_MAX), self._news:
            while True:
                for message in self.requests:
                    if message["method"] == method:
                        return message["params"]
                await self._news.wait()

    async def refused(self, count: int) -> list[Message]:
        """Returns the errors of the first responses without an id."""
        async with asyncio.timeout(SECONDS_MAX), self._news:
            await self._news.wait_for(lambda: len(self.refusals) >= count)
        return self.refusals

    def all_of(self, method: str) -> list[Any]:
        """Returns the parameters of all notifications of one kind so far."""
        return [m["params"] for m in self.notifications if m["method"] == method]

    async def round_trip(self) -> None:
        """Waits until the server has handled all earlier messages."""
        await self.request("workspace/executeCommand", {"command": "dlm.stats"})

    async def stats(self) -> Message:
        result = await self.request("workspace/executeCommand", {"command": "dlm.stats"})
        return result["counts"]

    async def leave(self) -> int:
        """Shuts the server down; returns the exit code."""
        await self.request("shutdown")
        self.notify("exit", None)
        return await self.wait()

    async def wait(self) -> int:
        """Waits for the process to end; returns its exit code."""
        async with asyncio.timeout(SECONDS_MAX):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reader.cancel()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while True:
            header = await self.process.stdout.readuntil(b"\r\n\r\n")
            assert header.startswith(b"Content-Length: "), f"stdout holds {header!r}"
            body = await self.process.stdout.readexactly(int(header.split()[1]))
            await self._take(json.loads(body))

    async def _take(self, message: Message) -> None:
        async with self._news:
            if "method" in message and "id" in message:
                self.requests.append(message)
                answer = self.answers.get(message["method"], lambda params: None)
                result = answer(message["params"])
                self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})
            elif "method" in message:
                self.notifications.append(message)
            elif message["id"] is None:
                self.refusals.append(message["error"])
            else:
                self.answered.append(message["id"])
                if (waiting := self._waiting.get(message["id"])) is not None:
                    waiting.set_result(message)  # This raises on a second answer.
            self._news.notify_all()


def insertion(line: int, character: int, text: str) -> Message:
    """A content change that inserts text."""
    place = {"line": line, "character": character}
    return {"range": {"start": place, "end": place}, "text": text}


@asynccontextmanager
async def lsp_client(folder: Path, *arguments: str, warm: bool = True) -> AsyncIterator[LspClient]:
    """A fresh server process whose own files, if any, lie below `folder`.

    Args:
        warm: whether its imports may be those of an earlier process (see `tests.helpers.warm`).
    """
    environment = os.environ | {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    environment.setdefault("XDG_RUNTIME_DIR", str(folder))
    arguments = arguments or ("--stdio",)
    with (folder / "stderr.txt").open("wb") as errors:
        if warm:
            process = await start_warm(arguments, environment, errors)
        else:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dlm_lsp", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment,
                limit=1 << 28,
            )
    client = LspClient(process)
    try:
        yield client
    finally:
        await client.close()


async def started(client: LspClient, host: ScriptedHost, **params: Any) -> tuple[int | str, Job]:
    """A request at the place where TEXT is completed, which the engine has accepted."""
    asking = client.ask_inline(URI, 1, 11, **params)
    job = await host.job()
    job.start()
    return asking, job
