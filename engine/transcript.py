"""Turns token states into the texts of events: whole characters, stop texts, drafts with masks.

This module keeps two promises that tokens alone cannot keep: `committed` never shrinks, and no part
of a stop text is ever committed. Torch-free.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from engine.api import MASKED, LogProbs, Span
from engine.decoders.strategy import DraftPlace, Progress
from engine.model.tokenizer import Tokenizer


class Transcript:
    """The text of one request, updated with its growing committed tokens."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0  # committed tokens that have been decoded
        self._text = ""
        self._logprobs: list[tuple[int, float]] = []
        self.stopped = False  # whether a stop text was found; the text ends before it

    def update(self, progress: Progress) -> None:
        """Adds the tokens that were committed since the last call."""
        if self.stopped:
            return
        read, before = self._read, len(self._text)
        self._read = len(progress.committed)
        for token, confidence in zip(
            progress.committed[read:], progress.confidences[read:], strict=True
        ):
            self._text += self._decoder.decode(self._tokenizer.to_bytes((token,)))
            self._logprobs.append((len(self._text), _logarithm(confidence)))
        self._cut_at_stop(before)

    @property
    def committed(self) -> str:
        """The final text, without an end that could become a stop text."""
        if self.stopped:
            return self._text
        return self._text[: len(self._text) - self._held_back()]

    @property
    def logprobs(self) -> LogProbs:
        """The tokens so far; one that a stop text cut ends where the text does."""
        if not self.stopped:
            return tuple(self._logprobs)
        return tuple((min(end, len(self._text)), value) for end, value in self._logprobs)

    def finish(self) -> str:
        """The whole text once no more tokens come; an incomplete last character becomes U+FFFD."""
        if not self.stopped:
            before = len(self._text)
            self._text += self._decoder.decode(b"", final=True)
            self._cut_at_stop(before)
        return self._text

    def draft(self, places: Sequence[DraftPlace]) -> tuple[str, tuple[Span, ...]]:
        """The text after `committed` that may still change, with one mask for each undecided place.

        It includes the held-back beginning of a stop text. It leaves out masks after the last
        decided place, and characters of which a mask hides a part.
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
        """The length of the longest end of the text that is the beginning of a stop text."""
        if self.stopped:
            return 0
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop):
                return length
        return 0

    def _cut_at_stop(self, before: int) -> None:
        """Ends the text before the first stop text that ends after the offset `before`."""
        found = [
            at
            for stop in self._stop
            if (at := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True


def mean_confidence(confidences: Sequence[float]) -> float:
    """The geometric mean; 1 if there are no confidences."""
    if not confidences:
        return 1.0
    total = sum(math.log(max(value, 1e-12)) for value in confidences)
    return math.exp(total / len(confidences))


def _logarithm(probability: float) -> float:
    """With three decimals, which keeps messages short; a factor of 1.0005 at most."""
    return round(min(math.log(max(probability, 1e-12)), 0.0), 3)


def _without_trailing_masks(places: Sequence[DraftPlace]) -> Sequence[DraftPlace]:
    end = len(places)
    while end and places[end - 1].token is None:
        end -= 1
    return places[:end]
