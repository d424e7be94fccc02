"""Linear self-speculation: the model drafts a block in parallel and verifies it causally.

As Nemotron-Labs-Diffusion's reference `linear_spec_generate` (arXiv 2607.05722): one bidirectional
forward of [bonus token, masks] with the drafter LoRA on fills every mask; one causal forward of the
same block with it off says which token follows each place. The longest run of agreement is kept,
and the causal token after it is the next bonus token, so that every emitted token is an
autoregressive one.

Above temperature 0 both forwards draw with the place's one random number. What is emitted is the
causal draw, so its distribution, and with a seed its every token, is that of "ar"; sharing the
number makes the two draws agree more often than independent ones would.

Where the text repeats itself, a copied draft costs no draft forward: a cycle takes it instead when
it promises more tokens per millisecond. The verifying row decides either way.
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
    room_left,
    verify,
)
from engine.reading import Reading
from engine.step import Step, chain, group

WINDOW_FIRST = 8  # rows of the first block; grows while drafts are accepted whole
# That one more drafted token is right: 5.46 accepted of 32 without the drafter LoRA
# (arXiv 2607.05722, SPEED-Bench), as a geometric law. Counts as so many tokens of a request's own.
CHANCE, CHANCE_WEIGHT = 0.82, 6.0


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """How the model's own drafts did in this request."""

    hits: int = 0
    tried: int = 0

    def after(self, drafts: int, emitted: int) -> DraftRecord:
        """The record once a cycle of so many drafts emitted so many tokens."""
        return DraftRecord(self.hits + emitted - 1, self.tried + min(emitted, drafts))

    def chance(self) -> float:
        """That one more drafted token is right, where all before it were."""
        return (self.hits + CHANCE * CHANCE_WEIGHT) / (self.tried + CHANCE_WEIGHT)


@dataclass(frozen=True, slots=True)
class LinearState:
    """Feeding the prompt, then drafting and verifying in turn.

    Attributes:
        pending: the prompt's rest; afterwards its `cached` ends before the bonus token, which is
            the token committed last.
        window: rows of the next block that the model drafts itself.
        drafts: tokens behind the bonus token to verify, or None when they are to be drafted.
        is_copied: whether `drafts` are copied ones.
        copy: what could be copied behind the bonus token.
        record, copies: how the model's drafts and the copied ones did so far.
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
        uses_copies: false for the reference algorithm as published, to compare with.
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
        if state.drafts is None:
            return _drafted(state, readings), ()
        return self._verified(state, step, readings)

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
        """Bounds the window by what can still be emitted, and takes a copy where that pays more.

        A lone bonus token needs no draft.
        """
        if state.pending.tokens or state.progress.finished is not None:
            return state
        task = state.task
        bounded = min(state.window, task.request.block.length, room_left(state.progress, task))
        if bounded <= 1:
            return replace(state, window=1, drafts=())
        state = replace(state, window=bounded)
        return _with_copy(state) if self.uses_copies else state


def _drafted(state: LinearState, readings: Sequence[Reading]) -> LinearState:
    places = tuple(DraftPlace(reading.token, reading.probability) for reading in readings)
    progress = replace(state.progress, draft=before_stop(places, state.task))
    return replace(state, progress=progress, drafts=tuple(each.token for each in readings))


def _with_copy(state: LinearState) -> LinearState:
    """A copied draft, where it promises more tokens per millisecond than drafting and verifying."""
    task = state.task
    costs = task.traits.costs
    copy = find_copy(state.progress, task)
    choice = best_length(copy, state.copies, costs)
    own = expected_tokens(state.record.chance(), state.window - 1) / (2 * costs.at(state.window))
    if not choice.drafts or choice.rate <= own:
        return replace(state, copy=copy)
    drafts = copy.tokens[: choice.drafts]
    places = shown(drafts, state.copies.chance(copy.match), task)
    progress = replace(state.progress, draft=places)
    return replace(state, progress=progress, copy=copy, drafts=drafts, is_copied=True)


def _next_window(window: int, emitted: int, longest: int) -> int:
    """Twice as long after a block accepted whole, half after one of which half or less was."""
    if emitted == window:
        return min(2 * window, longest)
    return max(window // 2, 2) if emitted <= window // 2 else window
