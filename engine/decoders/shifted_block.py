"""Block diffusion with a mask adapter, whose rows predict the token after their place.

A forward has the text that is not cached yet as a causal chain, and a group of masks on the chain's
last row for the block after it. The chain's rows give the exact token of every place up to the
first masked one, and row j of the group that of the place j further on. A draft's confidence is
that it is right where all before it are, since the drafts of a group follow from each other. So a
place is decided when the product of the confidences up to it reaches the threshold, and the first
masked place always is.

A decided place may be revised until it is committed. It is part of the next forward's chain, whose
rows are computed in any case to write clean K/V: where the exact token is another one, it takes the
decided one's place, and what was decided after it is masked again. A request has a budget of such
revisions (`BlockOptions.revisions`); once it is spent, what is decided is committed at once.
Without a budget the text depends on the threshold alone, as in block diffusion of a checkpoint
that fills masks; with one that is never spent it is the text of "ar".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.decoders.strategy import (
    DraftPlace,
    PendingTokens,
    Progress,
    Task,
    accepted_length,
    advance_prefill,
    before_stop,
    commit,
    hang_masks,
    room_left,
)
from engine.reading import Reading
from engine.step import Step

# Places of a block, at most. Of ten drafts at the eighth place one is right with all before it
# (Qwen2.5-Coder-0.5B), so that further rows would cost more than they bring.
BLOCK_MAX = 8


@dataclass(frozen=True, slots=True)
class ShiftedState:
    """Feeding the prompt, then one forward after the other.

    Attributes:
        pending: the prompt's rest; afterwards the committed tokens that are not cached yet, one at
            least.
        decided: the places after the committed text that may be revised.
        revisions: how many of them may still be.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    decided: tuple[DraftPlace, ...] = ()
    revisions: int = 0


class ShiftedBlock:
    """Strategy "block" of a checkpoint with a mask adapter."""

    def start(self, task: Task) -> ShiftedState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        revisions = task.request.block.revisions
        # Every token is revised once at most.
        budget = task.request.limits.tokens_max if revisions is None else revisions
        return ShiftedState(task, pending, Progress(), revisions=budget)

    def plan(self, state: ShiftedState) -> Step:
        if state.progress.prefilling:
            return state.pending.plan(state.task)
        task, final = state.task, len(state.pending.tokens)
        chain = state.pending.tokens + _tokens(state.decided)
        room = room_left(state.progress, task)
        block = min(task.request.block.length, BLOCK_MAX)
        masks = min(block, room - len(state.decided)) - 1
        anchors = (len(chain) - 1,) if masks > 0 else ()
        step = hang_masks(chain, state.pending.cached, anchors, masks, task)
        # The rows of tokens that are final decide nothing, but for the last of them.
        unread = final - 1
        follows = tuple(entry - unread if entry >= 0 else entry for entry in step.follows[unread:])
        return replace(step, read=step.read[unread:], follows=follows)

    def resolve(
        self, state: ShiftedState, step: Step, readings: Sequence[Reading]
    ) -> tuple[ShiftedState, tuple[int, ...]]:
        task = state.task
        if state.progress.prefilling:
            pending, progress = advance_prefill(state.pending, state.progress, step, readings, task)
            if not pending.tokens:
                pending = replace(pending, tokens=progress.committed)
            return replace(state, pending=pending, progress=progress), tuple(range(step.rows))
        final = len(state.pending.tokens)
        exact, drafts = readings[: len(state.decided) + 1], readings[len(state.decided) + 1 :]
        emitted = accepted_length(_tokens(state.decided), [reading.token for reading in exact])
        kept = final + emitted - 1
        following = _committed(state, exact[:emitted], kept)
        if emitted <= len(state.decided):
            return replace(following, revisions=state.revisions - 1), tuple(range(kept))
        return _decide(following, drafts), tuple(range(kept))


def _tokens(places: Sequence[DraftPlace]) -> tuple[int, ...]:
    return tuple(place.token for place in places if place.token is not None)


def _committed(state: ShiftedState, exact: Sequence[Reading], cached: int) -> ShiftedState:
    """The state with exact tokens committed, of which the last one is not cached yet."""
    tokens = tuple(reading.token for reading in exact)
    confidences = tuple(reading.probability for reading in exact)
    return replace(
        state,
        pending=PendingTokens(state.pending.cached + cached, tokens[-1:]),
        progress=commit(state.progress, tokens, confidences, state.task),
        decided=(),
    )


def _decide(state: ShiftedState, drafts: Sequence[Reading]) -> ShiftedState:
    """The state with the leading drafts decided whose joint confidence reaches the threshold; the
    others are shown if their own one does."""
    task, progress = state.task, state.progress
    if progress.finished is not None:
        return state
    threshold = task.request.block.threshold
    joint, count = 1.0, 0
    # The last token before the length limit needs no row of its own: an exact one decides it.
    room = room_left(progress, task) - bool(state.revisions)
    for reading in drafts[:room]:
        joint *= reading.probability
        if joint < threshold:
            break
        count += 1
    places = tuple(DraftPlace(each.token, each.probability) for each in drafts)
    if not state.revisions:
        tokens = _tokens(places[:count])
        confidences = tuple(place.confidence for place in places[:count])
        progress = commit(progress, tokens, confidences, task)
        pending = replace(state.pending, tokens=state.pending.tokens + tokens)
        state, places, count = replace(state, pending=pending), places[count:], 0
    shown = tuple(
        place if index < count or place.confidence >= threshold else DraftPlace(None)
        for index, place in enumerate(places)
    )
    decided = before_stop(places[:count], task)
    if progress.finished is None:
        progress = replace(progress, draft=before_stop(shown, task))
    return replace(state, progress=progress, decided=decided)
