"""Requests in flight: a slot for each document, which holds its latest request.

A newer request for a document supersedes the older one. Does not know how requests are answered.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from dlm_lsp.session.cache import Completion
from dlm_lsp.session.generation import Generation
from dlm_lsp.session.place import CompletionPlace
from dlm_lsp.session.requests import Ask, Offer

# Where an answer came from: a run of its own, text that was there, a run that was begun ahead, or
# the run of the request before.
Source = Literal["engine", "cache", "ahead", "taken over"]


@dataclass(slots=True)
class RequestSlot:
    """The latest request of a document, in flight.

    Attributes:
        began: the value of `time.perf_counter()` when the request arrived.
        generation: the engine's run that answers the request, None before it has begun.
        sequence: the sequence number of the latest draft that was shown.
        ends_with_edit: whether any edit of the document makes the request useless.
        source: where the answer comes from.
        first_ms: the milliseconds until its first text was sent; None before.
        outcome: "shown", or why nothing was shown; None before.
        answered: what is left of the run's first completion; None without one.
        offers: the answer.
    """

    ask: Ask
    task: asyncio.Task[object]
    began: float
    generation: Generation | None = None
    is_superseded: bool = False
    sequence: int = 0
    ends_with_edit: bool = False
    source: Source = "engine"
    first_ms: float | None = None
    outcome: str | None = None
    answered: Completion | None = None
    offers: tuple[Offer, ...] = ()

    def text_came(self) -> None:
        """Notes that text of the answer is sent; the first time counts."""
        if self.first_ms is None:
            self.first_ms = self.elapsed_ms()

    def elapsed_ms(self) -> float:
        """Returns the milliseconds since the request arrived."""
        return round((time.perf_counter() - self.began) * 1000, 1)

    def supersede(self) -> None:
        """Makes the request answer at once that it is out of date."""
        if not self.is_superseded:
            self.is_superseded = True
            self.task.cancel()

    def take_over(self, previous: RequestSlot, place: CompletionPlace) -> None:
        """Takes over the run of the previous request if it can serve this place."""
        generation = previous.generation
        if (
            generation is not None
            and all(slot.ask.automatic and slot.ask.is_plain for slot in (self, previous))
            and generation.can_serve(place.prefix, place.suffix)
        ):
            self.generation, previous.generation = generation, None
            self.source = "taken over"


class RequestSlots:
    """The slots of one editor's documents, by URI."""

    def __init__(self) -> None:
        self._slots: dict[str, RequestSlot] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def get(self, uri: str) -> RequestSlot | None:
        """Returns the request in flight for a document, or None."""
        return self._slots.get(uri)

    def enter(self, slot: RequestSlot) -> RequestSlot | None:
        """Adds a request; returns the request of the same document that it supersedes, or None."""
        previous = self._slots.get(slot.ask.uri)
        self._slots[slot.ask.uri] = slot
        if previous is not None:
            previous.supersede()
        return previous

    def leave(self, slot: RequestSlot) -> None:
        """Removes a finished request."""
        if self._slots.get(slot.ask.uri) is slot:
            del self._slots[slot.ask.uri]

    def cancel(self, token: str | int) -> bool:
        """Supersedes the request with this token; returns whether there is one."""
        found = [slot for slot in self._slots.values() if slot.ask.token == token]
        for slot in found:
            slot.supersede()
        return bool(found)

    def others(self, task: asyncio.Task[Any] | None) -> list[RequestSlot]:
        """Returns the requests in flight but that of a task."""
        return [slot for slot in self._slots.values() if slot.task is not task]

    def uris(self) -> list[str]:
        """Returns the URIs of the documents that have a request in flight."""
        return list(self._slots)
