"""Measures the step-time curve with real steps of the loaded runtime, one at a time.

The measurement has a small K/V cache of its own, so that it never takes room from a request. It is
a generator, so that its caller decides when the next step may run. Knows no queue and no file.
"""

from __future__ import annotations

import time
from collections.abc import Generator

from engine.api import Sampling
from engine.auto.step_times import StepTimes, never_falling
from engine.runtime import Cache, Runtime
from engine.step import Step, chain, chain_with_groups

ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
MASKED_ROWS_MAX = 32  # a step with masks has hardly more
CONTEXT = 256  # cached tokens, as for the prompt of a short completion
SAMPLES = 5  # steps for each count of rows, after a warm-up; the least time counts
PREFILL_ROWS = 32
# If a step takes longer than this twice, larger counts are not measured but extrapolated, because
# a user who begins to type has to wait for the step that has begun.
SLOW_SECONDS = 0.3
# No further round begins after this time; the next start of the engine adds to the curve.
TOTAL_SECONDS = 10.0


def measure(runtime: Runtime) -> Generator[None, None, StepTimes]:
    """Runs one step for each `next`, and returns the curve at the end.

    A step is timed as decoding runs it, from its rows to a reading of each. The curve of a large
    model has fewer samples, but at least one after the warm-up. Where there is a mask adapter, each
    count is timed with masks as well.

    Raises:
        engine.errors.MemoryExhausted: not even the small cache fits.
    """
    config = runtime.config
    context = min(CONTEXT, max(1, config.positions_max - ROWS[-1]))
    tokens = tuple((7 * place + 11) % config.vocabulary for place in range(context + ROWS[-1]))
    cache = runtime.new_cache(len(tokens) + 32)
    sequence, _ = cache.open(tokens[:context], len(tokens))
    spent = 0.0  # milliseconds
    for start in range(0, context, PREFILL_ROWS):
        step = chain(tokens[start : min(start + PREFILL_ROWS, context)], start, sequence=sequence)
        spent += _timed(runtime, cache, step)
        cache.keep(step, tuple(range(step.rows)))
        yield
    # Each round measures all counts of rows, so that other work on the machine affects all alike.
    samples: dict[int, list[float]] = {}
    masked: dict[int, list[float]] = {}
    for round_number in range(1 + SAMPLES):
        if round_number > 1 and spent > TOTAL_SECONDS * 1000:
            break
        for rows in samples if round_number else ROWS:
            new = tokens[context : context + rows]
            step = chain(new, context, read=tuple(range(rows)), sequence=sequence)
            spent += (time_ms := _timed(runtime, cache, step))
            samples.setdefault(rows, []).append(time_ms)
            yield
            if round_number == 0 and len(samples) > 1 and time_ms > SLOW_SECONDS * 1000:
                spent += (again_ms := _timed(runtime, cache, step))
                yield
                if again_ms > SLOW_SECONDS * 1000:
                    break
        for rows in [rows for rows in samples if runtime.draft_masks and rows <= MASKED_ROWS_MAX]:
            step = _with_masks(tokens[context], rows, context, runtime.draft_masks, sequence)
            spent += (time_ms := _timed(runtime, cache, step))
            masked.setdefault(rows, []).append(time_ms)
            yield
    least, least_masked = (
        [min(times[1:]) for times in each.values()] for each in (samples, masked)
    )
    if masked:  # the adapter adds to larger steps as much as to the largest measured one
        added = least_masked[-1] - least[len(masked) - 1]
        least_masked += [time + added for time in least[len(masked) :]]
    return never_falling(tuple(samples), least, context, least_masked)


def _with_masks(
    token: int, rows: int, position: int, masks: tuple[int, ...], sequence: int
) -> Step:
    """A causal row and a group of masks on it, as many rows in all and two at least."""
    count = max(rows - 1, 1)
    group = (masks * count)[:count]
    return chain_with_groups(
        (token,), position, [(0, group)], shifts=True, sequence=sequence, drafter=True
    )


def _timed(runtime: Runtime, cache: Cache, step: Step) -> float:
    """The milliseconds that one step takes; its rows are not kept."""
    began = time.perf_counter()
    runtime(step, cache, Sampling())
    return (time.perf_counter() - began) * 1000
