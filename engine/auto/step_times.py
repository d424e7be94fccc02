"""The step-time curve: the time of a step by its number of rows. Drafts and modes depend on it.

This module owns the curve, its JSON form and its file. Torch-free; `engine.auto.measuring` measures
the curve.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.atomic_json import write_atomically

logger = logging.getLogger(__name__)

FORMAT = 2  # of the file; a file in another format is measured anew
PREFILL_ROWS = (16, 32, 64, 128, 256)  # possible row counts of a prompt's steps: whole cache pages
PREFILL_MS_MAX = 80.0  # a request can only be cancelled between two steps
# How much more a row may cost than with the cheapest row count, as a factor.
_PREFILL_SLACK, _PREFILL_SLACK_UNMEASURED = 1.25, 1.1


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The milliseconds of one step by its rows, piecewise linear between the measured counts.

    Attributes:
        rows: at least two counts of rows, ascending, the first one 1.
        milliseconds: the time for each count; positive and never falling, since a step of more rows
            that seems to be cheaper is noise, or a reason to pad.
        context: the number of tokens that were cached during the measurement.
        is_measured: false for a built-in curve, of which only the ratios are meaningful.
        with_masks: the time for each count if mask rows are among the rows, which run with a mask
            adapter; as `milliseconds`, and empty where there is no such adapter.
    """

    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]
    context: int = 0
    is_measured: bool = True
    with_masks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if the fields do not form a curve."""
        if len(self.rows) != len(self.milliseconds) or len(self.rows) < 2 or self.rows[0] != 1:
            raise ValueError("a curve has as many times as row counts, two or more, from 1 on")
        if any(second <= first for first, second in pairwise(self.rows)):
            raise ValueError("row counts ascend")
        if len(self.with_masks) not in (0, len(self.rows)):
            raise ValueError("a curve with masks has a time for every count")
        for times in (self.milliseconds, self.with_masks):
            if any(second < first for first, second in pairwise(times)):
                raise ValueError("times never fall")
            if not all(0 < time < math.inf for time in times):
                raise ValueError("times are positive")

    def at(self, rows: float, *, masks: bool = False) -> float:
        """The milliseconds of a step with this number of rows, which may be a mean; at least those
        of one row. After the last measured count the line through the last two continues.

        Args:
            masks: whether mask rows of an adapter are among them.
        """
        times = self.with_masks if masks and self.with_masks else self.milliseconds
        last = len(self.rows) - 1
        right = next((i for i in range(1, last) if rows <= self.rows[i]), last)
        left = right - 1
        share = (max(rows, 1) - self.rows[left]) / (self.rows[right] - self.rows[left])
        low, high = times[left], times[right]
        return low + share * (high - low)

    def least(self, other: StepTimes) -> StepTimes:
        """The lesser time at every count that either curve has, if both were measured after as many
        cached tokens and both with masks or neither; else this curve.

        Other work of the machine can only add to a time, so that fewer rows take no longer than
        more rows did. A busy machine also ends a measurement before the larger counts, whose times
        the other curve then gives.
        """
        mine, others = ((curve.context, bool(curve.with_masks)) for curve in (self, other))
        if mine != others:
            return self
        rows = sorted({*self.rows, *other.rows})

        def lesser(field: Literal["milliseconds", "with_masks"]) -> tuple[float, ...]:
            known = [
                dict(zip(curve.rows, getattr(curve, field), strict=True)) for curve in (self, other)
            ]
            least = [min(times[count] for times in known if count in times) for count in rows]
            return tuple(accumulate(reversed(least), min))[::-1]

        masked = lesser("with_masks") if self.with_masks else ()
        return StepTimes(tuple(rows), lesser("milliseconds"), self.context, with_masks=masked)


# Ratios only, for int8: between those of AVX2 and AMX.
CPU_TIMES = StepTimes(
    (1, 2, 4, 8, 16, 32, 64, 128), (1.0, 1.1, 1.2, 1.5, 2.2, 3.5, 6.5, 12.5), is_measured=False
)
# A third party's measurement of the 8B model on a B200; the time for 1 row is that for 8.
CUDA_TIMES = StepTimes(
    (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    (4.98, 4.98, 5.12, 5.6, 6.58, 9.5, 10.7, 14.6, 20.9, 35.4),
    is_measured=False,
)


# A step in which a mask adapter runs, by one with as many rows and without: 78 ms for 61 with
# Qwen2.5-Coder-0.5B on a Xeon with AMX.
_ADAPTER_COST = 1.27


def built_in_times(device: str, *, has_masks: bool = False) -> StepTimes:
    """The curve to use until one has been measured.

    Args:
        has_masks: whether the checkpoint has a mask adapter.
    """
    times = CUDA_TIMES if device == "cuda" else CPU_TIMES
    if not has_masks:
        return times
    return replace(times, with_masks=tuple(_ADAPTER_COST * time for time in times.milliseconds))


def prefill_rows(times: StepTimes) -> int:
    """The rows of one step of a long prompt: one of PREFILL_ROWS.

    A request can be cancelled between two steps, so a step should be short; but many short steps
    take longer together. Of the counts whose rows cost little more than the cheapest count's, this
    is the largest one that takes no longer than PREFILL_MS_MAX, or the smallest one if all take
    longer. For a built-in curve it is the smallest count whose rows cost hardly more.
    """
    slack = _PREFILL_SLACK if times.is_measured else _PREFILL_SLACK_UNMEASURED
    cheapest = min(times.at(rows) / rows for rows in PREFILL_ROWS)
    cheap = [rows for rows in PREFILL_ROWS if times.at(rows) / rows <= slack * cheapest]
    if not times.is_measured:
        return cheap[0]
    return max((rows for rows in cheap if times.at(rows) <= PREFILL_MS_MAX), default=cheap[0])


def never_falling(
    rows: Sequence[int],
    milliseconds: Sequence[float],
    context: int,
    with_masks: Sequence[float] = (),
) -> StepTimes:
    """The curve of the measured times, each raised to the time before it where it is lower."""
    plain, masked = (tuple(accumulate(times, max)) for times in (milliseconds, with_masks))
    return StepTimes(tuple(rows), plain, context, with_masks=masked)


@dataclass(frozen=True, slots=True)
class TimesKey:
    """Identifies a measured curve; it is valid for these values of all fields only.

    Attributes:
        machine: the card's name, or the machine's if there is no card.
        program: the versions of this program and of the library that computes.
    """

    checkpoint: str
    machine: str
    device: str
    dtype: str
    threads: int
    program: str


@dataclass(frozen=True, slots=True)
class TimesFile:
    """The file in which the host keeps a curve.

    Attributes:
        checkpoint: identifies the checkpoint's folder and the state of its files.
        version: the version of this program.
    """

    path: Path
    checkpoint: str
    version: str


class _Stored(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")
    format: int
    key: dict[str, str | int]
    context: int
    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]
    with_masks: tuple[float, ...]


def read_times(path: Path, key: TimesKey) -> StepTimes | None:
    """The curve in the file; None if there is none for this key or the file is broken."""
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
        if stored.format != FORMAT or stored.key != asdict(key):
            return None
        return StepTimes(
            stored.rows, stored.milliseconds, stored.context, with_masks=stored.with_masks
        )
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as error:
        logger.warning("%s cannot be read (%s); measuring anew", path, type(error).__name__)
        return None


def write_times(path: Path, key: TimesKey, times: StepTimes) -> None:
    """Writes the curve, whole or not at all. If that fails, it is only logged."""
    stored = _Stored(
        format=FORMAT,
        key=asdict(key),
        context=times.context,
        rows=times.rows,
        milliseconds=times.milliseconds,
        with_masks=times.with_masks,
    )
    try:
        write_atomically(path, stored.model_dump())
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror)
