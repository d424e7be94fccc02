"""The figures of a campaign, and whether its memory stayed flat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

GROWTH_BYTES_MAX = 16 << 20  # Over the second half of a campaign.
EVENTS_MIN = 5_000  # A shorter campaign is not judged: caches still fill.
_PAGE = 4096


@dataclass(frozen=True)
class Played:
    """One campaign.

    Attributes:
        counts: how often each event came, and what came of it.
        resident_bytes: the server's memory at equal distances.
        notes: sentences for the report.
    """

    events: int
    seconds: float
    counts: Counter[str]
    resident_bytes: Sequence[int]
    notes: Sequence[str] = field(default=())

    @property
    def growth(self) -> int:
        """The bytes by which memory grew over the second half, from one tenth's mean to another."""
        samples = self.resident_bytes
        tenth = max(1, len(samples) // 10)
        middle = samples[len(samples) // 2 :][:tenth]
        return round(sum(samples[-tenth:]) / tenth - sum(middle) / len(middle))

    def check_memory(self) -> None:
        """Raises AssertionError if memory still grew in the second half."""
        if self.events >= EVENTS_MIN:
            assert self.growth < GROWTH_BYTES_MAX, f"memory grew by {self.growth >> 20} MiB"

    def report(self, name: str) -> str:
        """The figures as lines of text."""
        samples = [value / (1 << 20) for value in self.resident_bytes]
        trend = " ".join(f"{samples[at * (len(samples) - 1) // 8]:.0f}" for at in range(9))
        lines = [f"{name}: {self.events} events in {self.seconds:.0f} s"]
        lines += [f"  {key}: {count}" for key, count in sorted(self.counts.items())]
        lines += [f"  memory in MiB: {trend}; second half: {self.growth / (1 << 20):+.1f}"]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def resident(process_id: int) -> int:
    """The bytes of memory that a process holds."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * _PAGE
