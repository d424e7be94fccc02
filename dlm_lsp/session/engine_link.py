"""The engine host as one session sees it: brought up in the background, watched, replaced.

Owns the host client, the state of loading, and which of the host's errors the user has seen. Tells
the editor through `Editor`. Knows neither documents nor LSP, and nothing of how a host is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Protocol

from dlm_lsp.client.answers import Health
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import GenerateBody, HostEvent
from dlm_lsp.session.requests import Editor, Status

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
# Codes of errors that heal by themselves: a status and a line in the log, no message box.
_HEALING = ("host_lost", "busy", "stopping", "loading")


class HostAccess(Protocol):
    """What is used of `HostClient`; tests stand in for it."""

    async def health(self) -> Health: ...
    async def ensure(self) -> None: ...
    def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]: ...
    async def shut_down(self) -> bool: ...
    async def close(self) -> None: ...


class EngineLink:
    """One engine host for one session. All on one event loop."""

    def __init__(
        self, editor: Editor, make_host: Callable[[HostSettings], HostAccess] = HostClient
    ) -> None:
        self._editor = editor
        self._make_host = make_host
        self._settings: HostSettings | None = None
        self._host: HostAccess | None = None
        self._loading: asyncio.Task[None] | None = None
        self._shown: set[str] = set()
        self._has_answered = False
        self.current = Status("loading", "The engine is not started yet.")

    @property
    def host(self) -> HostAccess:
        """The host to generate with; `use` must have been called."""
        assert self._host is not None
        return self._host

    @property
    def is_ready(self) -> bool:
        """Whether the model was loaded when last heard of."""
        return self._has_answered or self.current.state in ("ready", "busy")

    async def use(self, settings: HostSettings) -> None:
        """Turns to the host that these settings name, and begins to bring it up."""
        if settings == self._settings:
            return
        loading, host = self._loading, self._host
        # Without a pause in between: other requests find the one host or the other.
        self._settings, self._host = settings, self._make_host(settings)
        self._shown.clear()
        self._loading, self._has_answered = None, False
        self.load()
        await _let_go(loading, host)

    def load(self) -> None:
        """Brings the host up in the background, unless that is already going on."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._bring_up())

    async def restart(self) -> None:
        """Starts this machine's host anew; to one that was started by hand, connects anew."""
        assert self._settings is not None
        settings, host = self._settings, self.host
        self.tell(replace(self.current, state="loading", message="The engine restarts."))
        if settings.url is not None:
            self._settings = None
            await self.use(settings)
            return
        loading, self._loading, self._has_answered = self._loading, None, False
        await _let_go(loading, None)
        with contextlib.suppress(HostError):  # bringing it up meets the same problem, and tells it
            await host.shut_down()
        self._shown.clear()
        self.load()

    async def close(self) -> None:
        """Lets go of the host, which lives on for others."""
        loading, host = self._loading, self._host
        self._loading = self._host = None
        await _let_go(loading, host)

    def tell(self, status: Status) -> None:
        """Makes a status the current one."""
        if status != self.current:
            self.current = status
            self._editor.status(status)

    def failed(self, error: HostError) -> None:
        """Reports a host's error: each one once, until something worked again."""
        self._has_answered = False
        self.tell(replace(self.current, state="error", message=str(error), reason=error.message))
        if error.code in _HEALING:
            self._editor.log(str(error))
            self.load()
        elif str(error) not in self._shown:
            self._shown.add(str(error))
            self._editor.show_error(str(error))

    def worked(self) -> None:
        """Notes that the engine answered; errors are new again after this."""
        self._shown.clear()
        self._has_answered = True
        if self.current.state not in ("ready", "busy"):
            self.load()  # which soon finds out what it is that answers

    async def _bring_up(self) -> None:
        self.tell(replace(self.current, state="loading", message="The engine is being started."))
        self._editor.loading("starting the engine")
        try:
            await self.host.ensure()
            health = await self.host.health()
            while health.state == "loading":
                self.tell(replace(self.current, message=health.message))
                self._editor.loading(health.message)
                await asyncio.sleep(_POLL_SECONDS)
                health = await self.host.health()
            self._settle(health)
        except HostError as error:
            self.failed(error)
        finally:
            self._editor.loading(None)

    def _settle(self, health: Health) -> None:
        """Takes over what the host says of itself once it has loaded, or why it has not."""
        if health.state != "ready":
            detail = health.detail
            raise HostError(
                health.message,
                code="host_lost" if health.state == "absent" else str(detail.get("code")),
            )
        detail = health.detail
        model, device = detail.get("model", detail.get("checkpoint")), detail.get("device")
        hint = self._settings.hint if self._settings is not None else None
        self.tell(
            replace(
                self.current,
                state="ready",
                message=f"{health.message} {hint}" if hint else health.message,
                reason=None,
                model=str(model) if model else None,
                device=str(device) if device else None,
            )
        )


async def _let_go(loading: asyncio.Task[None] | None, host: HostAccess | None) -> None:
    if loading is not None:
        loading.cancel()
        await asyncio.wait([loading])
    if host is not None:
        await host.close()
