"""The command `dlm.pullModel`, with which the user downloads a model from the editor.

Runs `dlm-lsp model pull --json` as a process, so that hashing and a hanging network never delay
keystrokes and the pull can be ended at any time. Owns that process and the progress that the
editor shows. Runs one pull at a time; the store does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

if TYPE_CHECKING:
    from dlm_lsp.lsp.server import Server

logger = logging.getLogger(__name__)

TITLE = "Pulling a model"
_LINE_BYTES_MAX = 1 << 20
_END_SECONDS_MAX = 10.0  # The longest wait for a process that was asked to end.
_CANCELLED = "cancelled"

Token = str | int | None
Value = types.WorkDoneProgressBegin | types.WorkDoneProgressReport | types.WorkDoneProgressEnd


class Pulls:
    """The pulls of one server. All methods run on one event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._process: asyncio.subprocess.Process | None = None
        self._is_running = False
        self._is_cancelled = False
        self._token: Token = None
        self._text = ""
        self._percentage = 0

    async def run(self, name: str | None, token: Token) -> dict[str, object]:
        """Pulls a model and switches to it; returns the command's answer.

        Args:
            name: the catalogue's name; None means the best model that this machine runs well.
            token: the request's progress token; None creates one.
        """
        if self._is_running:
            reason = f"A model is being pulled already: {self._text or 'it begins'}."
            return {"pulled": False, "running": True, "reason": reason}
        self._is_running, self._is_cancelled, self._text = True, False, ""
        self._percentage = 0
        has_begun = False
        try:
            self._token = token if token is not None else await self._new_token()
            begin = types.WorkDoneProgressBegin(title=TITLE, cancellable=True, percentage=0)
            self._notify(begin)
            has_begun = True
            last = await self._drive(name)
        finally:
            await self._end_process()
            if has_begun:
                self._notify(types.WorkDoneProgressEnd(message=self._text))
            self._is_running, had_progress, self._token = False, self._token is not None, None
        return await self._conclude(last, had_progress)

    def cancel(self, token: Token) -> bool:
        """Ends the pull with this token, keeping its downloaded bytes; returns whether one ran."""
        if not self._is_running or token is None or token != self._token:
            return False
        self._is_cancelled = True
        self._terminate()
        return True

    async def close(self) -> None:
        """Ends a running pull."""
        self._is_cancelled = True
        await self._end_process()

    async def _drive(self, name: str | None) -> dict[str, Any]:
        """Waits for the process to end; returns its last event, "done" or "error"."""
        command = [sys.executable, "-P", "-m", "dlm_lsp", "model", "pull", "--json", "--yes"]
        last: dict[str, Any] = {"event": "error", "code": "failed", "message": ""}
        self._process = await asyncio.create_subprocess_exec(
            *command,
            *(() if name is None else (name,)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        if self._is_cancelled:
            self._terminate()
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # Lines that are no events are ignored.
                event = json.loads(line)
                if event["event"] in ("done", "error"):
                    last = event
                else:
                    self._show(event)
        code = await self._process.wait()
        if self._is_cancelled and last["event"] == "error":
            last |= {"code": _CANCELLED, "message": last["message"] or "Cancelled."}
        elif last["event"] == "error" and not last["message"]:
            last["message"] = f"`dlm-lsp model pull` ended with status {code}; see the log."
        self._text = f"{last['name']} is here." if last["event"] == "done" else last["message"]
        return last

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "chosen":
            self._text = f"{event['name']}: {event['reason']}"
        elif event["note"]:
            logger.info("pull: %s", event["note"])
            return
        else:
            self._text = f"{event['name']}: {event['text']}"
            percentage = min(100, event["bytes"] * 100 // max(1, event["bytesTotal"]))
            # The percentage may only rise, although an abandoned source's bytes are dropped.
            self._percentage = max(self._percentage, percentage)
        report = types.WorkDoneProgressReport(message=self._text, percentage=self._percentage)
        self._notify(report)

    async def _conclude(self, last: dict[str, Any], had_progress: bool) -> dict[str, object]:
        if last["event"] == "done":
            await self._server.session.look_again()
            if not had_progress:
                self._message(types.MessageType.Info, f"{last['name']} is here.")
            return {"pulled": True, "name": last["name"], "path": last["path"]}
        reason = " ".join(filter(None, (last["message"], last.get("remedy"))))
        if last["code"] != _CANCELLED:
            self._message(types.MessageType.Error, reason)
        return {"pulled": False, "code": last["code"], "reason": reason}

    async def _new_token(self) -> Token:
        """Returns a token for the editor's progress display, or None if it has none."""
        window = self._server.client_capabilities.window
        if window is None or not window.work_done_progress:
            return None
        token = f"dlm-pull-{next(self._numbers)}"
        create = types.WorkDoneProgressCreateParams(token)
        try:
            await self._server.protocol.send_request_async(
                types.WINDOW_WORK_DONE_PROGRESS_CREATE, create
            )
        except JsonRpcException:
            return None
        return token

    def _notify(self, value: Value) -> None:
        if self._token is not None:
            params = types.ProgressParams(token=self._token, value=value)
            self._server.protocol.notify(types.PROGRESS, params)

    def _message(self, kind: types.MessageType, text: str) -> None:
        self._server.window_show_message(types.ShowMessageParams(kind, text))

    def _terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _end_process(self) -> None:
        """Asks the process to end, so that the pull can be resumed, and kills it if necessary."""
        process = self._process
        if process is None:
            return
        self._terminate()
        try:
            async with asyncio.timeout(_END_SECONDS_MAX):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._process is process:
            self._process = None
