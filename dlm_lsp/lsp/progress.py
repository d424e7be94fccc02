"""The progress bar that an editor shows while the engine loads.

Owns one work-done token at a time, which is created, begun, reported on and ended in this order.
Used only if the client declares support.
"""

from __future__ import annotations

import asyncio
import itertools

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from dlm_lsp.lsp.protocol import StrictProtocol

TITLE = "dlm-lsp"

Value = types.WorkDoneProgressBegin | types.WorkDoneProgressReport | types.WorkDoneProgressEnd


class LoadProgress:
    """Sends `$/progress` for loading. All methods run on one event loop."""

    def __init__(self, protocol: StrictProtocol) -> None:
        self._protocol = protocol
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[str | None] = asyncio.Queue()

    def tell(self, message: str | None) -> None:
        """Begins or updates the progress with this message; None ends the progress."""
        self._messages.put_nowait(message)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._messages.empty():
            first = await self._messages.get()
            if first is not None:
                await self._show(first)

    async def _show(self, first: str) -> None:
        """Sends one progress, from its first message to its end."""
        token = f"dlm-loading-{next(self._numbers)}"
        create = types.WorkDoneProgressCreateParams(token)
        is_shown = True
        try:
            await self._protocol.send_request_async(types.WINDOW_WORK_DONE_PROGRESS_CREATE, create)
        except JsonRpcException:
            is_shown = False
        if is_shown:
            self._notify(token, types.WorkDoneProgressBegin(title=TITLE, message=first))
        last = first
        while (message := await self._messages.get()) is not None:
            if is_shown and message != last:
                self._notify(token, types.WorkDoneProgressReport(message=message))
                last = message
        if is_shown:
            self._notify(token, types.WorkDoneProgressEnd())

    def _notify(self, token: str, value: Value) -> None:
        self._protocol.notify(types.PROGRESS, types.ProgressParams(token=token, value=value))
