"""Finds endless repetition inside one line, which weak models produce.

A place is judged only by the text before it, so that the cut does not move when the line grows.
Three copies of eight or more characters, or eight copies of fewer, are too many; a row of one
character (`# -----`) does not count. Works on text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LONG, _SHORT = 8, 2  # The smallest numbers of characters of a repeated unit.
_LONGEST = 64
_LONG_COPIES, _SHORT_COPIES = 3, 8  # The first copy that is too many.
# A cheap test before the scan, which matches all copies except the last.
_SUSPECT = re.compile(rf"(.{{{_LONG},{_LONGEST}}}?)\1|(.{{{_SHORT},{_LONG - 1}}}?)\2{{6}}")


@dataclass(frozen=True, slots=True)
class Runaway:
    """The start of the copy that is too many; `is_whole` if the line holds all of this copy."""

    start: int
    is_whole: bool


def runaway(line: str) -> Runaway | None:
    """Returns the first complete copy too many, or the earliest one that is still growing."""
    if not _SUSPECT.search(line):
        return None
    begun: int | None = None
    first_end: int | None = None
    found: int | None = None
    for period in range(_SHORT, min(_LONGEST, len(line)) + 1):
        copies = _LONG_COPIES if period >= _LONG else _SHORT_COPIES
        end, run = _run(line, period, (copies - 1) * period)
        if end is not None:
            if first_end is None or end < first_end:
                first_end, found = end, end - period
        elif run > (copies - 2) * period:
            start = len(line) - (run - (copies - 2) * period)
            begun = start if begun is None else min(begun, start)
    if found is not None:
        return Runaway(found, is_whole=True)
    return None if begun is None else Runaway(begun, is_whole=False)


def _run(line: str, period: int, enough: int) -> tuple[int | None, int]:
    """Finds a run of `enough` characters, each equal to the one `period` characters before it.

    Returns: the end of the run or None, and the length of the run at the line's end.
    """
    run = 0
    for at in range(period, len(line)):
        run = run + 1 if line[at] == line[at - period] else 0
        if run >= enough and _has_two_signs(line[at - period : at]):
            return at + 1, run
    return None, run if _has_two_signs(line[-period:]) else 0


def _has_two_signs(unit: str) -> bool:
    return len(set(unit) - {" "}) > 1
