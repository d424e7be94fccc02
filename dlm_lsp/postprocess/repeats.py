"""Where a line runs away: a weak model that repeats itself inside one line without end.

Judged by what stands before a place alone, so that of a growing line the same is cut. Three copies
of eight characters or more, or eight of fewer, are too many; a rule of one sign (`# -----`) is none
of it. Pure text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LONG, _SHORT = 8, 2  # least characters of a unit
_LONGEST = 64
_LONG_COPIES, _SHORT_COPIES = 3, 8  # this copy is one too many
# A cheap look before the scan: all copies but the one too many.
_SUSPECT = re.compile(rf"(.{{{_LONG},{_LONGEST}}}?)\1|(.{{{_SHORT},{_LONG - 1}}}?)\2{{6}}")


@dataclass(frozen=True, slots=True)
class Runaway:
    """line[start:] begins the copy that is one too many; `is_whole`: all of it stands there."""

    start: int
    is_whole: bool


def runaway(line: str) -> Runaway | None:
    """The copy that completes first, else the earliest one that the line's end may grow into."""
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
    """Where a run of characters that equal the one a period before is `enough` long, if ever.

    Returns: that place's end or None, and the length of the run that the line ends with.
    """
    run = 0
    for at in range(period, len(line)):
        run = run + 1 if line[at] == line[at - period] else 0
        if run >= enough and _has_two_signs(line[at - period : at]):
            return at + 1, run
    return None, run if _has_two_signs(line[-period:]) else 0


def _has_two_signs(unit: str) -> bool:
    return len(set(unit) - {" "}) > 1
