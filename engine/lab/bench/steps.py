"""How long whole steps and whole decoding cycles take at one network shape on one device.

The engine's own runner, cache and decoding loop are measured, so that the figures include what a
step costs besides its matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from engine.api import BlockOptions, Limits, Request, Sampling
from engine.lab.rates import seconds_of, synchronize
from engine.lab.verify.modes import Runner
from engine.model.runner import ModelRunner
from engine.step import Step, chain

ROWS = (1, 8, 32, 64, 96, 128, 272)
CONTEXTS = (304, 4096, 16_384)
_PREFILL_ROWS = 512
_ROOM = 512
_KERNELS = 15
_GREEDY = Sampling()
_MODES = (
    ("ar", 32),
    ("block", 32),
    ("linear_spec", 32),
    ("quadratic_spec", 16),
    ("pruned_spec", 16),
    ("copy_spec", 16),
)


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: a causal chain of `rows` after `context` cached tokens, with a reading of every
    row, as decoding asks for."""

    rows: int
    context: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class CycleTime:
    """Decoding in one mode: forwards that emitted and all forwards, per second; `length` is that
    of its blocks."""

    mode: str
    length: int
    cycles_per_second: float
    forwards_per_second: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """The part of a step's device time that one kernel takes."""

    name: str
    milliseconds: float
    calls: int


def measure_steps(
    model: ModelRunner, rows: Sequence[int] = ROWS, contexts: Sequence[int] = CONTEXTS
) -> Iterator[StepTime]:
    """Measures every number of rows after every context, along one growing prompt."""
    cache = Runner(model).new_cache(max(contexts) + _ROOM)
    prompt = seeded_tokens(model, max(contexts) + 1)
    sequence, _ = cache.open(prompt, max(contexts) + _ROOM)
    cached = 0
    for context in sorted(contexts):
        while cached < context:
            part = prompt[cached : min(cached + _PREFILL_ROWS, context)]
            step = chain(part, cached, sequence=sequence)
            model(step, cache, _GREEDY)
            cache.keep(step, tuple(range(step.rows)))
            cached += step.rows
        for count in rows:
            step = _verify(seeded_tokens(model, count), cached, sequence)
            seconds = seconds_of(lambda step=step: model(step, cache, _GREEDY), model.device)
            yield StepTime(count, context, seconds * 1000)
    cache.close(sequence)


def measure_cycles(
    model: ModelRunner, context: int = CONTEXTS[0], tokens: int = 64
) -> Iterator[CycleTime]:
    """Measures the decoding loop in every mode on a prompt of `context` tokens.

    Random weights accept almost no draft: the cost of a cycle is real, its yield means nothing.
    """
    runner = Runner(model)
    # One for all: what a runner has prepared for a cache is kept as long as the cache is.
    cache = runner.new_cache(context + tokens + _ROOM)
    for mode, length in _MODES:
        request = Request(
            prompt=seeded_tokens(model, context),
            mode=mode,
            limits=Limits(tokens_max=tokens),
            block=BlockOptions(length=length, threshold=0.9),
        )
        runner.decode(request, cache=cache)  # warms up
        done = runner.decode(request, cache=cache)
        cycles, forwards = done.cycles / done.seconds, done.forwards / done.seconds
        yield CycleTime(mode, length, cycles, forwards)


def profile_step(model: ModelRunner, rows: int = 32, context: int = CONTEXTS[0]) -> list[Kernel]:
    """The kernels of one step, those with the most device time first."""
    cache = Runner(model).new_cache(context + _ROOM)
    sequence, _ = cache.open(seeded_tokens(model, context + 1), context + _ROOM)
    step = chain(seeded_tokens(model, context), 0, sequence=sequence)
    model(step, cache, _GREEDY)
    cache.keep(step, tuple(range(step.rows)))
    step = _verify(seeded_tokens(model, rows), context, sequence)
    model(step, cache, _GREEDY)
    is_cuda = model.device.type == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as recorded:
        model(step, cache, _GREEDY)
        synchronize(model.device)
    events = [
        Kernel(
            event.key[:120],
            (event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1000,
            event.count,
        )
        for event in recorded.key_averages()
    ]
    return sorted(events, key=lambda kernel: -kernel.milliseconds)[:_KERNELS]


def seeded_tokens(model: ModelRunner, count: int) -> tuple[int, ...]:
    """Seeded token ids above the special ones."""
    generator = torch.Generator().manual_seed(count)
    low = min(1000, model.network.config.vocabulary // 2)
    high = model.network.config.vocabulary
    return tuple(torch.randint(low, high, (count,), generator=generator).tolist())


def _verify(tokens: tuple[int, ...], position: int, sequence: int) -> Step:
    return chain(tokens, position, read=tuple(range(len(tokens))), sequence=sequence)
