"""Carries one request's events from the engine's thread to the event loop.

Never blocks the engine, and its memory is bounded: every event holds the whole state, so a newer
draft replaces an unread one. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress

from engine.api import Draft, Event


class EventStream:
    """A stream of events: the engine's thread calls `emit`, the creating event loop `next`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()  # At most three: the first, a draft, the last.
        self._changed = asyncio.Event()
        self.first_event_at: float | None = None  # time.monotonic()

    def emit(self, event: Event) -> None:
        """Adds an event and returns at once."""
        with self._lock:
            if self.first_event_at is None:
                self.first_event_at = time.monotonic()
            if self._waiting and isinstance(event, Draft) and isinstance(self._waiting[-1], Draft):
                self._waiting.pop()
            self._waiting.append(event)
        with suppress(RuntimeError):  # The loop has ended, so nobody reads.
            self._loop.call_soon_threadsafe(self._changed.set)

    async def next(self) -> Event:
        """Waits for and returns the oldest event that no newer one has replaced."""
        while True:
            self._changed.clear()
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
            await self._changed.wait()
