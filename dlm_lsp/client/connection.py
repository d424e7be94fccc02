"""The HTTP connection to the engine host that the settings name.

Owns one HTTP session and the host's address. Starts nothing, and knows neither documents nor LSP.
Imports no torch; aiohttp (0.2 s) is imported at the first call.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from dlm_lsp.client.answers import Health, HostLost, read_events, read_health, read_refusal
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import HostSettings, address_of, headers_of
from dlm_lsp.client.messages import HostEvent
from dlm_lsp.client.paths import HostPaths, host_paths

if TYPE_CHECKING:
    import aiohttp

_SILENCE_SECONDS_MAX = 300.0  # Between two lines: a slow load and a long prefill.
# Deriving a host's paths takes twenty system calls, too many for each keystroke. A host whose
# checkpoint has changed ends within seconds, and the client looks again for a lost host.
_LOOK_SECONDS = 2.0


class HostConnection:
    """A connection to one host for any number of concurrent requests on one event loop.

    Args:
        on_moved: called when the client switches to another host because the checkpoint's files
            have changed.

    Attributes:
        paths: the paths of this machine's host after the first look-up; None for a host's URL.
    """

    def __init__(self, settings: HostSettings, on_moved: Callable[[], None]) -> None:
        self.paths: HostPaths | None = None
        self._settings = settings
        self._on_moved = on_moved
        self._session: aiohttp.ClientSession | None = None
        self._looked_at = float("-inf")  # time.monotonic()

    @property
    def where(self) -> str:
        """The host's address for messages."""
        return self._settings.url or str(self.paths and self.paths.socket)

    async def open(self, *, look: bool) -> aiohttp.ClientSession:
        """Returns the HTTP session to the host of the settings.

        Args:
            look: whether to look up the host even if that was done a moment ago.

        Raises:
            HostError: the settings name no usable host.
        """
        import aiohttp  # Imported late, as the module's docstring says.

        if (problem := self._settings.problem) is not None:
            raise HostError(problem.message, remedy=problem.remedy, code=problem.code)
        if self._settings.url is not None:
            if self._session is None:
                url, headers = address_of(self._settings.url), headers_of(self._settings.token)
                self._session = _session(aiohttp.TCPConnector(), url, headers)
            return self._session
        if self._session is None or look or time.monotonic() - self._looked_at > _LOOK_SECONDS:
            await self._look()
        assert self._session is not None
        return self._session

    async def health(self) -> Health:
        """Returns the host's current health. Starts nothing and raises nothing."""
        import aiohttp

        try:
            session = await self.open(look=True)
        except HostError as error:
            return Health("error", str(error), {"code": error.code, "remedy": error.remedy})
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with session.get("/health", timeout=timeout, allow_redirects=False) as response:
                return read_health(response.status, await response.read())
        except TimeoutError:
            return Health("error", f"The engine host at {self.where} does not answer.")
        except aiohttp.ClientConnectorError as error:
            return Health("absent", f"No engine host at {self.where}: {error.strerror}.")
        except (aiohttp.ClientError, OSError) as error:
            return Health("absent", f"No engine host answers at {self.where}: {error}.")

    async def stream(self, payload: bytes) -> AsyncGenerator[HostEvent, None]:
        """Streams one completion; closing the generator cancels it in the engine.

        Raises:
            HostLost: the connection could not be made or broke.
            HostError: the host refuses the request.
        """
        import aiohttp

        session = await self.open(look=False)
        try:
            response = await session.post(
                "/v1/generate",
                data=payload,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,  # The user's text goes only to the settings' address.
            )
        except (aiohttp.ClientError, OSError) as error:
            raise HostLost(str(error) or type(error).__name__) from None
        try:
            if response.status != 200:
                raise read_refusal(response.status, await response.read())
            async with aclosing(read_events(response.content)) as events:
                async for event in events:
                    yield event
        except (aiohttp.ClientError, OSError) as error:
            raise HostLost(str(error) or type(error).__name__) from None
        finally:
            response.close()  # Before the last event, this cancels the request.

    async def shut_down(self) -> bool:
        """Asks the host to end after the requests in flight; returns whether there was one."""
        import aiohttp

        session = await self.open(look=True)
        try:
            async with session.post("/v1/shutdown", allow_redirects=False) as response:
                return response.status == 202
        except (aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        """Closes the session, which cancels what is in flight."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _look(self) -> None:
        """Looks up the host and switches to it."""
        import aiohttp

        paths = host_paths(self._settings.engine)
        self._looked_at = time.monotonic()
        if self._session is not None and paths == self.paths:
            return
        await self.close()
        self.paths = paths
        self._on_moved()
        self._session = _session(aiohttp.UnixConnector(str(paths.socket)), "http://host", {})


def _session(
    connector: aiohttp.BaseConnector, base_url: str, headers: dict[str, str]
) -> aiohttp.ClientSession:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_SECONDS_MAX)
    return aiohttp.ClientSession(
        base_url, connector=connector, headers=headers, timeout=timeout, trust_env=False
    )
