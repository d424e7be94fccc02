"""A simulated editor with a real language server process, which it asks after every key.

Owns the server process and the open document. The next key comes when the request before it is
answered, so that nothing is measured but the time of one request.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from dlm_lsp.evaluation.latency.answers import Ours
from dlm_lsp.evaluation.latency.keys import Key, Visit
from dlm_lsp.lsp.lsp_client import LspClient, LspClientError
from dlm_lsp.session.document import Document, Encoding
from engine.errors import EngineFailure

_AUTOMATIC = 2
_REST_SECONDS_MAX = 120.0
_POLL_SECONDS = 0.05


class Editor:
    """One editor; `start` before anything else, and `close` at the end."""

    def __init__(self) -> None:
        self._client = LspClient(self._hear)
        self._document = Document("", "", 0, "")
        self._token = 0
        self._began = 0.0
        self._first: float | None = None
        self._cached = 0  # Answers without the engine, by the server's count.
        self._problems: list[str] = []

    async def start(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Starts the server. Raises EngineFailure if that fails.

        Args:
            settings: the settings of the client, with drafts.
        """
        command = [sys.executable, "-P", "-m", "dlm_lsp", "--stdio"]
        params = {
            "processId": os.getpid(),
            "rootUri": None,
            "capabilities": {
                "general": {"positionEncodings": ["utf-32"]},
                "textDocument": {"inlineCompletion": {}},
            },
            "initializationOptions": {"dlm": {**settings, "drafts": True, "delay": 0}},
        }
        try:
            await self._client.start(command, {**os.environ, **environment})
            await self._client.request("initialize", params)
        except (OSError, LspClientError) as error:
            raise EngineFailure(f"The language server did not start: {error}") from None
        self._client.notify("initialized", {})

    def open(self, visit: Visit) -> None:
        """Opens a visit's file."""
        uri = f"file:///typing/{visit.name}"
        self._document = Document(uri, "python", 1, visit.text)
        item = {"uri": uri, "languageId": "python", "version": 1, "text": visit.text}
        self._client.notify("textDocument/didOpen", {"textDocument": item})

    async def close_file(self) -> None:
        """Closes the file, which ends all that the server does for it."""
        self._client.notify("textDocument/didClose", {"textDocument": self._identifier})
        await self._stats()  # Messages are handled in order.

    async def rest(self, cursor: int) -> None:
        """Rests at an offset until the server has prepared for a request there."""
        before = await self._counted("warmed")
        position = self._position(cursor)
        self._client.notify("dlm/warm", {"textDocument": self._identifier, "position": position})
        async with asyncio.timeout(_REST_SECONDS_MAX):
            while await self._counted("warmed") == before:
                await asyncio.sleep(_POLL_SECONDS)

    async def type(self, key: Key) -> Ours:
        """Types a key and asks there. Raises EngineFailure if the server fails."""
        splice, version = key.splice, self._document.version + 1
        place = {
            "start": self._position(splice.start),
            "end": self._position(splice.start + splice.removed),
        }
        self._document = Document(self._document.uri, "python", version, key.text)
        began = time.perf_counter()
        self._client.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": self._document.uri, "version": version},
                "contentChanges": [{"range": place, "text": splice.text}],
            },
        )
        return await self.ask(key.cursor, began)

    async def ask(self, cursor: int, began: float | None = None) -> Ours:
        """Asks for a suggestion at an offset, as an editor does while its user types.

        Args:
            began: the time of `time.perf_counter()` when the key was pressed; None means now.

        Raises:
            EngineFailure: the server fails, or does not answer.
        """
        cached = self._cached
        self._token += 1
        self._first = None
        params = {
            "textDocument": self._identifier,
            "position": self._position(cursor),
            "context": {"triggerKind": _AUTOMATIC},
            "workDoneToken": self._token,
        }
        self._began = time.perf_counter() if began is None else began
        try:
            items = await self._client.request("textDocument/inlineCompletion", params)
        except LspClientError as error:
            raise EngineFailure(str(error)) from None
        final = self._milliseconds()
        if items is None or self._problems:
            raise EngineFailure("; ".join(self._problems) or "A request was not answered.")
        stats = await self._stats()
        self._cached = stats["counts"].get("from_cache", 0)
        usage = None if self._cached > cached else stats["last"]
        recomputed = usage and usage["promptTokens"] - usage["cachedTokens"]
        # A draft that shaping has taken back in the end was shown nevertheless, but is no text.
        first = (self._first or final) if items else None
        return Ours(first, final, recomputed)

    async def close(self) -> None:
        """Ends the server."""
        await self._client.close()

    @property
    def _identifier(self) -> dict[str, str]:
        return {"uri": self._document.uri}

    def _position(self, offset: int) -> dict[str, int]:
        position = self._document.position_at(offset, Encoding.UTF32)
        return {"line": position.line, "character": position.character}

    def _milliseconds(self) -> float:
        return round((time.perf_counter() - self._began) * 1000, 2)

    async def _stats(self) -> dict[str, Any]:
        return await self._client.request("workspace/executeCommand", {"command": "dlm.stats"})

    async def _counted(self, name: str) -> int:
        return (await self._stats())["counts"].get(name, 0)

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        is_first = method == "dlm/draft" and params["token"] == self._token and self._first is None
        if is_first and (params["committed"] or params["draft"]):
            self._first = self._milliseconds()
        if method == "window/showMessage" and params["type"] == 1:
            self._problems.append(params["message"])
