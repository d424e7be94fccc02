"""Carries one request's events from the engine's thread to the event loop.

Never blocks the engine and never grows: an event is whole state, so a draft that nobody has read
gives way to the next one. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress

from engine.api import Draft, Event


class EventStream:
    """`emit` on the engine's thread, `next` on the loop that made the stream."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()  # at most three: started, a draft, a last event
        self._changed = asyncio.Event()
        self.first_event_at: float | None = None  # time.monotonic()

    def emit(self, event: Event) -> None:
        """Takes an event; returns at once."""
        with self._lock:
            if self.first_event_at is None:
                self.first_event_at = time.monotonic()
            if self._waiting and isinstance(event, Draft) and isinstance(self._waiting[-1], Draft):
                self._waiting.pop()
            self._waiting.append(event)
        with suppress(RuntimeError):  # the loop has ended: nobody reads any more
            self._loop.call_soon_threadsafe(self._changed.set)

    async def next(self) -> Event:
        """The oldest event that was not overtaken; waits for one."""
        while True:
            self._changed.clear()
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
            await self._changed.wait()
