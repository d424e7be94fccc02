"""What every decoding mode is: three functions over a frozen state, of which none computes.

`plan` says which rows the next forward has, `resolve` what its readings mean and which rows may
enter the cache. Both are pure, so a strategy is tested with hand-written readings, and a scheduler
may call them for many requests and concatenate the rows. Knows neither model nor cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from engine.api import Request
from engine.auto.step_times import CPU_TIMES, StepTimes, prefill_rows
from engine.reading import Reading
from engine.step import Step, chain


@dataclass(frozen=True, slots=True)
class Traits:
    """What a strategy must know of the checkpoint and the machine.

    Attributes:
        mask_id: fills undecided places, and is never emitted; None where it fills no masks.
        has_drafter: it has a drafter LoRA.
        costs: of a step by its rows. What is emitted never depends on it.
    """

    mask_id: int | None
    has_drafter: bool = False
    costs: StepTimes = CPU_TIMES


@dataclass(frozen=True, slots=True)
class Task:
    """A request as a strategy sees it.

    Attributes:
        cached: prompt tokens whose K/V are in the cache already; less than the whole prompt.
        sequence: the cache sequence its rows belong to.
    """

    request: Request
    cached: int
    sequence: int
    traits: Traits

    @property
    def mask_id(self) -> int | None:
        return self.traits.mask_id

    def masks(self, count: int) -> tuple[int, ...]:
        """So many masked places."""
        assert self.traits.mask_id is not None, "this checkpoint fills no masks"
        return (self.traits.mask_id,) * count


@dataclass(frozen=True, slots=True)
class DraftPlace:
    """A place of the draft: `token` is None while undecided."""

    token: int | None
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What every state tells the loop.

    Attributes:
        committed: emitted tokens, final; grows only.
        confidences: of each committed token.
        draft: places behind them, which may change; never reaches a stop token.
        finished: "end", "length", or None while decoding goes on.
        prefilling: no token was decided yet.
    """

    committed: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    draft: tuple[DraftPlace, ...] = ()
    finished: str | None = None
    prefilling: bool = True


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """Final tokens on their way into the cache, in chunks: the prompt, then what was emitted.

    Attributes:
        cached: tokens of the sequence that are in the cache.
        tokens: the final tokens after them, which are to be computed next.
    """

    cached: int
    tokens: tuple[int, ...] = field(default=())

    def plan(self, task: Task) -> Step:
        """A causal chain of the next pending tokens, as many as a step of a prompt should have
        here; reads the last row once none is left."""
        tokens = self.tokens[: prefill_rows(task.traits.costs)]
        is_last = len(tokens) == len(self.tokens)
        return chain(
            tokens, self.cached, read=(len(tokens) - 1,) if is_last else (), sequence=task.sequence
        )

    def after(self, step: Step) -> PendingTokens:
        """What is pending once all the rows of the step are kept."""
        return PendingTokens(self.cached + step.rows, self.tokens[step.rows :])


class State(Protocol):
    """A strategy's frozen state; only `progress` is read from outside."""

    @property
    def progress(self) -> Progress: ...


S = TypeVar("S", bound=State)


class Strategy(Protocol[S]):
    """One decoding mode."""

    def start(self, task: Task) -> S:
        """The state before the first forward."""
        ...

    def plan(self, state: S) -> Step:
        """The rows of the next forward. Pure."""
        ...

    def resolve(
        self, state: S, step: Step, readings: Sequence[Reading]
    ) -> tuple[S, tuple[int, ...]]:
        """The next state, and the rows to keep in the cache. Pure.

        Args:
            readings: one per entry of `step.read`, in its order; the token of each belongs at the
                position that `step.places` says.
        """
        ...


def commit(
    progress: Progress, tokens: tuple[int, ...], confidences: tuple[float, ...], task: Task
) -> Progress:
    """`progress` with further final tokens, cut at the first stop token or at the length limit."""
    request = task.request
    room = request.limits.tokens_max - len(progress.committed)
    finished: str | None = "length" if len(tokens) >= room else None
    count = min(len(tokens), room)
    for index, token in enumerate(tokens[:count]):
        if token in request.stop_token_ids:
            count, finished = index, "end"
            break
    return Progress(
        committed=progress.committed + tokens[:count],
        confidences=progress.confidences + confidences[:count],
        finished=finished,
        prefilling=False,
    )


def advance_prefill(
    pending: PendingTokens, progress: Progress, step: Step, readings: Sequence[Reading], task: Task
) -> tuple[PendingTokens, Progress]:
    """What is pending, and the progress, after a step of pending tokens was computed and kept.

    The step that leaves nothing pending decides the token behind it: the bonus token.

    Args:
        readings: that of the last row where the step was the last one, else none.
    """
    pending = pending.after(step)
    if pending.tokens:
        return pending, progress
    (bonus,) = readings
    return pending, commit(progress, (bonus.token,), (bonus.probability,), task)


def verify(
    progress: Progress, step: Step, rows: int, readings: Sequence[Reading], task: Task
) -> tuple[Progress, tuple[int, ...]]:
    """What a causal chain of the bonus token and its drafts emits: the matches, and one more.

    Args:
        rows: of the chain, the first ones of the step; all of them read, in this order.
        readings: of these rows, then of any others.

    Returns:
        The progress, and the tokens that were decided (a stop token and what lies over the length
        limit included); so many leading rows are to be kept.
    """
    emitted = accepted_length(step.token[1:rows], [reading.token for reading in readings[:rows]])
    decided = tuple(reading.token for reading in readings[:emitted])
    confidences = tuple(reading.probability for reading in readings[:emitted])
    return commit(progress, decided, confidences, task), decided


def accepted_length(drafts: Sequence[int], tokens: Sequence[int]) -> int:
    """How many verified tokens are emitted: the leading ones that were drafted, and one more.

    Args:
        drafts: what was guessed for each place.
        tokens: what the causal rows gave, for these places and the one behind them.
    """
    assert len(tokens) == len(drafts) + 1
    for index, draft in enumerate(drafts):
        if tokens[index] != draft:
            return index + 1
    return len(tokens)


def room_left(progress: Progress, task: Task) -> int:
    """Tokens that may still be emitted."""
    return task.request.limits.tokens_max - len(progress.committed)


def before_stop(places: tuple[DraftPlace, ...], task: Task) -> tuple[DraftPlace, ...]:
    """The part of a draft that can be shown: up to the first stop token."""
    for index, place in enumerate(places):
        if place.token in task.request.stop_token_ids:
            return places[:index]
    return places
