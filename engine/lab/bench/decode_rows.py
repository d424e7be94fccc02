"""The figures of the decoding benchmark: from timed holes to one row for each variant. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """How the machine is used: CPU threads, and whether another process keeps one core busy."""

    threads: int
    is_busy: bool
    device: str = "cpu"

    @property
    def label(self) -> str:
        if self.device != "cpu":
            return self.device
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{threads}, {'one core busy' if self.is_busy else 'idle'}"


@dataclass(frozen=True, slots=True)
class Timed:
    """One decoded hole.

    Attributes:
        mode: the mode that decoded it.
        tokens: the emitted tokens.
        decided: the tokens that forwards after the prompt decided: all but the first, and a stop.
        cycles: forwards that emitted or ended, the prompt's included.
        forwards, rows, seconds: those after the prompt.
        is_exact: whether the text is what stood in the hole.
        prefill_seconds: the time until prompt and first token were computed.
        cached: the prompt tokens that were in the cache.
    """

    mode: str
    tokens: int
    decided: int
    cycles: int
    forwards: int
    rows: int
    seconds: float
    text: str
    is_exact: bool
    prefill_seconds: float = 0.0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant under one condition, over all holes.

    Attributes:
        condition: the label of a `Condition`.
        modes: the number of holes by the mode that decoded them.
        tokens_per_second: decided tokens over the seconds after the prefill, over all holes.
        against_ar, against_ar_range: the ratio of that to the figure of "ar" under the same
            condition, and its middle 95 % over resampled holes.
        tokens_per_forward: decided tokens over forwards.
        accepted_per_cycle: decided tokens over the forwards that emitted or ended.
        rows_per_forward: computed rows over forwards.
        forwards: the mean over the holes.
        same_as_ar: the share of holes with exactly the text of "ar".
        exact: the share of holes with exactly the text that stood there.
    """

    condition: str
    variant: str
    modes: Mapping[str, int]
    holes: int
    tokens_per_second: float
    against_ar: float
    against_ar_range: tuple[float, float]
    tokens_per_forward: float
    accepted_per_cycle: float
    rows_per_forward: float
    forwards: float
    same_as_ar: float
    exact: float


def to_row(
    condition: Condition, name: str, timed: Sequence[Timed], reference: Sequence[Timed]
) -> VariantRow:
    """Summarizes a variant's holes; `reference` has the same holes decoded by "ar"."""
    decided = sum(each.decided for each in timed)
    forwards = max(1, sum(each.forwards for each in timed))
    same = sum(one.text == other.text for one, other in zip(timed, reference, strict=True))
    return VariantRow(
        condition=condition.label,
        variant=name,
        modes=dict(Counter(each.mode for each in timed)),
        holes=len(timed),
        tokens_per_second=_speed(timed),
        against_ar=_speed(timed) / _speed(reference),
        against_ar_range=_ratio_range(timed, reference),
        tokens_per_forward=decided / forwards,
        accepted_per_cycle=decided / max(1, sum(max(each.cycles - 1, 0) for each in timed)),
        rows_per_forward=sum(each.rows for each in timed) / forwards,
        forwards=forwards / len(timed),
        same_as_ar=same / len(timed),
        exact=sum(each.is_exact for each in timed) / len(timed),
    )


def _ratio_range(timed: Sequence[Timed], reference: Sequence[Timed]) -> tuple[float, float]:
    """The middle 95 % of the ratio of speeds over resampled holes."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(len(timed), size=len(timed))
        theirs = _speed([reference[index] for index in chosen])
        ratios.append(_speed([timed[index] for index in chosen]) / theirs)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _speed(timed: Sequence[Timed]) -> float:
    """Decided tokens per second after the prefill; never 0, so that a ratio can be taken."""
    seconds = sum(each.seconds for each in timed)
    return max(sum(each.decided for each in timed), 1e-9) / max(seconds, 1e-9)
