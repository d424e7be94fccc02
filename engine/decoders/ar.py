"""Autoregressive decoding: one causal row per forward, each token fed back.

The reference that every other mode is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.decoders.strategy import Feed, Progress, Task, fed
from engine.reading import Reading
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
        return state.feed.plan(state.task)

    def resolve(
        self, state: ARState, step: Step, readings: Sequence[Reading]
    ) -> tuple[ARState, tuple[int, ...]]:
        feed, progress = fed(state.feed, state.progress, step, readings, state.task)
        if not feed.pending:
            feed = Feed(feed.cached, progress.committed[-1:])
        return ARState(state.task, feed, progress), tuple(range(step.rows))
