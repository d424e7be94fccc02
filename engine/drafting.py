"""Reads the draft rows of a mask adapter in numpy: a small vocabulary, and the token before each.

A draft row predicts the token after its own place. Its logits are looked at over the draft
vocabulary alone, and a low-rank bias by the token before that place (a Markov head) makes the
drafts of one group follow from each other, without another forward. Drafts are the likeliest tokens
at any temperature, since the row that verifies them decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from engine.reading import BEST_MAX, Reading
from engine.step import PLAIN, Step

Array = NDArray[numpy.float32]


class DraftHead:
    """What turns a draft row's logits into a draft.

    Args:
        draft_ids: (D,) int64, ascending.
        before: (D + 2, m) fp32; row D for any token outside the draft vocabulary.
        after: (m, D) fp32.
    """

    def __init__(self, draft_ids: NDArray[numpy.int64], before: Array, after: Array) -> None:
        self.ids = draft_ids
        self.before, self.after = before, after

    def entries(self, step: Step) -> tuple[list[int], list[int]]:
        """The entries of `step.read` that are no draft rows, and those that are."""
        entries = range(len(step.read))
        plain = [entry for entry in entries if step.follows[entry] == PLAIN]
        return plain, [entry for entry in entries if step.follows[entry] != PLAIN]

    def readings(self, step: Step, plain: Sequence[Reading], scores: Array) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`, in its order.

        Args:
            plain: the readings of the rows that draft nothing, in order.
            scores: (N, D) fp32, the logits of the draft rows over the draft vocabulary, in order.
        """
        others, drafted = self.entries(step)
        readings = dict(zip(others, plain, strict=True))
        for entry, row in zip(drafted, scores, strict=True):
            readings[entry] = self._reading(row, readings[step.follows[entry]].token)
        return tuple(readings[entry] for entry in range(len(step.read)))

    def _reading(self, logits: Array, previous: int) -> Reading:
        """The likeliest draft after a token, and its probability over the draft vocabulary.

        Args:
            logits: (D,) fp32 of the draft row.
            previous: the token right before the one that is predicted.
        """
        scores = logits + self.before[self._place(previous)] @ self.after
        best: list[tuple[int, float]] = []
        highest = float(scores.max())
        log_sum_exp = highest + math.log(float(numpy.exp(scores - numpy.float32(highest)).sum()))
        for _ in range(min(BEST_MAX, len(scores))):
            place = int(scores.argmax())
            best.append((int(self.ids[place]), float(scores[place])))
            scores[place] = -math.inf
        token = best[0][0]
        return Reading(token, math.exp(best[0][1] - log_sum_exp), tuple(best), log_sum_exp)

    def _place(self, token: int) -> int:
        """The token's row of `before`."""
        place = int(numpy.searchsorted(self.ids, token))
        known = place < len(self.ids) and int(self.ids[place]) == token
        return place if known else len(self.ids)
