"""How long a request waits for the next keystroke while the user types.

An editor that asks at every key would keep the engine busy with requests that the next key makes
worthless. By default the wait follows the user: as long as the next key usually takes, counted from
the last one, so that an editor that has waited itself waits no longer. Owns the recent intervals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import median

_INTERVALS = 8
_PAUSE_SECONDS = 1.0  # A longer interval is a pause and says nothing about the user's speed.
_SHARE = 1.25  # Most keys of a steady typist come within this many usual intervals.
SECONDS_MAX = 0.25


class Rhythm:
    """The rhythm of one user's keystrokes. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    def note(self, now: float) -> None:
        """Records an edit."""
        if self._last is not None and now - self._last < _PAUSE_SECONDS:
            self._intervals.append(now - self._last)
        self._last = now

    def seconds(self, milliseconds: int | None, now: float, stretch: float = 1.0) -> float:
        """Returns how long a request of now waits.

        Args:
            milliseconds: the user's own delay after the last edit; None adapts it.
            stretch: a factor, from 1, by which the adapted delay is longer.
        """
        if self._last is None:
            return 0.0
        if milliseconds is not None:
            wanted = milliseconds / 1000
        elif len(self._intervals) < _INTERVALS:
            return 0.0  # Too little is known of the user.
        else:
            wanted = min(SECONDS_MAX, _SHARE * stretch * median(self._intervals))
        return max(0.0, wanted - (now - self._last))

    async def wait(self, milliseconds: int | None, now: float, stretch: float = 1.0) -> None:
        """Waits as `seconds` says. A newer request ends the wait by cancelling it."""
        seconds = self.seconds(milliseconds, now, stretch)
        if seconds > 0:
            await asyncio.sleep(seconds)
