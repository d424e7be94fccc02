"""What the engine does ahead of a request, while the user rests.

Two things take time that a pause has: the prompt at the cursor is brought into the engine's cache,
and the suggestion that would come after accepting the one that is shown is computed. Both stand
below every request: they begin after a rest, one at a time, while the engine has nothing else to
do, and end at the next edit or request that they do not serve. Owns the timer and this work. Shows
nothing, and sends nothing that the gate keeps back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlm_lsp.client.errors import HostError
from dlm_lsp.session.cache import Completion, ResultCache, remainder
from dlm_lsp.session.document import Document, Edit, Encoding
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.gate import Gate
from dlm_lsp.session.generation import Generation
from dlm_lsp.session.place import CompletionPlace, place_after, place_of
from dlm_lsp.session.requests import Ask
from dlm_lsp.session.runs import EngineRuns

logger = logging.getLogger(__name__)

REST_SECONDS = 0.15  # A pause between two keys of a word is usually shorter.


@dataclass(slots=True)
class _Rest:
    """A place where the cursor rests.

    Attributes:
        shown: the suggestion that is shown there, or None.
        is_done: whether all work for the place is done.
    """

    document: Document
    offset: int
    shown: Completion | None
    is_done: bool = False


@dataclass(slots=True)
class _FollowUp:
    """The run for the text in which a shown suggestion is accepted, and the task that caches it."""

    uri: str
    shown: Completion
    generation: Generation
    storing: asyncio.Task[None]

    def serves(self, document: Document, edit: Edit) -> bool:
        """Returns whether the run is still of use after an edit: the suggestion is being typed, or
        the text in which it is accepted is there."""
        end = edit.start + edit.inserted
        # The cursor is behind what was typed, or between a bracket and its closer.
        for offset in (end, end - 1) if edit.inserted > 1 else (end,):
            prefix, suffix = document.text[:offset], document.text[offset:]
            if remainder(self.shown, prefix, suffix) is not None:
                return True
            if self.generation.can_serve(prefix, suffix):
                return True
        return False


class Ahead:
    """The work ahead of one session.

    Args:
        is_allowed: whether there may be any work now: the settings are known, and no request of
            the session is in flight.
        counts: receives the number of prompts that were warmed and of follow-ups.
    """

    def __init__(
        self,
        gate: Gate,
        encoding: Encoding,
        link: EngineLink,
        runs: EngineRuns,
        cache: ResultCache,
        is_allowed: Callable[[], bool],
        counts: Counter[str],
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._gate = gate
        self._encoding = encoding
        self._link = link
        self._runs = runs
        self._cache = cache
        self._is_allowed = is_allowed
        self._counts = counts
        self._rest_seconds = rest_seconds
        self._rest: _Rest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._follow_up: _FollowUp | None = None

    def rest(self, document: Document, offset: int, shown: Completion | None = None) -> None:
        """Waits for a rest at a place and then works for it; a newer place takes its turn.

        Args:
            shown: the suggestion that is shown there. A place without one that is known already
                stays as it is.
        """
        rest = self._rest
        if rest is not None and rest.document is document and rest.offset == offset:
            is_served = rest.is_done or self._timer is not None or self._is_working
            if is_served and shown is None:
                return
        self.interrupt()
        self._rest = _Rest(document, offset, shown)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._rest_seconds, self._begin)

    def renew(self) -> None:
        """Ends all work, and waits for a rest at the latest place again: the settings changed."""
        rest = self._rest
        self.drop()
        if rest is not None and not rest.is_done:
            self.rest(rest.document, rest.offset)

    def edited(self, document: Document, edits: Sequence[Edit]) -> None:
        """Ends what the edits of a document have made useless."""
        self.interrupt()
        follow_up = self._follow_up
        if follow_up is None:
            return
        if follow_up.uri == document.uri and edits and follow_up.serves(document, edits[-1]):
            follow_up.generation.edits.extend(edits)
        else:
            self.drop()

    def interrupt(self) -> None:
        """Ends the wait for a rest and the work for it, but not a follow-up that still serves."""
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()
        if self._rest is not None and not self._rest.is_done:
            self._rest = None
        self._timer = self._work = None

    def drop(self) -> None:
        """Ends all work."""
        self.interrupt()
        if self._follow_up is not None:
            self._follow_up.storing.cancel()
            self._follow_up.generation.cancel()
            self._follow_up = None

    def take(self, uri: str, place: CompletionPlace) -> Generation | None:
        """Returns the run of the follow-up, which it no longer owns, if it serves a request of a
        document at this place."""
        follow_up = self._follow_up
        if follow_up is None or follow_up.uri != uri:
            return None
        if not follow_up.generation.can_serve(place.prefix, place.suffix):
            return None
        self._follow_up = None
        follow_up.storing.cancel()
        return follow_up.generation

    @property
    def _is_working(self) -> bool:
        return self._work is not None and not self._work.done()

    def _begin(self) -> None:
        self._timer = None
        if self._rest is not None:
            self._work = asyncio.create_task(self._serve(self._rest))

    async def _serve(self, rest: _Rest) -> None:
        """Does the work for one place; an error of the host is left to the next request."""
        with contextlib.suppress(HostError):
            if self._follow_up is not None:
                await asyncio.wait([self._follow_up.storing])
            if await self._is_idle():
                if rest.shown is not None:
                    await self._follow(rest.document, rest.shown)
                await self._warm(rest.document, rest.offset)
                rest.is_done = True

    async def _is_idle(self) -> bool:
        """Returns whether the engine serves nobody, as far as its host tells."""
        if not (self._is_allowed() and self._link.has_host):
            return False
        if self._link.current.state in ("error", "off"):
            return False
        if not self._link.is_ready:
            return True  # It loads, and whoever asks first waits for that.
        health = await self._link.host.health()
        return health.state == "ready" and not health.detail.get("requests") and self._is_allowed()

    async def _follow(self, document: Document, shown: Completion) -> None:
        """Computes what would be suggested after accepting a suggestion, and waits for it."""
        settings = self._gate.settings_of(document.uri)
        if not settings.follow_up or not shown.text:
            return
        place = place_after(document, shown, self._encoding)
        if self._gate.reason(place.document, place.offset, automatic=True) is not None:
            return
        if self._cache.find(document.uri, place.prefix, place.suffix) is not None:
            return
        generation = self._runs.ahead(document.uri, place)
        storing = asyncio.create_task(self._store(document.uri, generation))
        self._follow_up = _FollowUp(document.uri, shown, generation, storing)
        # The wait may be interrupted while the follow-up goes on.
        await asyncio.wait([storing])

    async def _store(self, uri: str, generation: Generation) -> None:
        """Caches a run's result for the moment when its text is there."""
        try:
            with contextlib.suppress(HostError):
                await self._runs.keep(uri, generation)
                self._counts["follow_ups"] += 1
        finally:
            if self._follow_up is not None and self._follow_up.generation is generation:
                self._follow_up = None

    async def _warm(self, document: Document, offset: int) -> None:
        """Brings the prompt at a place into the engine's cache."""
        if self._gate.reason(document, offset, automatic=True) is not None:
            return
        position = document.position_at(offset, self._encoding)
        place = place_of(document, Ask(document.uri, position), self._encoding)
        await self._runs.warm(document.uri, place)
        self._counts["warmed"] += 1
