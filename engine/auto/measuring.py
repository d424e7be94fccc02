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
from engine.step import Step, chain

ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
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
    model has fewer samples, but at least one after the warm-up.

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
    least = [min(times[1:]) for times in samples.values()]
    return never_falling(tuple(samples), least, context)


def _timed(runtime: Runtime, cache: Cache, step: Step) -> float:
    """The milliseconds that one step takes; its rows are not kept."""
    began = time.perf_counter()
    runtime(step, cache, Sampling())
    return (time.perf_counter() - began) * 1000
