"""Scoring: how probable each token of a given continuation is, without decoding anything.

The prompt and the given tokens are one causal chain, cut into steps as a prompt is; the row before
each given token is read. A token that is not among the best of its row gets the probability of the
last one of these, which is an upper bound (`Reading.log_probability`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.auto.step_times import prefill_rows
from engine.decoders.strategy import Progress, Task
from engine.reading import Reading
from engine.step import Step, chain


@dataclass(frozen=True, slots=True)
class ScoreState:
    """`done` counts the tokens of prompt and given text that are computed."""

    task: Task
    done: int
    progress: Progress


class Score:
    """The strategy of requests with `Request.given`."""

    def start(self, task: Task) -> ScoreState:
        return ScoreState(task, task.cached, Progress())

    def plan(self, state: ScoreState) -> Step:
        task = state.task
        prompt, given = task.request.prompt, task.request.given
        # The last given token is not computed, since nothing follows it.
        tokens = (*prompt, *given)[state.done : len(prompt) + len(given) - 1]
        tokens = tokens[: prefill_rows(task.traits.costs)]
        first = max(len(prompt) - 1 - state.done, 0)  # The row that decides the first given token.
        return chain(
            tokens,
            state.done,
            read=tuple(range(first, len(tokens))),
            sequence=task.sequence,
        )

    def resolve(
        self, state: ScoreState, step: Step, readings: Sequence[Reading]
    ) -> tuple[ScoreState, tuple[int, ...]]:
        given, before = state.task.request.given, state.progress
        known = len(before.committed)
        tokens = given[known : known + len(readings)]
        probabilities = tuple(
            math.exp(reading.log_probability(token))
            for token, reading in zip(tokens, readings, strict=True)
        )
        committed = (*before.committed, *tokens)
        progress = Progress(
            committed=committed,
            confidences=(*before.confidences, *probabilities),
            finished="scored" if len(committed) == len(given) else None,
            prefilling=not committed,
        )
        return ScoreState(state.task, state.done + step.rows, progress), tuple(range(step.rows))
