"""Quadratic self-speculation: one forward verifies a draft and drafts for every way it can end.

The bonus token and its drafts form a causal chain, and each row of the chain has a group of masks
as children. The chain's rows verify. The group of the last accepted row already holds the next
draft: its first mask is in the place of the causal token, and the masks after it are the drafts.
Described in arXiv 2607.05722. A chain of B tokens with B masks each has B (B + 1) rows. A mask
adapter's rows predict the token after their place, so that B - 1 masks give the same drafts.
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
    hang_masks,
    room_left,
    verify,
)
from engine.reading import Reading
from engine.step import Step


@dataclass(frozen=True, slots=True)
class QuadraticState:
    """Caching the prompt, then one forward per cycle.

    Attributes:
        pending: the rest of the prompt; afterwards its `cached` ends before the chain.
        chain: the bonus token, which is the last committed token, and the drafts after it.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    chain: tuple[int, ...] = ()


class QuadraticSpec:
    """Strategy "quadratic_spec"."""

    def start(self, task: Task) -> QuadraticState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        return QuadraticState(task, pending, Progress())

    def plan(self, state: QuadraticState) -> Step:
        task = state.task
        if state.pending.tokens:
            return state.pending.plan(task)
        drafts = min(task.request.block.length, room_left(state.progress, task)) - 1
        rows = range(len(state.chain)) if drafts > 0 else ()
        return hang_masks(state.chain, state.pending.cached, rows, drafts, task)

    def resolve(
        self, state: QuadraticState, step: Step, readings: Sequence[Reading]
    ) -> tuple[QuadraticState, tuple[int, ...]]:
        task = state.task
        if state.pending.tokens:
            pending, progress = advance_prefill(state.pending, state.progress, step, readings, task)
            chain = progress.committed[-1:]
            return QuadraticState(task, pending, progress, chain), tuple(range(step.rows))
        progress, tokens = verify(state.progress, step, len(state.chain), readings, task)
        emitted = len(tokens)
        pending = PendingTokens(state.pending.cached + emitted)
        following = QuadraticState(task, pending, progress, tokens[-1:])
        if progress.finished is None:
            drafts = readings[len(state.chain) :]
            per_group = len(drafts) // len(state.chain)
            first = (emitted - 1) * per_group
            following = _with_drafts(following, drafts[first : first + per_group])
        return following, tuple(range(emitted))


def _with_drafts(state: QuadraticState, drafts: Sequence[Reading]) -> QuadraticState:
    """The chain for the next cycle: the bonus token and the drafts of the group that was hit."""
    task = state.task
    drafts = drafts[: max(room_left(state.progress, task) - 1, 0)]
    if not drafts:
        return state
    places = tuple(DraftPlace(reading.token, reading.probability) for reading in drafts)
    progress = replace(state.progress, draft=before_stop(places, task))
    return replace(state, progress=progress, chain=(*state.chain, *(each.token for each in drafts)))
