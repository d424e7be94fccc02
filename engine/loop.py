"""The loop that runs every decoding mode, and their executable specification.

Each round is plan → forward → resolve → keep, and yields the whole state. A draft is rolled back
by not keeping its rows. The loop checks for cancellation before every forward.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.api import Request, Sampling
from engine.decoders.strategy import Progress, Strategy, Task, Traits
from engine.reading import Reading
from engine.step import Step


class StepModel(Protocol):
    """A network as a function of steps; returns one reading per entry of `step.read`, in order."""

    def __call__(self, step: Step, cache: Any, sampling: Sampling, /) -> Sequence[Reading]: ...


class StepCache(Protocol):
    """What the loop needs of a cache."""

    def open(
        self, prompt: tuple[int, ...], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]: ...
    def keep(self, step: Step, rows: tuple[int, ...]) -> None: ...
    def close(self, sequence: int) -> None: ...


@dataclass(frozen=True, slots=True)
class TokenState:
    """The state after a forward, or before the first one.

    Attributes:
        cached: the number of prompt tokens that were in the cache already.
        forwards: the number of forwards after the one that completed the prompt.
        rows: the total number of rows of these forwards.
        stopped: why the loop ends before the request is finished: "cancelled", "steps", or None.
    """

    progress: Progress
    cached: int
    forwards: int
    rows: int = 0
    stopped: str | None = None


def decode(
    model: StepModel,
    cache: StepCache,
    strategy: Strategy[Any],
    request: Request,
    traits: Traits,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Generator[TokenState]:
    """Decodes one request; the last state is finished or stopped.

    Closing the iterator frees the request's cache sequence, as running to the end does. Finished
    pages of the prompt stay cached in both cases.

    Raises:
        engine.cache.pages.CacheFull: there is no room while others decode; nothing was begun.
        engine.errors.MemoryExhausted: a step does not fit on the device.
    """
    # The commit pass of block diffusion computes whole blocks, so one more block must fit.
    room = len(request.prompt) + request.limits.tokens_max + request.block.length
    sequence, cached = cache.open(request.prompt, room, exact=request.exact)
    try:
        task = Task(request, cached, sequence, traits)
        state = strategy.start(task)
        forwards, rows = 0, 0
        yield TokenState(state.progress, cached, forwards)
        while True:
            if is_cancelled():
                yield TokenState(state.progress, cached, forwards, rows, "cancelled")
                return
            if request.limits.steps_max is not None and forwards >= request.limits.steps_max:
                yield TokenState(state.progress, cached, forwards, rows, "steps")
                return
            was_prefilling = state.progress.prefilling
            step = strategy.plan(state)
            readings = model(step, cache, request.sampling)
            state, kept = strategy.resolve(state, step, readings)
            cache.keep(step, kept)
            if not was_prefilling:
                forwards, rows = forwards + 1, rows + step.rows
            yield TokenState(state.progress, cached, forwards, rows)
            if state.progress.finished is not None:
                return
    finally:
        cache.close(sequence)
