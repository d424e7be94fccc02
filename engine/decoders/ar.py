"""Autoregressive decoding: one causal row per forward, each token fed back.

The reference that every other mode is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.decoders.strategy import PendingTokens, Progress, Task, advance_prefill
from engine.reading import Reading
from engine.step import Step


@dataclass(frozen=True, slots=True)
class ARState:
    """The pending tokens are the rest of the prompt, and later the last emitted token."""

    task: Task
    pending: PendingTokens
    progress: Progress


class AutoRegressive:
    """Strategy "ar"."""

    def start(self, task: Task) -> ARState:
        return ARState(
            task, PendingTokens(task.cached, task.request.prompt[task.cached :]), Progress()
        )

    def plan(self, state: ARState) -> Step:
        return state.pending.plan(state.task)

    def resolve(
        self, state: ARState, step: Step, readings: Sequence[Reading]
    ) -> tuple[ARState, tuple[int, ...]]:
        pending, progress = advance_prefill(
            state.pending, state.progress, step, readings, state.task
        )
        if not pending.tokens:
            pending = PendingTokens(pending.cached, progress.committed[-1:])
        return ARState(state.task, pending, progress), tuple(range(step.rows))
