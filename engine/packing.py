"""Which forwards of several requests are computed as one step. Torch-free; computes nothing.

A step of a few rows takes hardly longer than one of a single row, since most of its time is spent
on reading the weights. Rows of several requests therefore share a step where that is faster than
two steps would be, by the machine's own step times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.auto.step_times import StepTimes
from engine.loop import Computed, Forward
from engine.reading import Reading
from engine.step import Step

# The part of a forward's own time that it has to save by sharing a step: below that, it only makes
# the others wait longer for theirs.
SAVING_MIN = 0.25
# The most cached tokens of all sequences in a shared step on a CPU, where they are put together and
# every row looks at all of them. With Qwen2.5-Coder-0.5B two rows of 2,048 tokens each take 0.8
# times as long as in turns, two of 4,096 1.2 times, and four of them 1.8 times.
CPU_CACHED_MAX = 6144


def chosen(
    waiting: Sequence[Forward], times: StepTimes | None, cached_max: float = math.inf
) -> list[int]:
    """Returns which of the waiting forwards are computed as one step, the first always among them.

    Args:
        waiting: at least one, in the order of their turns.
        times: the machine's step times; without them each is computed by itself.
        cached_max: the most cached tokens of all sequences in a step that several share.
    """
    first = waiting[0]
    cached = min(first.step.position)
    taken, rows, has_masks = [0], first.step.rows, any(first.step.drafter)
    for number, forward in enumerate(waiting[1:], 1):
        is_alike = forward.sampling == first.sampling and not forward.is_exact
        # Exact rows are computed in tiles of their own, so that nothing would be shared.
        if times is None or first.is_exact or not is_alike:
            continue
        step, further = forward.step, min(forward.step.position)
        if cached + further > cached_max:
            continue
        masks = any(step.drafter)
        together = times.at(rows + step.rows, masks=has_masks or masks)
        added = together - times.at(rows, masks=has_masks)
        if added <= (1 - SAVING_MIN) * times.at(step.rows, masks=masks):
            taken.append(number)
            cached += further
            rows, has_masks = rows + step.rows, has_masks or masks
    return taken


def shared_out(
    forwards: Sequence[Forward], step: Step, readings: Sequence[Reading]
) -> list[Computed]:
    """Returns each forward's part of what was computed for all of them.

    Args:
        step: the forwards' steps, joined in order.
        readings: those of the joined step, in order.
    """
    parts: list[Computed] = []
    row, entry = 0, 0
    for forward in forwards:
        own = readings[entry : entry + len(forward.step.read)]
        parts.append(Computed(own, step, row))
        row, entry = row + forward.step.rows, entry + len(own)
    assert row == step.rows
    assert entry == len(readings)
    return parts
