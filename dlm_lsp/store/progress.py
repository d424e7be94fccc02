"""The progress of a pull: bytes, rate and time left, and their texts.

Owns the window of the rate and the frequency of reports. Does not know what is pulled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Phase = Literal["connecting", "downloading", "checking", "waiting"]

_WINDOW_SECONDS = 4.0
_RATE_SECONDS = 1.0  # The shortest window for a rate.
_TELL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """One state of a pull. The rate is in bytes a second; None while it is unknown.

    Attributes:
        phase: "checking" while existing files are hashed, "waiting" for another process's pull.
        source: the source of the bytes, for users.
        note: an event as a sentence; most states have none.
    """

    name: str
    phase: Phase
    done: int
    total: int
    rate: float | None = None
    seconds_left: float | None = None
    source: str = ""
    note: str = ""

    @property
    def percent(self) -> int:
        return min(100, self.done * 100 // self.total) if self.total else 0

    def to_object(self) -> dict[str, object]:
        """Returns the object that `--json` prints."""
        return {
            "event": "progress",
            "name": self.name,
            "phase": self.phase,
            "bytes": self.done,
            "bytesTotal": self.total,
            "bytesPerSecond": None if self.rate is None else round(self.rate),
            "secondsLeft": None if self.seconds_left is None else round(self.seconds_left, 1),
            "source": self.source,
            "note": self.note,
            "text": self.text(),
        }

    def text(self) -> str:
        """Returns a text such as "312 of 491 MB, 14 MB/s, 12 s left"."""
        amount = f"{sized(self.done, self.total)} of {sized(self.total)}"
        if self.phase == "connecting":
            return f"{amount}, connecting to {self.source}"
        if self.phase == "checking":
            return f"checking what is here, {amount}"
        parts = [amount]
        if self.phase == "waiting":
            parts.append("another process pulls it")
        if self.rate is not None:
            parts.append(f"{sized(round(self.rate))}/s")
        if self.seconds_left is not None:
            parts.append(f"{lasting(self.seconds_left)} left")
        return ", ".join(parts)


class Meter:
    """Counts bytes and reports them at most every _TELL_SECONDS."""

    def __init__(self, name: str, total: int, tell: Callable[[Progress], None]) -> None:
        self.name = name
        self.total = total
        self.source = ""
        self._tell = tell
        self._told = ("", 0.0)
        self._marks: deque[tuple[float, int]] = deque()
        self._done = 0

    def update(self, phase: Phase, done: int) -> None:
        """Records the number of bytes, and reports it unless a report was just made."""
        now = time.monotonic()
        stage = f"{phase} {self.source}"
        if stage != self._told[0]:
            self._marks.clear()
        elif phase in ("downloading", "waiting"):
            done = max(done, self._done)
        self._done = done
        self._marks.append((now, done))
        while now - self._marks[0][0] > _WINDOW_SECONDS and len(self._marks) > 2:
            self._marks.popleft()
        if stage == self._told[0] and now - self._told[1] < _TELL_SECONDS:
            if done < self.total:
                return
            if self._told[1] < 0:  # The end has been reported.
                return
        self._told = (stage, now if done < self.total else -1.0)
        rate = left = None
        (first, before), seconds = self._marks[0], now - self._marks[0][0]
        if phase in ("downloading", "waiting") and seconds > _RATE_SECONDS and done > before:
            rate = (done - before) / (now - first)
            if seconds > 2 * _RATE_SECONDS:
                left = max(0, self.total - done) / rate
        self._tell(Progress(self.name, phase, done, self.total, rate, left, self.source))

    def note(self, sentence: str) -> None:
        """Reports an event at once."""
        told = Progress(self.name, "connecting", self._done, self.total, source=self.source)
        self._tell(replace(told, note=sentence))


def sized(num_bytes: int, like: int | None = None) -> str:
    """Returns a text such as "491 MB", without the unit if a following `like` has the same unit."""
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)):
        if (num_bytes if like is None else like) >= size:
            digits = 1 if unit == "GB" or (like is None and num_bytes < 10 * size) else 0
            shown = f"{num_bytes / size:.{digits}f}"
            return f"{shown} {unit}" if like is None else shown
    return f"{num_bytes} bytes" if like is None else str(num_bytes)


def lasting(seconds: float) -> str:
    """Returns a text such as "12 s", "3 min" or "2 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
