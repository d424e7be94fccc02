"""Linear self-speculation: the model drafts a block in parallel and verifies it causally.

This follows Nemotron-Labs-Diffusion's reference `linear_spec_generate` (arXiv 2607.05722). One
bidirectional forward of [bonus token, masks] with the drafter LoRA fills every mask. One causal
forward of the same block without the LoRA gives the token that follows each place. The longest run
of agreement is kept, and the causal token after it is the next bonus token, so that every emitted
token is an autoregressive one.

Above temperature 0 both forwards draw with the same random number for a place. The causal draw is
emitted, so that the distribution, and for a given seed every token, is that of "ar". The shared
number makes the two draws agree more often than independent numbers would. (The drafts of a mask
adapter are the likeliest tokens at any temperature.)

With a mask adapter, whose rows predict the token after their place, the bonus token's row of the
drafting forward is a causal row of its own: it is cached, and decides the next token at once. The
drafts after that token are then verified as above, so that a cycle emits one token more.

Where the text repeats itself, a copied draft needs no draft forward. A cycle uses it if it promises
more tokens per millisecond. The verifying row decides in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.decoders.copying import (
    Copy,
    CopyRecord,
    best_length,
    expected_tokens,
    find_copy,
    shown,
)
from engine.decoders.strategy import (
    DraftPlace,
    PendingTokens,
    Progress,
    Task,
    advance_prefill,
    before_stop,
    hang_masks,
    room_left,
    verify,
)
from engine.reading import Reading
from engine.step import Step, chain, group

WINDOW_FIRST = 8  # rows of the first block; the window grows while whole drafts are accepted
# The prior probability that one more drafted token is right: a geometric law with 5.46 accepted of
# 32 without the drafter LoRA (arXiv 2607.05722, SPEED-Bench), and its weight in tokens.
CHANCE, CHANCE_WEIGHT = 0.82, 6.0


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """The results of the model's own drafts in one request."""

    hits: int = 0
    tried: int = 0

    def after(self, drafts: int, emitted: int) -> DraftRecord:
        """The record after a cycle with this number of drafts and emitted tokens."""
        return DraftRecord(self.hits + emitted - 1, self.tried + min(emitted, drafts))

    def chance(self) -> float:
        """The probability that one more drafted token is right if all before it were."""
        return (self.hits + CHANCE * CHANCE_WEIGHT) / (self.tried + CHANCE_WEIGHT)


