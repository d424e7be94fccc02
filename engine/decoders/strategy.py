"""The interface of decoding modes: three functions over a frozen state, none of which computes.

`plan` decides the rows of the next forward; `resolve` decides what its readings mean and which rows
enter the cache. Both are pure, so that a strategy can be tested with hand-written readings, and a
scheduler may call them for many requests and concatenate the rows. Knows neither model nor cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from engine.api import Request
from engine.auto.step_times import CPU_TIMES, StepTimes, prefill_rows
from engine.reading import Reading
from engine.step import Step, chain, chain_with_groups


@dataclass(frozen=True, slots=True)
class Traits:
    """What a strategy knows of the checkpoint and the machine.

    Attributes:
        mask_id: the token for undecided places, which is never emitted; None if the checkpoint
            fills no masks.
        has_drafter: whether the checkpoint has a drafter LoRA.
        draft_masks: the mask tokens of a mask adapter, as `Runtime.draft_masks`.
        costs: the cost of a step by its rows. The emitted tokens never depend on it.
    """

    mask_id: int | None
    has_drafter: bool = False
    draft_masks: tuple[int, ...] = ()
    costs: StepTimes = CPU_TIMES

    @property
    def shifts(self) -> bool:
        """Whether a mask predicts the token after its place (a mask adapter's) or fills it."""
        return bool(self.draft_masks)


@dataclass(frozen=True, slots=True)
class Task:
    """A request as a strategy sees it.

    Attributes:
        cached: the number of prompt tokens whose K/V are cached; less than the whole prompt.
        sequence: the cache sequence to which the request's rows belong.
    """

    request: Request
    cached: int
    sequence: int
    traits: Traits

    @property
    def mask_id(self) -> int | None:
        return self.traits.mask_id

    def masks(self, count: int) -> tuple[int, ...]:
        """Tokens for this number of undecided places."""
        assert self.traits.mask_id is not None, "this checkpoint fills no masks"
        return (self.traits.mask_id,) * count

    def group_masks(self, count: int) -> tuple[int, ...]:
        """The masks of a group by their offset from the row that it hangs on."""
        ids = self.traits.draft_masks
        return (ids + ids[-1:] * count)[:count] if ids else self.masks(count)


@dataclass(frozen=True, slots=True)
class DraftPlace:
    """A place of the draft; `token` is None while the place is undecided."""

    token: int | None
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of a strategy's state that the loop reads.

    Attributes:
        committed: the final, emitted tokens; only ever extended.
        confidences: the confidence of each committed token: its probability by the row that
            decided it.
        draft: the places after them, which may change; ends before a stop token.
        finished: "end", "length", "scored", or None while decoding goes on.
        prefilling: whether no token has been decided yet.
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
        cached: the number of tokens of the sequence that are cached.
        tokens: the final tokens after them, which are to be computed next.
    """

    cached: int
    tokens: tuple[int, ...] = field(default=())

    def plan(self, task: Task) -> Step:
        """A causal chain of the next pending tokens, as many as a step of a prompt should have on
        this machine. The step that leaves nothing pending reads its last row."""
        tokens = self.tokens[: prefill_rows(task.traits.costs)]
        is_last = len(tokens) == len(self.tokens)
        return chain(
            tokens, self.cached, read=(len(tokens) - 1,) if is_last else (), sequence=task.sequence
        )

    def after(self, step: Step) -> PendingTokens:
        """The pending tokens after all rows of the step have been kept."""
        return PendingTokens(self.cached + step.rows, self.tokens[step.rows :])


class State(Protocol):
    """A strategy's frozen state; other code reads `progress` only."""

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
            readings: one per entry of `step.read`, in order; the token of each belongs at the
                corresponding position of `step.places`.
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
    """The pending tokens and the progress after a step of pending tokens was computed and kept.

    The step that leaves nothing pending decides the token after its last row: the bonus token.

    Args:
        readings: the reading of the last row if nothing is pending after the step, else none.
    """
    pending = pending.after(step)
    if pending.tokens:
        return pending, progress
    (bonus,) = readings
    return pending, commit(progress, (bonus.token,), (bonus.probability,), task)


def hang_masks(
    chain: tuple[int, ...], position: int, anchors: Sequence[int], drafts: int, task: Task
) -> Step:
    """A chain to verify, with a group of masks on some of its rows, each for so many drafts.

    The drafts of a group come after the token that the row it hangs on decides. Without token shift
    the first mask stands where that token goes, and is not read.

    Args:
        chain: the bonus token and its drafts.
        anchors: the rows of the chain that groups hang on, ascending.
    """
    traits = task.traits
    masks = task.group_masks(drafts + (not traits.shifts))
    return chain_with_groups(
        chain,
        position,
        [(row, masks) for row in anchors],
        shifts=traits.shifts,
        sequence=task.sequence,
        drafter=traits.has_drafter,
    )


def verify(
    progress: Progress, step: Step, rows: int, readings: Sequence[Reading], task: Task
) -> tuple[Progress, tuple[int, ...]]:
    """Verifies a causal chain of the bonus token and its drafts: the matches and one more token are
    emitted.

    Args:
        rows: the number of rows of the chain, which are the first rows of the step and of `read`.
        readings: the readings of these rows, then of any others.

    Returns:
        The progress, and the decided tokens, including a stop token and tokens after the length
        limit; as many leading rows are to be kept.
    """
    emitted = accepted_length(step.token[1:rows], [reading.token for reading in readings[:rows]])
    decided = tuple(reading.token for reading in readings[:emitted])
    confidences = tuple(reading.probability for reading in readings[:emitted])
    return commit(progress, decided, confidences, task), decided


def accepted_length(drafts: Sequence[int], tokens: Sequence[int]) -> int:
    """The number of verified tokens to emit: the leading ones that were drafted, and one more.

    Args:
        drafts: the drafted token for each place.
        tokens: the tokens of the causal rows, for these places and the one after them.
    """
    assert len(tokens) == len(drafts) + 1
    for index, draft in enumerate(drafts):
        if tokens[index] != draft:
            return index + 1
    return len(tokens)


def room_left(progress: Progress, task: Task) -> int:
    """The number of tokens that may still be emitted."""
    return task.request.limits.tokens_max - len(progress.committed)


def before_stop(places: tuple[DraftPlace, ...], task: Task) -> tuple[DraftPlace, ...]:
    """The part of a draft that can be shown: the places before the first stop token."""
    for index, place in enumerate(places):
        if place.token in task.request.stop_token_ids:
            return places[:index]
    return places
