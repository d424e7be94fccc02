"""Block diffusion ("FastDiffuser"): the masks of a block are filled in parallel, by confidence.

This follows Nemotron-Labs-Diffusion's reference `generate` (arXiv 2607.05722). The last row of a
causal prefill decides the block's first token (the bonus token). In the denoising forwards the
block's rows see each other in both directions and all cached text, and nothing is cached. A place
is decided when its confidence reaches the threshold, and the most confident place always is.
Decided places are not revised unless a request has a budget for it (`decoders.revision`). A
finished block runs once more as a causal chain, which writes clean K/V and decides the next bonus
token. `decoders.shifted_block` is the algorithm for masks that predict the token after their place.

Three deviations do not change how an emitted token is defined. Places after a decided stop token or
after the length limit are not denoised, since they are never shown. A request's last block does not
run again, since nothing follows it. A stop token below the threshold is decided only if no
undecided place comes before it. (Otherwise a block that ends early, which is certain only of its
end, would be decided from the back, one place per forward.)
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
from engine.step import Step, group


@dataclass(frozen=True, slots=True)
class BlockState:
    """Either caching pending tokens (`block` is None) or denoising.

    Attributes:
        pending: the tokens to be cached: the rest of the prompt, and later each finished block.
        block: all places of the block that is being denoised; the first is the bonus token.
        before: the progress up to the beginning of the block.
        progress: `before` and the final part of the block.
        revisions: how often a decided place may still be masked again.
    """

    task: Task
    pending: PendingTokens
    before: Progress
    progress: Progress
    block: tuple[DraftPlace, ...] | None = None
    revisions: int = 0


class BlockDiffusion:
    """Strategy "block"."""

    def start(self, task: Task) -> BlockState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        revisions = task.request.block.revisions or 0
        return BlockState(task, pending, Progress(), Progress(), revisions=revisions)

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
            return self._cached(state, step, readings), tuple(range(step.rows))
        decided = _decide(state, step.read, readings)
        block, revisions = revised(state.block, decided, state.revisions)
        return _settle(replace(state, block=block, revisions=revisions)), ()

    def _cached(self, state: BlockState, step: Step, readings: Sequence[Reading]) -> BlockState:
        """The state after a causal chain was cached; a block begins after the last pending row."""
        before = state.progress
        pending, progress = advance_prefill(state.pending, before, step, readings, state.task)
        if pending.tokens or progress.finished is not None:
            return replace(state, pending=pending, progress=progress)
        bonus = DraftPlace(progress.committed[-1], progress.confidences[-1])
        block = (bonus, *[DraftPlace(None)] * (state.task.request.block.length - 1))
        following = replace(state, pending=pending, before=before, progress=before, block=block)
        return _settle(following)


def _undecided(state: BlockState) -> tuple[int, ...]:
    """The masked places that can be shown: those before a stop token and the length limit."""
    assert state.block is not None
    room = room_left(state.before, state.task)
    shown = before_stop(state.block[:room], state.task)
    return tuple(index for index, place in enumerate(shown) if place.token is None)


def _decide(
    state: BlockState, places: Sequence[int], readings: Sequence[Reading]
) -> tuple[DraftPlace, ...]:
    """Fills the most confident masked place and every other one that reaches the threshold.

    Args:
        places: the masked places of the block that were read, ascending.
        readings: one reading for each of these places.
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
    """Commits the decided places at the beginning of the block; a full block becomes pending."""
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
        pending = PendingTokens(state.pending.cached, tokens)
        return replace(state, pending=pending, before=progress, progress=progress, block=None)
    if progress.finished is None:
        progress = replace(progress, draft=_visible_draft(state, len(final)))
    return replace(state, progress=progress)


def _visible_draft(state: BlockState, start: int) -> tuple[DraftPlace, ...]:
    """The part of the block after its final places, up to a stop token or the length limit."""
    assert state.block is not None
    room = room_left(state.before, state.task)
    return before_stop(state.block[start:room], state.task)
