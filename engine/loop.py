"""The one loop behind every decoding mode, and the executable specification of them all.

plan → forward → resolve → keep, one yield per forward, always the whole state. Rollback is not
keeping. Cancellation is read before every forward.
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
    """A network as a function of steps: one reading per entry of `step.read`, in its order."""

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
    """The state after a forward (or before the first one).

    Attributes:
        cached: prompt tokens that needed no forward.
        forwards: device calls after the one that completed the prompt.
        rows: that they computed, together.
        stopped: why the loop ends here with the state unfinished: "cancelled", "steps", or None.
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

    Closing the iterator frees its cache sequence, as running to the end does; finished pages of
    the prompt stay cached in every case.

    Raises:
        engine.cache.pages.CacheFull: no room while others decode; nothing was begun.
        engine.errors.MemoryExhausted: a step does not fit on the device.
    """
    # A block's commit pass feeds whole blocks: room for one more than the tokens asked for.
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
