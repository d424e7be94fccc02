"""What drafts are worth to the forward that verifies them: a decision process of `pruned_spec`.

Before each forward a request has drafts to verify, or it has none and emits one token. A group of
masks buys drafts for the next forward, and is worth what that forward is then worth more. That is
less than the tokens that the drafts are expected to bring: without them the next forward would
draft instead, and only one forward's time would be lost. Values are in tokens, less the worth of
the time that is spent (average reward: Puterman, Markov Decision Processes, 1994, chapter 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from engine.auto.step_times import StepTimes

_ROUNDS, _SETTLED = 24, 1e-3  # of the values, and the change at which they are not refined further
_HALVINGS = 12  # of the interval in which the rate lies
_SIZES = (1, 2, 3, 4, 6, 8)  # masks of a group that are tried
_GROUPS_MAX = 3


@lru_cache(maxsize=256)
def gains(survival: tuple[float, ...], costs: StepTimes, worth: float) -> tuple[float, ...]:
    """By the masks of a group, 1 first: what its drafts are worth to the next forward.

    Args:
        survival: by offset, that a group's drafts up to there are all right.
        worth: of a millisecond, in tokens; at least `rate`. Where it is more, because copies bring
            tokens as well, they bring as many to every forward.
    """
    low, high = 0.0, worth * costs.at(2 * len(survival), masks=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_enough = _values(survival, costs, worth, middle)[0] > 0
        low, high = (low, middle) if is_enough else (middle, high)
    values = _values(survival, costs, worth, low)[1:]
    # Where every forward hits a group, rounding adds up from forward to forward.
    return tuple(min(value, sum(survival[:masks])) for masks, value in enumerate(values, 1))


@lru_cache(maxsize=64)
def rate(survival: tuple[float, ...], costs: StepTimes) -> float:
    """Tokens per millisecond that the best choice of rows comes to, without copies: the worth of a
    millisecond at which a forward without drafts is worth nothing."""
    low = 1 / costs.at(1)
    high = low * (len(survival) + 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _values(survival, costs, middle)[0] > 0 else (low, middle)
    return low


def _values(
    survival: Sequence[float], costs: StepTimes, worth: float, bonus: float = 0.0
) -> tuple[float, ...]:
    """The value of a forward by the drafts that a group gave it to verify, 0 first, where one
    without any drafts is taken to be worth 0 later on.

    Args:
        bonus: tokens that each forward brings besides.
    """
    count = len(survival)
    plain = [worth * costs.at(rows) - bonus for rows in range(count + 2)]
    rows_max = count + 1 + _GROUPS_MAX * count
    masked = [worth * costs.at(rows, masks=True) - bonus for rows in range(rows_max + 1)]
    sizes = [size for size in _SIZES if size <= count]
    reach = [1.0, *survival]
    values = [0.0] * (count + 1)
    for _ in range(_ROUNDS):
        after = values
        alone = [1.0 - masked[1 + size] + after[size] for size in sizes]
        values = [max(1.0 - plain[1], *alone)]
        for drafts in range(1, count + 1):
            ends = [reach[row] - reach[row + 1] for row in range(drafts)] + [reach[drafts]]
            emitted = sum(reach[: drafts + 1])
            best, likely = emitted - plain[drafts + 1], 0.0
            for groups, end in enumerate(sorted(ends, reverse=True)[:_GROUPS_MAX], 1):
                likely += end
                for size in sizes:
                    cost = masked[drafts + 1 + groups * size]
                    best = max(best, emitted - cost + likely * after[size])
            # Fewer of the drafts may be verified.
            values.append(max(best, values[-1]) if drafts > 1 else best)
        if max(abs(new - old) for new, old in zip(values, after, strict=True)) < _SETTLED:
            break
    return tuple(values)
