"""The client of the engine host: finds it, starts it, heals it, and streams completions from it.

Owns one HTTP session and what was learned about the host being up. Shared by the language server
and the command line. Knows neither documents nor LSP, and imports no torch; aiohttp (0.2 s) is
imported at the first call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dlm_lsp.client.answers import (
    LAST_EVENTS,
    Health,
    HostLost,
    read_events,
    read_health,
    read_refusal,
    to_error,
)
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import GenerateBody, HostEvent
from dlm_lsp.client.options import IDLE_SECONDS, ServeOptions
from dlm_lsp.client.paths import HostPaths, host_paths
from dlm_lsp.client.starter import Backoff, Starter
from dlm_lsp.version import PROTOCOL, VERSION
from engine.config import EngineSettings

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Health", "HostClient", "HostError", "HostSettings"]

_START_SECONDS_MAX = 30.0  # until the socket accepts; loading the model comes after that
_SILENCE_SECONDS_MAX = 300.0  # between two lines: a load and a long prefill on a slow machine


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Which host to use.

    Attributes:
        engine: what a host on this machine loads.
        url: of a host started by hand ("http://gpu-box:8123"); None means this machine's own.
        token: bearer token for `url`.
        idle_seconds: a host started from here ends after so long without a request; 0 means never.
        hint: how to get a real model, where the bundled one is used for want of one.
        problem: why there is no checkpoint to load; every use of a host raises it.
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    url: str | None = None
    token: str | None = None
    idle_seconds: float = IDLE_SECONDS
    hint: str | None = field(default=None, compare=False)
    problem: HostError | None = field(default=None, compare=False)


class HostClient:
    """Talks to one host; any number of requests at once, all on one event loop."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._starter = Starter(ServeOptions(settings.engine, settings.idle_seconds))
        self._backoff = Backoff()
        self._reaching = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._paths: HostPaths | None = None
        self._reached = False

    async def health(self) -> Health:
        """How the host is now. Starts nothing and raises nothing."""
        import aiohttp  # lazily: see the head of this file

        try:
            session = await self._open()
        except HostError as error:
            return Health("error", str(error), {"code": error.code, "remedy": error.remedy})
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with session.get("/health", timeout=timeout, allow_redirects=False) as response:
                return read_health(response.status, await response.read())
        except TimeoutError:
            return Health("error", f"The engine host at {self._where()} does not answer.")
        except aiohttp.ClientConnectorError as error:
            return Health("absent", f"No engine host at {self._where()}: {error.strerror}.")
        except (aiohttp.ClientError, OSError) as error:
            return Health("absent", f"No engine host answers at {self._where()}: {error}.")

    async def ensure(self) -> None:
        """Returns once a host accepts connections; starts one where none does.

        Cheap when the host was up at the last call. The model may still be loading afterwards:
        `generate` waits for it, `health` tells.

        Raises:
            HostError: no host can be reached or started, or it cannot load the checkpoint.
        """
        await self._open()
        if self._reached:
            return
        async with self._reaching:
            if not self._reached:
                try:
                    await self._reach()
                finally:
                    self._starter.settle()

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        """Streams one completion: started, drafts, then finished, stopped or error.

        A host that died is started again, once, as long as no event has come yet. Drafts that a
        newer one has already overtaken are left out. Close the generator (`aclosing`) to cancel
        the request in the engine.

        Raises:
            HostError: the request was refused, or the host cannot be reached, started or kept.
        """
        payload = body.model_dump_json(by_alias=True, exclude_none=True).encode()
        has_begun = False
        for is_last_try in (False, True):
            await self.ensure()
            try:
                async with aclosing(self._stream(payload)) as events:
                    async for event in events:
                        has_begun = True
                        if isinstance(event, LAST_EVENTS):
                            self._backoff.succeeded()
                        yield event
                return
            except HostLost as lost:
                self._reached = False
                if has_begun or is_last_try:
                    raise self._lost(lost) from None

    async def shut_down(self) -> bool:
        """Asks the host to end after the requests in flight; whether one was there to ask."""
        import aiohttp

        session = await self._open()
        self._reached = False
        try:
            async with session.post("/v1/shutdown", allow_redirects=False) as response:
                return response.status == 202
        except (aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        """Closes the connections, which cancels what is in flight. The host lives on."""
        self._starter.detach()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self) -> aiohttp.ClientSession:
        """The session to the host that the settings name now."""
        import aiohttp

        if (problem := self._settings.problem) is not None:
            raise HostError(problem.message, remedy=problem.remedy, code=problem.code)
        if self._settings.url is not None:
            if self._session is None:
                url, headers = _address(self._settings.url), _headers(self._settings.token)
                self._session = _session(aiohttp.TCPConnector(), url, headers)
            return self._session
        paths = host_paths(self._settings.engine)
        if self._session is None or paths != self._paths:
            # The checkpoint's files changed: another host serves the new ones.
            if self._session is not None:
                await self._session.close()
            self._paths, self._reached = paths, False
            self._backoff.succeeded()
            self._session = _session(aiohttp.UnixConnector(str(paths.socket)), "http://host", {})
        return self._session

    async def _reach(self) -> None:
        """Connects, or starts a host and waits until it accepts connections."""
        self._backoff.check(time.monotonic())
        give_up = time.monotonic() + _START_SECONDS_MAX
        pause = 0.02
        may_replace = self._settings.url is None
        while True:
            health = await self.health()
            if health.state in ("ready", "loading"):
                self._check_protocol(health)
                if not (may_replace and _is_older(health)):
                    self._reached = True
                    return
                may_replace = False
                await self.shut_down()
            if health.state == "error":
                raise self._failed(to_error(health))
            if self._settings.url is not None and health.state == "absent":
                remedy = "Check engine.url, and that `dlm-lsp serve` runs there."
                raise self._failed(HostError(health.message, remedy=remedy))
            if health.state == "absent":
                self._start()
            if time.monotonic() > give_up:
                raise self._failed(self._too_late())
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 1.5)

    def _check_protocol(self, health: Health) -> None:
        protocol = health.detail.get("protocol")
        if protocol != PROTOCOL:
            raise HostError(
                f"The engine host at {self._where()} speaks protocol {protocol}, "
                f"this client {PROTOCOL}.",
                remedy="Bring both to the same version of dlm-lsp.",
                code="protocol",
            )

    def _start(self) -> None:
        assert self._paths is not None
        try:
            self._starter.attempt(self._paths)
        except HostError as error:
            raise self._failed(error) from None

    def _failed(self, error: HostError) -> HostError:
        self._reached = False
        self._backoff.failed(error, time.monotonic())
        return error

    def _lost(self, lost: HostLost) -> HostError:
        error = HostError(
            f"The engine host ended in the middle of a request: {lost}.",
            remedy="It is started again at the next request."
            if self._paths is None
            else f"It is started again at the next request; see {self._paths.log}.",
            code="host_lost",
        )
        # One death heals at once; a host that dies at every request is given pauses.
        self._backoff.failed(error, time.monotonic(), free=1)
        return error

    def _too_late(self) -> HostError:
        return HostError(
            f"No engine host accepted connections within {_START_SECONDS_MAX:.0f} s.",
            remedy=f"See {self._paths and self._paths.log}; after an upgrade of dlm-lsp restart "
            "the editor.",
            code="start_failed",
        )

    def _where(self) -> str:
        return self._settings.url or str(self._paths and self._paths.socket)

    async def _stream(self, payload: bytes) -> AsyncGenerator[HostEvent, None]:
        import aiohttp

        session = await self._open()
        try:
            response = await session.post(
                "/v1/generate",
                data=payload,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,  # the text goes where the settings say
            )
        except (aiohttp.ClientError, OSError) as error:
            raise HostLost(str(error) or type(error).__name__) from None
        try:
            if response.status != 200:
                error = read_refusal(response.status, await response.read())
                raise self._failed(error) if error.code == "load_failed" else error
            async with aclosing(read_events(response.content)) as events:
                async for event in events:
                    yield event
        except (aiohttp.ClientError, OSError) as error:
            raise HostLost(str(error) or type(error).__name__) from None
        finally:
            response.close()  # before the last event this cancels the request in the engine


