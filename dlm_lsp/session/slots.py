"""Requests in flight: a slot for each document, which holds its latest request.

Owns which request is the latest, and makes the one before it out of date. Knows neither what is
completed nor how.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dlm_lsp.session.generation import Generation
from dlm_lsp.session.place import CompletionPlace
from dlm_lsp.session.requests import Ask


@dataclass(slots=True)
class RequestSlot:
    """A request in flight: the latest of its document.

    Attributes:
        began: `time.perf_counter()` when it came.
        generation: the engine's run that is to answer it, once there is one.
        sequence: of the latest draft that was shown.
    """

    ask: Ask
    task: asyncio.Task[object]
    began: float
    generation: Generation | None = None
    is_superseded: bool = False
    sequence: int = 0

    def supersede(self) -> None:
        """Makes the request answer that it is out of date, at once."""
        if not self.is_superseded:
            self.is_superseded = True
            self.task.cancel()

    def take_over(self, previous: RequestSlot, place: CompletionPlace) -> None:
        """Goes on with the run of the request before it, where that leads to this place."""
        generation = previous.generation
        if (
            generation is not None
            and all(slot.ask.automatic and slot.ask.is_plain for slot in (self, previous))
            and generation.can_serve(place.prefix, place.suffix)
        ):
            self.generation, previous.generation = generation, None


class RequestSlots:
    """The slots of one editor's documents, by URI."""

    def __init__(self) -> None:
        self._slots: dict[str, RequestSlot] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def get(self, uri: str) -> RequestSlot | None:
        """The request in flight for a document."""
        return self._slots.get(uri)

    def enter(self, slot: RequestSlot) -> RequestSlot | None:
        """Takes a request up; returns the one of the same document that it supersedes."""
        previous = self._slots.get(slot.ask.uri)
        self._slots[slot.ask.uri] = slot
        if previous is not None:
            previous.supersede()
        return previous

    def leave(self, slot: RequestSlot) -> None:
        """Lets go of a request that is over."""
        if self._slots.get(slot.ask.uri) is slot:
            del self._slots[slot.ask.uri]

    def cancel(self, token: str | int) -> bool:
        """Supersedes the request with this token; whether there is one."""
        found = [slot for slot in self._slots.values() if slot.ask.token == token]
        for slot in found:
            slot.supersede()
        return bool(found)

    def uris(self) -> list[str]:
        """The documents that have a request in flight."""
        return list(self._slots)
