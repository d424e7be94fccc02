"""The client of the engine host: streams completions from it, and heals it where it has died.

Shared by the language server and the command line. Knows neither documents nor LSP; how a host is
reached is the work of `bring_up.py`, what goes over the connection that of `connection.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from dlm_lsp.client.answers import LAST_EVENTS, Health, HostLost
from dlm_lsp.client.bring_up import BringUp
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import GenerateBody, HostEvent


class HostClient:
    """Talks to one host; any number of requests at once, all on one event loop."""

    def __init__(self, settings: HostSettings) -> None:
        self._bring_up = BringUp(settings)
        self._connection = self._bring_up.connection

    async def health(self) -> Health:
        """How the host is now. Starts nothing and raises nothing."""
        return await self._connection.health()

    async def ensure(self) -> None:
        """Returns once a host accepts connections; starts one where none does.

        Cheap when the host was up at the last call. The model may still be loading afterwards:
        `generate` waits for it, `health` tells.

        Raises:
            HostError: no host can be reached or started, or it cannot load the checkpoint.
        """
        await self._bring_up.ensure()

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
                async with aclosing(self._connection.stream(payload)) as events:
                    async for event in events:
                        has_begun = True
                        if isinstance(event, LAST_EVENTS):
                            self._bring_up.succeeded()
                        yield event
                return
            except HostLost as lost:
                self._bring_up.is_reached = False
                if has_begun or is_last_try:
                    raise self._bring_up.lost(lost) from None
            except HostError as error:
                if error.code == "load_failed":
                    self._bring_up.failed(error)
                raise

    async def shut_down(self) -> bool:
        """Asks the host to end after the requests in flight; whether one was there to ask."""
        return await self._bring_up.shut_down()

    async def close(self) -> None:
        """Closes the connections, which cancels what is in flight. The host lives on."""
        self._bring_up.detach()
        await self._connection.close()
