"""An engine host over HTTP that writes random text, breaks off, and looks at what it gets.

Stands where a real one would. What of a request must not be there is the campaign's to say.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from aiohttp import web

from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    to_line,
)
from tests.dlm_lsp.campaign.texts import random_pieces
from tests.dlm_lsp.scripted_host import USAGE, ScriptedHost

LOST_SHARE, REFUSED_SHARE = 0.02, 0.01


class RandomHost(ScriptedHost):
    """A host for one campaign.

    Attributes:
        look: called with every request.
        num_open: streams that are open.
    """

    def __init__(self, rng: random.Random, look: Callable[[GenerateBody], None]) -> None:
        super().__init__()
        self.look = look
        self.counts: Counter[str] = Counter()
        self.num_open = 0
        self._rng = rng

    async def on_generate(self, request: web.Request) -> web.StreamResponse:
        body = GenerateBody.model_validate_json(await request.read())
        self.look(body)
        self.counts["prompts warmed" if body.limits.tokens_max == 0 else "requests sent"] += 1
        self.num_open += 1
        try:
            response = web.StreamResponse()
            await response.prepare(request)
            for event in self._events(body):
                if self._rng.random() < LOST_SHARE:
                    self.counts["connections broken"] += 1
                    assert request.transport is not None
                    request.transport.abort()
                    break
                await response.write(to_line(event))
                await asyncio.sleep(self._rng.choice((0, 0, 0, 0.002)))
            return response
        except (asyncio.CancelledError, ConnectionError):
            self.counts["cancelled"] += 1
            raise
        finally:
            self.num_open -= 1

    def _events(self, body: GenerateBody) -> list[HostEvent]:
        marks = Marks(prefix_start=None, far_suffix_start=None)
        events: list[HostEvent] = [StartedEvent(mode="ar", marks=marks, usage=USAGE)]
        if self._rng.random() < REFUSED_SHARE:
            error = ErrorBody(code="busy", message="The engine is busy.")
            return [*events, ErrorEvent(error=error)]
        text = "" if body.limits.tokens_max == 0 else self._text(body)
        for number, end in enumerate(range(0, len(text), 4), 1):
            events.append(
                DraftEvent(
                    sequence=number,
                    committed=text[:end],
                    draft=text[end : end + 6],
                    spans=(),
                    usage=USAGE,
                )
            )
        events.append(
            FinishedEvent(text=text, finish_reason="end", confidence=1, mode="ar", usage=USAGE)
        )
        return events

    def _text(self, body: GenerateBody) -> str:
        """What a model may write: anything, words, or the text after the cursor."""
        text = self._rng.choice(("", "x", "value = 1", "call(a, b)", "\n    return x\n"))
        if self._rng.random() < 0.6:
            text += random_pieces(self._rng, self._rng.randrange(8))
        if self._rng.random() < 0.4:
            text += body.suffix[: self._rng.randrange(20)]
        return text
