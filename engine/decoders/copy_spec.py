"""Speculation with copied drafts only: the draft is what followed the last tokens earlier.

A causal forward verifies the draft, and there is no draft forward. The length of a draft depends on
the cost of its rows and on how often copies were right (`engine.decoders.copying`). Without a match
that pays, a cycle is one autoregressive row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.decoders.copying import Copy, CopyRecord, best_length, find_copy, shown
from engine.decoders.strategy import PendingTokens, Progress, Task, advance_prefill, verify
from engine.reading import Reading
from engine.step import Step, chain


@dataclass(frozen=True, slots=True)
class CopyState:
    """Caching the prompt, then verifying copies.

    Attributes:
        pending: the rest of the prompt; afterwards `cached` ends before the bonus token, which is
            the last committed token.
        copy: the tokens that could be verified after the bonus token.
        drafts: the number of these tokens that the next step verifies.
        record: the results of copying in this request.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    copy: Copy = field(default_factory=Copy)
    drafts: int = 0
    record: CopyRecord = field(default_factory=CopyRecord)


class CopySpec:
    """Strategy "copy_spec"."""

    def start(self, task: Task) -> CopyState:
        return CopyState(
            task, PendingTokens(task.cached, task.request.prompt[task.cached :]), Progress()
        )

    def plan(self, state: CopyState) -> Step:
        if state.pending.tokens:
            return state.pending.plan(state.task)
        tokens = (state.progress.committed[-1], *state.copy.tokens[: state.drafts])
        read = tuple(range(len(tokens)))
        return chain(tokens, state.pending.cached, read=read, sequence=state.task.sequence)

    def resolve(
        self, state: CopyState, step: Step, readings: Sequence[Reading]
    ) -> tuple[CopyState, tuple[int, ...]]:
        task = state.task
        if state.pending.tokens:
            pending, progress = advance_prefill(state.pending, state.progress, step, readings, task)
            following = CopyState(task, pending, progress)
            return _with_drafts(following), tuple(range(step.rows))
        progress, tokens = verify(state.progress, step, step.rows, readings, task)
        pending = PendingTokens(state.pending.cached + len(tokens))
        record = state.record.after(state.copy, tokens)
        following = CopyState(task, pending, progress, record=record)
        return _with_drafts(following), tuple(range(len(tokens)))


def _with_drafts(state: CopyState) -> CopyState:
    if state.pending.tokens:
        return state
    task, record = state.task, state.record
    copy = find_copy(state.progress, task)
    drafts = best_length(copy, record, task.traits.costs).drafts
    if not drafts:
        return replace(state, copy=copy)
    places = shown(copy.tokens[:drafts], record.chance(copy.match), task)
    return replace(state, progress=replace(state.progress, draft=places), copy=copy, drafts=drafts)