@dataclass(frozen=True, slots=True)
class LinearState:
    """Caching the prompt, then drafting and verifying in turn.

    Attributes:
        pending: the rest of the prompt; afterwards its `cached` ends before the bonus token, which
            is the last committed token.
        window: the rows of the next block that the model drafts itself.
        drafts: the tokens after the bonus token to verify; None if they are still to be drafted.
        is_copied: whether `drafts` were copied.
        copy: the tokens that could be copied after the bonus token.
        record: the results of the model's own drafts.
        copies: the results of copying.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    window: int = WINDOW_FIRST
    drafts: tuple[int, ...] | None = None
    is_copied: bool = False
    copy: Copy = field(default_factory=Copy)
    record: DraftRecord = field(default_factory=DraftRecord)
    copies: CopyRecord = field(default_factory=CopyRecord)


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """Strategy "linear_spec".

    Attributes:
        uses_copies: false for the reference algorithm as published, for comparisons.
    """

    uses_copies: bool = True

    def start(self, task: Task) -> LinearState:
        return LinearState(
            task, PendingTokens(task.cached, task.request.prompt[task.cached :]), Progress()
        )

    def plan(self, state: LinearState) -> Step:
        if state.pending.tokens:
            return state.pending.plan(state.task)
        task = state.task
        bonus = state.progress.committed[-1]
        if state.drafts is not None:
            tokens = (bonus, *state.drafts)
            read = tuple(range(len(tokens)))
            return chain(tokens, state.pending.cached, read=read, sequence=task.sequence)
        if task.traits.shifts:
            return hang_masks((bonus,), state.pending.cached, (0,), state.window - 1, task)
        return group(
            (bonus, *task.masks(state.window - 1)),
            state.pending.cached,
            read=tuple(range(1, state.window)),
            sequence=task.sequence,
            drafter=task.traits.has_drafter,
        )

    def resolve(
        self, state: LinearState, step: Step, readings: Sequence[Reading]
    ) -> tuple[LinearState, tuple[int, ...]]:
        if state.pending.tokens:
            pending, progress = advance_prefill(
                state.pending, state.progress, step, readings, state.task
            )
            following = replace(state, pending=pending, progress=progress)
            return self._next_cycle(following), tuple(range(step.rows))
        if state.drafts is not None:
            return self._verified(state, step, readings)
        if not state.task.traits.shifts:
            return _drafted(state, readings), ()
        # The first reading is of the bonus token's own row, and decides the next bonus token.
        progress, (bonus,) = verify(state.progress, step, 1, readings, state.task)
        pending = PendingTokens(state.pending.cached + 1)
        following = replace(state, pending=pending, progress=progress)
        following = replace(following, copy=Copy(), copies=state.copies.after(state.copy, (bonus,)))
        if progress.finished is None:
            following = _drafted(following, readings[1:])
        return following, (0,)

    def _verified(
        self, state: LinearState, step: Step, readings: Sequence[Reading]
    ) -> tuple[LinearState, tuple[int, ...]]:
        task = state.task
        progress, tokens = verify(state.progress, step, step.rows, readings, task)
        emitted = len(tokens)
        window, record = state.window, state.record
        if not state.is_copied:
            record = record.after(step.rows - 1, emitted)
            window = _next_window(window, emitted, task.request.block.length)
        following = LinearState(
            task,
            PendingTokens(state.pending.cached + emitted),
            progress,
            window,
            record=record,
            copies=state.copies.after(state.copy, tokens),
        )
        return self._next_cycle(following), tuple(range(emitted))

    def _next_cycle(self, state: LinearState) -> LinearState:
        """Bounds the window by the tokens that can still be emitted, and takes a copy if that
        pays more. A bonus token that nothing can follow needs no draft."""
        if state.pending.tokens or state.progress.finished is not None:
            return state
        task = state.task
        room = room_left(state.progress, task) - task.traits.shifts
        bounded = min(state.window, task.request.block.length, room)
        if bounded <= 1:
            return replace(state, window=1, drafts=())
        state = replace(state, window=bounded)
        return _with_copy(state) if self.uses_copies else state


def _drafted(state: LinearState, readings: Sequence[Reading]) -> LinearState:
    places = tuple(DraftPlace(reading.token, reading.probability) for reading in readings)
    progress = replace(state.progress, draft=before_stop(places, state.task))
    return replace(state, progress=progress, drafts=tuple(each.token for each in readings))


def _with_copy(state: LinearState) -> LinearState:
    """Takes a copied draft if it promises more tokens per millisecond than an own draft."""
    task = state.task
    costs = task.traits.costs
    copy = find_copy(state.progress, task)
    choice = best_length(copy, state.copies, costs)
    own_tokens = expected_tokens(state.record.chance(), state.window - 1) + task.traits.shifts
    own_time = costs.at(state.window, masks=True) + costs.at(state.window)
    own = own_tokens / own_time
    if not choice.drafts or choice.rate <= own:
        return replace(state, copy=copy)
    drafts = copy.tokens[: choice.drafts]
    places = shown(drafts, state.copies.chance(copy.match), task)
    progress = replace(state.progress, draft=places)
    return replace(state, progress=progress, copy=copy, drafts=drafts, is_copied=True)


def _next_window(window: int, emitted: int, longest: int) -> int:
    """Doubles the window after a block was accepted whole; halves it if half or less was."""
    if emitted == window:
        return min(2 * window, longest)
    return max(window // 2, 2) if emitted <= window // 2 else window
