"""Autoregressive decoding: one causal row per forward, each token fed back.

The reference that every other mode is measured against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from engine.decoders.strategy import Feed, Progress, Task, commit
from engine.sampling import choose
from engine.step import Step


@dataclass(frozen=True, slots=True)
class ARState:
    """The feed's pending tokens are the prompt's rest, later the token emitted last."""

    task: Task
    feed: Feed
    progress: Progress


class AutoRegressive:
    """Strategy "ar"."""

    def start(self, task: Task) -> ARState:
        return ARState(task, Feed(task.cached, task.request.prompt[task.cached :]), Progress())

    def plan(self, state: ARState) -> Step:
        return state.feed.plan(state.task.sequence)

    def resolve(
        self, state: ARState, step: Step, logits: Tensor
    ) -> tuple[ARState, tuple[int, ...]]:
        rows = tuple(range(step.rows))
        feed = state.feed.after(step)
        if feed.pending:
            return replace(state, feed=feed), rows
        task = state.task
        tokens, confidences = choose(
            logits, [feed.cached], task.request.sampling, mask_id=task.mask_id
        )
        progress = commit(state.progress, tuple(tokens), tuple(confidences), task)
        return ARState(task, Feed(feed.cached, tuple(tokens)), progress), rows
