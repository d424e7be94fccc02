"""The loop that runs every decoding mode, and their executable specification.

Each round is plan → forward → resolve → keep, and yields the whole state. A draft is rolled back
by not keeping its rows. The loop checks for cancellation before every forward. Of a prompt's suffix
it keeps the K/V, and takes them for a later request that allows it (`Request.reuses_suffix`).

`rounds` yields what is to be computed to whoever runs it, who may compute steps of several requests
as one; `decode` computes each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.api import Request, Sampling
from engine.decoders.strategy import PendingTokens, Progress, Strategy, Task, Traits
from engine.reading import Reading
from engine.step import Step


@dataclass(frozen=True, slots=True)
class Forward:
    """A step that a request needs to be computed before it can go on.

    Attributes:
        is_exact: whether its rows need row invariance.
    """

    step: Step
    sampling: Sampling
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward gave.

    Attributes:
        readings: one for each entry of `read` of the request's own step, in order.
        step: the step that was computed, which may have rows of other requests.
        first: the row of it at which the request's own rows begin.
    """

    readings: Sequence[Reading]
    step: Step
    first: int = 0

    def keep(self, cache: StepCache, rows: Iterable[int]) -> None:
        """Caches rows of the request's own step, as `StepCache.keep`."""
        cache.keep(self.step, tuple(self.first + row for row in rows))


class StepModel(Protocol):
    """A network as a function of steps; returns one reading per entry of `step.read`, in order."""

    def __call__(self, step: Step, cache: Any, sampling: Sampling, /) -> Sequence[Reading]: ...


class StepCache(Protocol):
    """What the loop needs of a cache."""

    def open(
        self, prompt: tuple[int, ...], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]: ...
    def find_suffix(self, prompt: tuple[int, ...], suffix: tuple[int, int]) -> Any: ...
    def take_suffix(self, sequence: int, held: Any) -> None: ...
    def hold_suffix(
        self, sequence: int, prompt: tuple[int, ...], suffix: tuple[int, int]
    ) -> None: ...
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


Rounds = Generator["TokenState | Forward", Computed | None]


def decode(
    model: StepModel,
    cache: StepCache,
    strategy: Strategy[Any],
    request: Request,
    traits: Traits,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Generator[TokenState]:
    """Decodes one request by itself; the last state is finished or stopped.

    Closing the iterator frees the request's cache sequence, as running to the end does. Raises as
    `rounds` does, and MemoryExhausted if a step does not fit on the device.
    """
    running = rounds(cache, strategy, request, traits, is_cancelled)
    computed: Computed | None = None
    try:
        while True:
            try:
                made = running.send(computed)
            except StopIteration:
                return
            computed = None
            if isinstance(made, Forward):
                computed = Computed(model(made.step, cache, made.sampling), made.step)
            else:
                yield made
    finally:
        running.close()


def rounds(
    cache: StepCache,
    strategy: Strategy[Any],
    request: Request,
    traits: Traits,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Rounds:
    """Decodes one request; the last state is finished or stopped.

    Yields states, to be answered with None, and forwards, to be answered with what was computed, or
    with None to have them planned anew, which notices a cancellation.

    Closing the iterator frees the request's cache sequence, as running to the end does. Finished
    pages of the prompt stay cached in both cases.

    Raises:
        engine.cache.pages.CacheFull: there is no room while others decode; nothing was begun.
    """
    # The commit pass of block diffusion computes whole blocks, so one more block must fit.
    room = len(request.prompt) + request.length_max + request.block.length
    sequence, cached = cache.open(request.prompt, room, exact=request.exact)
    try:
        task, known = Task(request, cached, sequence, traits), cached
        keeps_suffix = request.suffix[0] < request.suffix[1] and not request.exact
        held = _suffix_to_reuse(cache, task) if keeps_suffix else None
        if held is not None:
            keeps_suffix, known = False, cached + request.suffix[1] - request.suffix[0]
            if not (yield from _before_suffix(cache, task, known, is_cancelled)):
                return
            cache.take_suffix(sequence, held)
            task = replace(task, cached=request.suffix[1])
        state = strategy.start(task)
        forwards, rows = 0, 0
        yield TokenState(state.progress, known, forwards)
        while True:
            if is_cancelled():
                yield TokenState(state.progress, known, forwards, rows, "cancelled")
                return
            if request.limits.steps_max is not None and forwards >= request.limits.steps_max:
                yield TokenState(state.progress, known, forwards, rows, "steps")
                return
            was_prefilling = state.progress.prefilling
            step = strategy.plan(state)
            computed = yield Forward(step, request.sampling, request.exact)
            if computed is None:
                continue
            state, kept = strategy.resolve(state, step, computed.readings)
            computed.keep(cache, kept)
            if not was_prefilling:
                forwards, rows = forwards + 1, rows + step.rows
            elif keeps_suffix and not state.progress.prefilling:
                cache.hold_suffix(sequence, request.prompt, request.suffix)
            yield TokenState(state.progress, known, forwards, rows)
            if state.progress.finished is not None:
                return
    finally:
        cache.close(sequence)


def _suffix_to_reuse(cache: StepCache, task: Task) -> Any:
    """The kept suffix that may stand in for the request's own, which is not cached; None without.

    It is looked up once: other requests take turns with this one and may replace it.
    """
    request = task.request
    if not request.reuses_suffix or task.cached > request.suffix[0]:
        return None
    return cache.find_suffix(request.prompt, request.suffix)


def _before_suffix(
    cache: StepCache, task: Task, known: int, is_cancelled: Callable[[], bool]
) -> Generator[TokenState | Forward, Computed | None, bool]:
    """Computes the prompt up to its suffix; yields the state before and after each forward.

    Returns whether it was not cancelled.

    Args:
        known: the number of prompt tokens that need not be computed.
    """
    pending = PendingTokens(task.cached, task.request.prompt[task.cached : task.request.suffix[0]])
    yield TokenState(Progress(), known, 0)
    while pending.tokens:
        if is_cancelled():
            yield TokenState(Progress(), known, 0, stopped="cancelled")
            return False
        step = replace(pending.plan(task), read=())
        computed = yield Forward(step, task.request.sampling, task.request.exact)
        if computed is None:
            continue
        computed.keep(cache, range(step.rows))
        pending = pending.after(step)
        yield TokenState(Progress(), known, 0)
    return True