def _session(
    connector: aiohttp.BaseConnector, base_url: str, headers: dict[str, str]
) -> aiohttp.ClientSession:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_SECONDS_MAX)
    return aiohttp.ClientSession(
        base_url, connector=connector, headers=headers, timeout=timeout, trust_env=False
    )


def _address(url: str) -> str:
    """Scheme, host and port of a host's URL. Raises HostError for anything else."""
    try:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise HostError(  # which does not repeat the secret
                "engine.url holds a user name or a password.",
                remedy="Take it out, and set engine.token to the host's token.",
                code="option",
            )
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise HostError(
            f"engine.url is {url!r}.", remedy="Use one like http://gpu-box:8123.", code="option"
        )
    return url.rstrip("/")


def _headers(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    if not all("!" <= character <= "~" for character in token):
        raise HostError(
            "engine.token cannot be sent in a header.",
            remedy="Use letters, digits and ASCII signs without spaces.",
            code="option",
        )
    return {"Authorization": f"Bearer {token}"}


def _is_older(health: Health) -> bool:
    """Whether a host is of an earlier release than this client, which then replaces it."""
    return _release(str(health.detail.get("version", ""))) < _release(VERSION)


def _release(version: str) -> tuple[int, ...]:
    """ "0.10.2" as (0, 10, 2), so that releases compare as numbers."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())
