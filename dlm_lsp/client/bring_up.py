"""Brings an engine host up: finds it, starts it, replaces an older one, and pauses after failures.

Remembers whether the host is up. Knows neither requests nor their events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from dlm_lsp.client.answers import Health, HostLost, to_error
from dlm_lsp.client.connection import HostConnection
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.options import ServeOptions
from dlm_lsp.client.paths import host_paths
from dlm_lsp.client.starter import Backoff, Starter
from dlm_lsp.version import PROTOCOL, VERSION

_START_SECONDS_MAX = 30.0  # Until the socket accepts connections, before loading.


class BringUp:
    """Brings up the host of one client.

    Attributes:
        connection: the connection to that host.
        is_reached: whether the host accepted connections at the last attempt.
        number: how often a host was reached, which tells requests on a host that has died from
            those on the one after it.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.connection = HostConnection(settings, self._forget)
        self.is_reached = False
        self.number = 0
        self._last_lost = 0  # The number of the host whose death was recorded last.
        self._settings = settings
        self._is_elsewhere = settings.url is not None
        self._is_new = True
        self._starter = Starter(ServeOptions(settings.engine, settings.idle_seconds))
        self._backoff = Backoff()
        self._reaching = asyncio.Lock()

    async def ensure(self) -> None:
        """Waits until a host accepts connections; starts one if none does.

        Raises:
            HostError: no host can be reached or started, or it cannot load the checkpoint.
        """
        if self._is_new:
            self._is_new = False
            self._start_early()
        await self.connection.open(look=not self.is_reached)
        if self.is_reached:
            return
        async with self._reaching:
            if not self.is_reached:
                try:
                    await self._reach()
                finally:
                    self._starter.settle()

    def detach(self) -> None:
        """Detaches from the processes that were started, which keep running."""
        self._starter.detach()

    def succeeded(self) -> None:
        """Records that the host answered a request completely."""
        self._backoff.succeeded()

    def failed(self, error: HostError) -> HostError:
        """Records a failure, after which there is a pause; returns the error."""
        self.is_reached = False
        self._backoff.failed(error, time.monotonic())
        return error

    def missed(self, number: int) -> None:
        """Notes that the host of this number does not answer any more."""
        if number == self.number:
            self.is_reached = False

    def lost(self, lost: HostLost, number: int) -> HostError:
        """Records that the host of this number ended during a request; returns the error for the
        user. All requests on a host die with it, which is one failure and no reason to wait."""
        paths = self.connection.paths
        error = HostError(
            f"The engine host ended in the middle of a request: {lost}.",
            remedy="It is started again at the next request."
            if paths is None
            else f"It is started again at the next request; see {paths.log}.",
            code="host_lost",
        )
        # The host is restarted at once the first time, and after pauses if it ends repeatedly.
        if number > self._last_lost:
            self._last_lost = number
            self._backoff.failed(error, time.monotonic(), free=1)
        return error

    async def shut_down(self) -> bool:
        """Asks the host to end after the requests in flight; returns whether there was one."""
        self.is_reached = False
        return await self.connection.shut_down()

    def _forget(self) -> None:
        """Resets the state for another host, of which nothing is known."""
        self.is_reached = False
        self._backoff.succeeded()

    def _start_early(self) -> None:
        """Starts this machine's host before the first connection is made.

        What a connection needs takes long to import, and a host that starts does that meanwhile.
        A failure is met again, and reported, by `_reach`.
        """
        if self._is_elsewhere or self._settings.problem is not None:
            return
        with contextlib.suppress(HostError):
            self._starter.attempt(host_paths(self._settings.engine))

    async def _reach(self) -> None:
        """Connects, or starts a host and waits until it accepts connections."""
        self._backoff.check(time.monotonic())
        give_up = time.monotonic() + _START_SECONDS_MAX
        pause = 0.02
        may_replace = not self._is_elsewhere
        while True:
            health = await self.connection.health()
            if health.state in ("ready", "loading"):
                self._check_protocol(health)
                if not (may_replace and _is_older(health)):
                    self.is_reached = True
                    self.number += 1
                    return
                may_replace = False
                await self.shut_down()
            if health.state == "error":
                raise self.failed(to_error(health))
            if health.state == "absent":
                self._start(health)
            if time.monotonic() > give_up:
                raise self.failed(self._too_late())
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 1.5)

    def _check_protocol(self, health: Health) -> None:
        protocol = health.detail.get("protocol")
        if protocol != PROTOCOL:
            raise HostError(
                f"The engine host at {self.connection.where} speaks protocol {protocol}, "
                f"this client {PROTOCOL}.",
                remedy="Bring both to the same version of dlm-lsp.",
                code="protocol",
            )

    def _start(self, health: Health) -> None:
        if self._is_elsewhere:
            remedy = "Check engine.url, and that `dlm-lsp serve` runs there."
            raise self.failed(HostError(health.message, remedy=remedy))
        paths = self.connection.paths
        assert paths is not None
        try:
            self._starter.attempt(paths)
        except HostError as error:
            raise self.failed(error) from None

    def _too_late(self) -> HostError:
        paths = self.connection.paths
        return HostError(
            f"No engine host accepted connections within {_START_SECONDS_MAX:.0f} s.",
            remedy=f"See {paths and paths.log}; after an upgrade of dlm-lsp restart the editor.",
            code="start_failed",
        )


def _is_older(health: Health) -> bool:
    """Returns whether a host's release is older than the client's, which then replaces it."""
    return _release(str(health.detail.get("version", ""))) < _release(VERSION)


def _release(version: str) -> tuple[int, ...]:
    """Returns "0.10.2" as (0, 10, 2), so that releases compare as numbers."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())
