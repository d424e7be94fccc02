"""Reads the draft rows of a mask adapter in numpy: a small vocabulary, and the token before each.

A draft row predicts the token after its own place. Its logits are looked at over the draft
vocabulary alone, and a low-rank bias by the token before that place (a Markov head) makes the
drafts of one group follow from each other, without another forward.
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import NDArray

from engine.reading import BEST_MAX, Reading

Array = NDArray[numpy.float32]


class DraftHead:
    """What turns a draft row's logits into a draft.

    Args:
        draft_ids: (D,) int64, ascending.
        before: (D + 2, m) fp32; row D for any token outside the draft vocabulary.
        after: (m, D) fp32.
    """

    def __init__(self, draft_ids: NDArray[numpy.int64], before: Array, after: Array) -> None:
        self._ids, self._before, self._after = draft_ids, before, after

    def reading(self, logits: Array, previous: int) -> Reading:
        """The likeliest draft after a token, and its probability over the draft vocabulary.

        Args:
            logits: (V,) fp32 of the draft row.
            previous: the token right before the one that is predicted.
        """
        scores = logits[self._ids]
        scores += self._before[self._place(previous)] @ self._after
        best: list[tuple[int, float]] = []
        highest = float(scores.max())
        log_sum_exp = highest + math.log(float(numpy.exp(scores - numpy.float32(highest)).sum()))
        for _ in range(min(BEST_MAX, len(scores))):
            place = int(scores.argmax())
            best.append((int(self._ids[place]), float(scores[place])))
            scores[place] = -math.inf
        token = best[0][0]
        return Reading(token, math.exp(best[0][1] - log_sum_exp), tuple(best), log_sum_exp)

    def _place(self, token: int) -> int:
        """The token's row of `before`."""
        place = int(numpy.searchsorted(self._ids, token))
        known = place < len(self._ids) and int(self._ids[place]) == token
        return place if known else len(self._ids)
