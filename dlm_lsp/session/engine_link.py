"""A session's connection to the engine host, which it brings up, watches and replaces.

Owns the host client, the state of loading and the set of errors that the user has seen. Reports to
the editor through `Editor`. Knows neither documents nor LSP, nor how a host is started.
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
VISIT_SECONDS = 40.0  # A third of the time after which a host without clients ends.
# Codes of temporary errors. They change the status and go to the log, without a message box.
_HEALING = ("host_lost", "busy", "stopping", "loading")


class HostAccess(Protocol):
    """The part of `HostClient` that a session uses; tests replace it."""

    async def health(self) -> Health: ...
    async def ensure(self) -> None: ...
    def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]: ...
    async def shut_down(self) -> bool: ...
    async def close(self) -> None: ...


class EngineLink:
    """One engine host for one session. All calls run on one event loop."""

    def __init__(
        self, editor: Editor, make_host: Callable[[HostSettings], HostAccess] = HostClient
    ) -> None:
        self._editor = editor
        self._make_host = make_host
        self._settings: HostSettings | None = None
        self._host: HostAccess | None = None
        self._loading: asyncio.Task[None] | None = None
        self._visits: asyncio.Task[None] | None = None
        self._shown: set[str] = set()
        self._has_answered = False
        self.current = Status("loading", "The engine is not started yet.")

    @property
    def host(self) -> HostAccess:
        """The host to generate with; call `use` first."""
        assert self._host is not None
        return self._host

    @property
    def has_host(self) -> bool:
        """Whether there is a host to generate with."""
        return self._host is not None

    @property
    def is_ready(self) -> bool:
        """Whether the model was loaded at the host's last report."""
        return self._has_answered or self.current.state in ("ready", "busy")

    async def use(self, settings: HostSettings) -> None:
        """Switches to the host that the settings name and starts to bring it up."""
        if settings == self._settings:
            return
        loading, host = self._loading, self._host
        # There is no await in between, so that other requests find either the old or the new host.
        self._settings, self._host = settings, self._make_host(settings)
        self._shown.clear()
        self._loading, self._has_answered = None, False
        self.load()
        if self._visits is None:
            self._visits = asyncio.create_task(self._visit())
        await _let_go(loading, host)

    def load(self) -> None:
        """Brings the host up in the background, unless that is already running."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._bring_up())

    async def restart(self) -> None:
        """Restarts this machine's host; reconnects to a host that was started by hand."""
        assert self._settings is not None
        settings, host = self._settings, self.host
        self.tell(replace(self.current, state="loading", message="The engine restarts."))
        if settings.url is not None:
            self._settings = None
            await self.use(settings)
            return
        loading, self._loading, self._has_answered = self._loading, None, False
        await _let_go(loading, None)
        with contextlib.suppress(HostError):  # `use` meets and reports the same problem.
            await host.shut_down()
        self._shown.clear()
        self.load()

    async def close(self) -> None:
        """Disconnects from the host, which keeps serving others."""
        loading, host = self._loading, self._host
        self._loading = self._host = None
        if self._visits is not None:
            self._visits.cancel()
        await _let_go(loading, host)

    def tell(self, status: Status) -> None:
        """Makes `status` the current status and sends it to the editor."""
        if status != self.current:
            self.current = status
            self._editor.status(status)

    def failed(self, error: HostError) -> None:
        """Reports a host's error: each error once until the engine has answered again."""
        self._has_answered = False
        self.tell(replace(self.current, state="error", message=str(error), reason=error.message))
        if error.code in _HEALING:
            self._editor.log(str(error))
            self.load()
        elif str(error) not in self._shown:
            self._shown.add(str(error))
            self._editor.show_error(str(error))

    def worked(self) -> None:
        """Records that the engine answered; each error is then reported again."""
        self._shown.clear()
        self._has_answered = True
        if self.current.state not in ("ready", "busy"):
            self.load()  # This finds out which host answers.

    async def _visit(self) -> None:
        """Looks at the host now and then, as it ends soon after its last client has left."""
        while True:
            await asyncio.sleep(VISIT_SECONDS)
            if self._host is not None:
                await self._host.health()

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
        """Updates the status from the host's health after loading has ended, well or badly."""
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
