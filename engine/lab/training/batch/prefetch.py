"""Batches drawn ahead by other processes, so that a card never waits for text to be tokenised.

A batch is a function of the seed and the step alone, so it does not matter who draws it. The stage
of a step is the one that stood when it was asked for: a few steps late, where a stage begins.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from multiprocessing.pool import AsyncResult, Pool
from types import TracebackType

from engine.lab.training.batch.rows import Rows
from engine.lab.training.jobs.recipe_job import Draw

_STEPS_AHEAD = 3  # for each process

# What a worker draws with: set once as it starts, since a task must not carry the corpus along.
_worker: list[Draw] = []


class Prefetch:
    """Draws steps in order; use it as a context. Make it before CUDA is: processes are forked."""

    def __init__(self, draw: Draw, workers: int) -> None:
        """
        Args:
            draw: the rows of (step, whether stage 2 has begun); inherited, never sent.
        """
        context = multiprocessing.get_context("fork")
        self._pool: Pool = context.Pool(workers, _start, (draw,))
        self._depth = _STEPS_AHEAD * workers
        self._asked: deque[tuple[int, AsyncResult[list[Rows]]]] = deque()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.terminate()
        self._pool.join()

    def __call__(self, step: int, joint: bool) -> list[Rows]:
        """The rows of this step; those of the next ones are asked for.

        Raises whatever drawing raises.
        """
        if self._asked and self._asked[0][0] != step:
            self._asked.clear()
        following = self._asked[-1][0] + 1 if self._asked else step
        while following < step + self._depth:
            self._asked.append((following, self._pool.apply_async(_drawn, (following, joint))))
            following += 1
        return self._asked.popleft()[1].get()


def _start(draw: Draw) -> None:
    # Ctrl-C is for the process that trains, whose own handlers must not outlive it in here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _worker.append(draw)


def _drawn(step: int, joint: bool) -> list[Rows]:
    return _worker[0](step, joint)
