"""The client of the engine host: streams completions and restarts a host that has died.

The language server and the command line share it. Knows neither documents nor LSP. `bring_up.py`
reaches and starts the host; `connection.py` owns the connection.
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
    """A client of one host for any number of concurrent requests on one event loop."""

    def __init__(self, settings: HostSettings) -> None:
        self._bring_up = BringUp(settings)
        self._connection = self._bring_up.connection

    async def health(self) -> Health:
        """Returns the host's current health. Starts nothing and raises nothing."""
        return await self._connection.health()

    async def ensure(self) -> None:
        """Waits until a host accepts connections; starts one if none does.

        This is cheap if the host was up at the last call. The model may still be loading
        afterwards: `generate` waits for it, and `health` reports it.

        Raises:
            HostError: no host can be reached or started, or it cannot load the checkpoint.
        """
        await self._bring_up.ensure()

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        """Streams one completion: started, drafts, then finished, stopped or error.

        A host that dies before the first event is restarted once. Outdated drafts are left out.
        Close the generator (`aclosing`) to cancel the request in the engine.

        Raises:
            HostError: the host refused the request, was lost, or cannot be reached or started.
        """
        payload = body.model_dump_json(by_alias=True, exclude_none=True).encode()
        has_begun = False
        for is_last_try in (False, True):
            await self.ensure()
            number = self._bring_up.number
            try:
                async with aclosing(self._connection.stream(payload)) as events:
                    async for event in events:
                        has_begun = True
                        if isinstance(event, LAST_EVENTS):
                            self._bring_up.succeeded()
                        yield event
                return
            except HostLost as lost:
                self._bring_up.missed(number)
                if has_begun or is_last_try:
                    raise self._bring_up.lost(lost, number) from None
            except HostError as error:
                if error.code == "load_failed":
                    self._bring_up.failed(error)
                raise

    async def shut_down(self) -> bool:
        """Asks the host to end after the requests in flight; returns whether there was one."""
        return await self._bring_up.shut_down()

    async def close(self) -> None:
        """Closes the connections, which cancels requests in flight. The host keeps running."""
        self._bring_up.detach()
        await self._connection.close()
