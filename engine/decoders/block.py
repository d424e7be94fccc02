"""Block diffusion ("FastDiffuser"): masks of a block are filled in parallel, by confidence.

As Nemotron-Labs-Diffusion's reference `generate` (arXiv 2607.05722): a causal prefill whose last
row gives the block's first token (the bonus token); denoising forwards in which the block's rows
see each other in both directions and all cached text, and write nothing; a place is decided when
its confidence reaches the threshold, the most confident one always; decided places are never
revised; a finished block runs once more as a causal chain, which writes clean K/V and gives the
next bonus token.

Three deviations, none of which changes an emitted token's definition: places behind a decided stop
token or behind the length limit are not denoised, since they are never shown; a request's last
block is not run again, since nothing follows it; and below the threshold a stop token is the one
place decided only where no undecided place stands before it. (A block that ends early is sure of
nothing but its far end: that would be decided place by place from the back, one forward each.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from engine.step import Step, group


@dataclass(frozen=True, slots=True)
class BlockState:
    """Either feeding (`block` is None) or denoising.

    Attributes:
        pending: the prompt's rest, later the finished block, on its way into the cache.
        block: all places of the block being denoised; the first is the bonus token, decided.
        before: progress up to the block's beginning.
        progress: `before` and what of the block is final.
    """

    task: Task
    pending: PendingTokens
    before: Progress
    progress: Progress
    block: tuple[DraftPlace, ...] | None = None


class BlockDiffusion:
    """Strategy "block"."""

    def start(self, task: Task) -> BlockState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        return BlockState(task, pending, Progress(), Progress())

    def plan(self, state: BlockState) -> Step:
        if state.block is None:
            return state.pending.plan(state.task)
        task = state.task
        (mask,) = task.masks(1)
        return group(
            tuple(mask if place.token is None else place.token for place in state.block),
            state.pending.cached,
            read=_undecided(state),
            sequence=task.sequence,
        )

    def resolve(
        self, state: BlockState, step: Step, readings: Sequence[Reading]
    ) -> tuple[BlockState, tuple[int, ...]]:
        if state.block is None:
            return self._fed(state, step, readings), tuple(range(step.rows))
        decided = _decide(state, step.read, readings)
        return _settle(replace(state, block=decided)), ()

    def _fed(self, state: BlockState, step: Step, readings: Sequence[Reading]) -> BlockState:
        """All rows of a causal chain are cached; behind the last of them begins a block."""
        before = state.progress
        pending, progress = advance_prefill(state.pending, before, step, readings, state.task)
        if pending.tokens or progress.finished is not None:
            return replace(state, pending=pending, progress=progress)
        bonus = DraftPlace(progress.committed[-1], progress.confidences[-1])
        block = (bonus, *[DraftPlace(None)] * (state.task.request.block.length - 1))
        return _settle(BlockState(state.task, pending, before, before, block))


def _undecided(state: BlockState) -> tuple[int, ...]:
    """Masked places that can still be shown: before the first stop token and the length limit."""
    assert state.block is not None
    room = room_left(state.before, state.task)
    shown = before_stop(state.block[:room], state.task)
    return tuple(index for index, place in enumerate(shown) if place.token is None)


def _decide(
    state: BlockState, places: Sequence[int], readings: Sequence[Reading]
) -> tuple[DraftPlace, ...]:
    """Fills the most confident masked place, and every other one that reaches the threshold.

    Args:
        places: in the block, ascending.
        readings: of each.
    """
    assert state.block is not None
    request = state.task.request
    stops = request.stop_token_ids
    candidates = [i for i, each in enumerate(readings) if i == 0 or each.token not in stops]
    best = max(candidates, key=lambda index: (readings[index].probability, -index))
    block = list(state.block)
    for index, (place, reading) in enumerate(zip(places, readings, strict=True)):
        if index == best or reading.probability >= request.block.threshold:
            block[place] = DraftPlace(reading.token, reading.probability)
    return tuple(block)


def _settle(state: BlockState) -> BlockState:
    """Commits the block's leading decided run; a full block is pending again."""
    assert state.block is not None
    final: list[DraftPlace] = []
    for place in state.block:
        if place.token is None:
            break
        final.append(place)
    progress = commit(
        state.before,
        tuple(place.token for place in final if place.token is not None),
        tuple(place.confidence for place in final),
        state.task,
    )
    if progress.finished is None and len(final) == len(state.block):
        tokens = tuple(place.token for place in final if place.token is not None)
        return BlockState(
            state.task, PendingTokens(state.pending.cached, tokens), progress, progress
        )
    if progress.finished is None:
        progress = replace(progress, draft=_visible_draft(state, len(final)))
    return replace(state, progress=progress)


def _visible_draft(state: BlockState, start: int) -> tuple[DraftPlace, ...]:
    """The block behind its final run, up to a decided stop token or the length limit."""
    assert state.block is not None
    room = room_left(state.before, state.task)
    return before_stop(state.block[start:room], state.task)
