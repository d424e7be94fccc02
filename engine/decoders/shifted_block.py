"""Block diffusion with a mask adapter, whose rows predict the token after their place.

A forward has the final tokens that are not cached yet as a causal chain, which is cached by it, and
a group of rows on the chain's last row for the places after it. The chain's last row decides the
first of these places exactly, and row j of the group decides place j + 1, so that every forward
decides a place and writes clean K/V: no pass of its own is needed for either. The rows of decided
places carry their tokens, those of undecided ones carry masks, and all see each other in both
directions. The block slides: as many places as are committed enter it at its end.

A place is decided when its confidence reaches the threshold. It is final once no place before it is
undecided. Until then it may be revised (`decoders.revision`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.decoders.revision import revised
from engine.decoders.strategy import (
    DraftPlace,
    PendingTokens,
    Progress,
    Task,
    advance_prefill,
    before_stop,
    commit,
    room_left,
)
from engine.reading import Reading
from engine.step import OWN, PLAIN, Step, chain_with_groups


@dataclass(frozen=True, slots=True)
class ShiftedState:
    """Feeding the prompt, then one forward after the other.

    Attributes:
        pending: the prompt's rest; afterwards the committed tokens that are not cached yet, one at
            least.
        places: the block, from the first place that is not committed on, which is undecided.
        revisions: how often a decided place may still be masked again.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    places: tuple[DraftPlace, ...] = ()
    revisions: int = 0


class ShiftedBlock:
    """Strategy "block" of a checkpoint with a mask adapter."""

    def start(self, task: Task) -> ShiftedState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        return ShiftedState(task, pending, Progress(), revisions=task.request.block.revisions)

    def plan(self, state: ShiftedState) -> Step:
        if state.progress.prefilling:
            return state.pending.plan(state.task)
        return _step(state)

    def resolve(
        self, state: ShiftedState, step: Step, readings: Sequence[Reading]
    ) -> tuple[ShiftedState, tuple[int, ...]]:
        task = state.task
        if state.progress.prefilling:
            pending, progress = advance_prefill(state.pending, state.progress, step, readings, task)
            if not pending.tokens:
                pending = replace(pending, tokens=progress.committed)
            state = replace(state, pending=pending, progress=progress)
            return _with_block(state), tuple(range(step.rows))
        chain = len(state.pending.tokens)
        pending = PendingTokens(state.pending.cached + chain)
        decided = _decide(state, step, readings)
        places, revisions = revised(state.places, decided, state.revisions)
        state = replace(state, pending=pending, places=places, revisions=revisions)
        return _with_block(_settle(state)), tuple(range(chain))


def _step(state: ShiftedState) -> Step:
    """The chain, and the group with a row for every place of the block but the last."""
    task, places = state.task, state.places
    chain = state.pending.tokens
    length = len(chain)
    masks = task.group_masks(len(places) - 1)
    members = tuple(
        mask if place.token is None else place.token
        for mask, place in zip(masks, places, strict=False)
    )
    step = chain_with_groups(
        chain,
        state.pending.cached,
        [(length - 1, members)] if members else [],
        shifts=True,
        sequence=task.sequence,
        drafter=task.traits.has_drafter,
    )
    read, follows = [length - 1], [PLAIN]
    for index in _undecided(state)[1:]:
        follows.append(len(read) - 1 if places[index - 1].token is None else OWN)
        read.append(length - 1 + index)
    return replace(step, read=tuple(read), follows=tuple(follows) if len(read) > 1 else ())


def _undecided(state: ShiftedState) -> list[int]:
    """The undecided places that can be shown: those before a stop token. The first one is."""
    shown = before_stop(state.places, state.task)
    return [index for index, place in enumerate(shown) if place.token is None]


def _decide(state: ShiftedState, step: Step, readings: Sequence[Reading]) -> tuple[DraftPlace, ...]:
    """The block with its first place decided, and others that reach the threshold."""
    threshold = state.task.request.block.threshold
    places = list(state.places)
    for index, reading in zip(_undecided(state), readings, strict=True):
        if index == 0 or reading.probability >= threshold:
            places[index] = DraftPlace(reading.token, reading.probability)
    return tuple(places)


def _settle(state: ShiftedState) -> ShiftedState:
    """Commits the decided places at the beginning of the block, which are to be cached next."""
    count = next(
        (index for index, place in enumerate(state.places) if place.token is None),
        len(state.places),
    )
    final = state.places[:count]
    tokens = tuple(place.token for place in final if place.token is not None)
    confidences = tuple(place.confidence for place in final)
    return replace(
        state,
        pending=replace(state.pending, tokens=tokens),
        progress=commit(state.progress, tokens, confidences, state.task),
        places=state.places[count:],
    )


def _with_block(state: ShiftedState) -> ShiftedState:
    """The state whose block has its full length, or what is left to emit, and is shown."""
    progress, task = state.progress, state.task
    if progress.prefilling or progress.finished is not None:
        return state
    length = min(task.request.block.length - 1, room_left(progress, task))
    places = (state.places + (DraftPlace(None),) * length)[:length]
    draft = before_stop(places, task)
    return replace(state, places=places, progress=replace(progress, draft=draft))
