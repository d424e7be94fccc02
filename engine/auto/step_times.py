"""What a step costs by its number of rows: the curve that drafts and modes are chosen by.

Owns the curve, its form as JSON and the file it is kept in. Torch-free; how it is measured stands
in `engine.auto.measuring`. Knows no clock and no model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.atomic_json import write_atomically

logger = logging.getLogger(__name__)

FORMAT = 1  # of the file; another one is measured anew
PREFILL_ROWS = (16, 32, 64, 128, 256)  # that a step of a prompt may have: whole pages of the cache
PREFILL_MS_MAX = 80.0  # a cancelled request still takes as long as the step that has begun
_PREFILL_SLACK, _PREFILL_SLACK_UNMEASURED = 1.25, 1.1  # times the cheapest count's cost of a row


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Milliseconds of one step by its rows, piecewise linear between the measured counts.

    Attributes:
        rows: ascending, from 1 on; at least two.
        milliseconds: of each; positive, never falling (a step of more rows is no cheaper one:
            what looks like that is noise, or a reason to pad).
        context: tokens that were cached while it was measured.
        is_measured: false for a built-in curve, of which only the ratios mean anything.
    """

    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]
    context: int = 0
    is_measured: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for what is no curve."""
        if len(self.rows) != len(self.milliseconds) or len(self.rows) < 2 or self.rows[0] != 1:
            raise ValueError("a curve has as many times as row counts, two or more, from 1 on")
        if any(second <= first for first, second in pairwise(self.rows)):
            raise ValueError("row counts ascend")
        if any(second < first for first, second in pairwise(self.milliseconds)):
            raise ValueError("times never fall")
        if not all(0 < time < math.inf for time in self.milliseconds):
            raise ValueError("times are positive")

    def at(self, rows: float) -> float:
        """Milliseconds of a step of so many rows (a mean may be no whole number); at least those of
        one row. Behind the last measured count the last two go on as a line."""
        last = len(self.rows) - 1
        right = next((i for i in range(1, last) if rows <= self.rows[i]), last)
        left = right - 1
        share = (max(rows, 1) - self.rows[left]) / (self.rows[right] - self.rows[left])
        low, high = self.milliseconds[left], self.milliseconds[right]
        return low + share * (high - low)

    def least(self, other: StepTimes) -> StepTimes:
        """The lesser of both at every count, where they were measured alike; else this one.

        What else a machine does only ever adds to a time.
        """
        if (self.rows, self.context) != (other.rows, other.context):
            return self
        times = map(min, self.milliseconds, other.milliseconds)
        return replace(self, milliseconds=tuple(times))


# Ratios alone, of int8: between what AVX2 and AMX take.
CPU_TIMES = StepTimes(
    (1, 2, 4, 8, 16, 32, 64, 128), (1.0, 1.1, 1.2, 1.5, 2.2, 3.5, 6.5, 12.5), is_measured=False
)
# A third party's 8 B forwards on a B200, as far as they were measured; one row as eight.
CUDA_TIMES = StepTimes(
    (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    (4.98, 4.98, 5.12, 5.6, 6.58, 9.5, 10.7, 14.6, 20.9, 35.4),
    is_measured=False,
)


def built_in_times(device: str) -> StepTimes:
    """The curve to go by until one was measured."""
    return CUDA_TIMES if device == "cuda" else CPU_TIMES


def prefill_rows(times: StepTimes) -> int:
    """Rows of one step of a long prompt, one of PREFILL_ROWS.

    Between two steps a request can be cancelled, so a step should be short; but many short ones
    take longer together. Of the counts whose rows cost little more than the cheapest count's, it is
    the largest one that takes no longer than PREFILL_MS_MAX, or the smallest one where all do.
    Where no milliseconds were measured it is the smallest one that costs next to nothing more.
    """
    slack = _PREFILL_SLACK if times.is_measured else _PREFILL_SLACK_UNMEASURED
    cheapest = min(times.at(rows) / rows for rows in PREFILL_ROWS)
    cheap = [rows for rows in PREFILL_ROWS if times.at(rows) / rows <= slack * cheapest]
    if not times.is_measured:
        return cheap[0]
    return max((rows for rows in cheap if times.at(rows) <= PREFILL_MS_MAX), default=cheap[0])


def never_falling(rows: Sequence[int], milliseconds: Sequence[float], context: int) -> StepTimes:
    """The curve of measured times, in which each is at least the one before it."""
    highest: list[float] = []
    for time in milliseconds:
        highest.append(max(time, highest[-1] if highest else 0.0))
    return StepTimes(tuple(rows), tuple(highest), context)


@dataclass(frozen=True, slots=True)
class TimesKey:
    """What a measured curve holds for; another value of any field is another curve.

    Attributes:
        machine: the device's own name where it has one, else the machine's.
        program: versions of the program and of what computes.
    """

    checkpoint: str
    machine: str
    device: str
    dtype: str
    threads: int
    program: str


@dataclass(frozen=True, slots=True)
class TimesFile:
    """Where the host wants a curve to be kept.

    Attributes:
        checkpoint: identifies the checkpoint's folder and the state of its files.
        version: of the program.
    """

    path: Path
    checkpoint: str
    version: str


class _Stored(BaseModel):
    """The file as JSON."""

    model_config = ConfigDict(extra="forbid")
    format: int
    key: dict[str, str | int]
    context: int
    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]


def read_times(path: Path, key: TimesKey) -> StepTimes | None:
    """The curve in the file; None where there is none for this key, or the file is broken."""
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
        if stored.format != FORMAT or stored.key != asdict(key):
            return None
        return StepTimes(stored.rows, stored.milliseconds, stored.context)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as error:
        logger.warning("%s cannot be read (%s): measured anew", path, type(error).__name__)
        return None


def write_times(path: Path, key: TimesKey, times: StepTimes) -> None:
    """Keeps the curve, whole or not at all. A folder that cannot be written to is no failure."""
    stored = _Stored(
        format=FORMAT,
        key=asdict(key),
        context=times.context,
        rows=times.rows,
        milliseconds=times.milliseconds,
    )
    try:
        write_atomically(path, stored.model_dump())
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror)
