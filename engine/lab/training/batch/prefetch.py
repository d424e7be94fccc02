"""Other processes draw batches ahead, so that a card never waits for text to be tokenised.

A batch is a function of the seed and the step alone, so that any process may draw it. Its stage is
the one at the time when the batch was requested, so that a stage begins a few steps late.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from multiprocessing.pool import AsyncResult, Pool

from engine.lab.training.batch.rows import Rows
from engine.lab.training.jobs.recipe_job import StepDraw

_STEPS_AHEAD = 3  # for each process

# What a worker process draws with, set once when it starts: a task must not carry the corpus along.
_worker: list[StepDraw] = []


class Prefetch:
    """A context that draws steps in order. Create it before CUDA starts: it forks processes."""

    def __init__(self, draw: StepDraw, workers: int) -> None:
        """
        Args:
            draw: draws a step; the processes inherit it, so that it is never sent.
        """
        context = multiprocessing.get_context("fork")
        self._pool: Pool = context.Pool(workers, _start, (draw,))
        self._depth = _STEPS_AHEAD * workers
        self._asked: deque[tuple[int, AsyncResult[list[Rows]]]] = deque()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def __call__(self, step: int, joint: bool) -> list[Rows]:
        """The rows of this step; requests the next ones. Raises whatever drawing raises."""
        if self._asked and self._asked[0][0] != step:
            self._asked.clear()
        following = self._asked[-1][0] + 1 if self._asked else step
        while following < step + self._depth:
            self._asked.append((following, self._pool.apply_async(_drawn, (following, joint))))
            following += 1
        return self._asked.popleft()[1].get()


def _start(draw: StepDraw) -> None:
    # Ctrl-C is meant for the process that trains; its signal handlers must not be inherited.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _worker.append(draw)


def _drawn(step: int, joint: bool) -> list[Rows]:
    return _worker[0](step, joint)
