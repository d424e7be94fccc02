"""From token states to the texts of events: whole characters, stop texts, drafts with masks.

Owns the two promises that tokens alone cannot keep: `committed` never shrinks, and a stop text
never shows, not even its beginning. Torch-free.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from engine.api import MASKED, Span
from engine.decoders.strategy import DraftPlace, Progress
from engine.model.tokenizer import Tokenizer


class Transcript:
    """The text of one request, fed with its growing committed tokens."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0  # committed tokens decoded so far
        self._text = ""
        self.stopped = False  # a stop text was met; the text ends before it

    def update(self, progress: Progress) -> None:
        """Takes in what was committed since the last call."""
        if self.stopped:
            return
        fresh = progress.committed[self._read :]
        self._read = len(progress.committed)
        before = len(self._text)
        self._text += self._decoder.decode(self._tokenizer.to_bytes(fresh))
        self._cut_at_stop(before)

    @property
    def committed(self) -> str:
        """Final text, without a tail that could become a stop text."""
        if self.stopped:
            return self._text
        return self._text[: len(self._text) - self._held_back()]

    def finish(self) -> str:
        """All the text, once no token can come: a broken last character becomes U+FFFD."""
        if not self.stopped:
            before = len(self._text)
            self._text += self._decoder.decode(b"", final=True)
            self._cut_at_stop(before)
        return self._text

    def draft(self, places: Sequence[DraftPlace]) -> tuple[str, tuple[Span, ...]]:
        """What may still change behind `committed`: undecided places as one mask each.

        The held-back beginning of a stop text belongs to it. Masks behind the last decided place
        are left out. Characters cut by a mask are not shown.
        """
        held = self._held_back()
        pieces = [self._text[len(self._text) - held :]]
        spans = [Span(0, held, 1.0)] if held else []
        length = held
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        for place in _without_trailing_masks(places):
            if place.token is None:
                decoder.reset()
                piece = MASKED
            else:
                piece = decoder.decode(self._tokenizer.to_bytes((place.token,)))
            if piece:
                pieces.append(piece)
                spans.append(Span(length, length + len(piece), place.confidence))
                length += len(piece)
        return "".join(pieces), tuple(spans)

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        if self.stopped:
            return 0
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop):
                return length
        return 0

    def _cut_at_stop(self, before: int) -> None:
        """Ends the text before the first stop text that reaches behind `before`."""
        found = [
            at
            for stop in self._stop
            if (at := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True


def mean_confidence(confidences: Sequence[float]) -> float:
    """Geometric mean; 1 for none."""
    if not confidences:
        return 1.0
    total = sum(math.log(max(value, 1e-12)) for value in confidences)
    return math.exp(total / len(confidences))


def _without_trailing_masks(places: Sequence[DraftPlace]) -> Sequence[DraftPlace]:
    end = len(places)
    while end and places[end - 1].token is None:
        end -= 1
    return places[:end]
