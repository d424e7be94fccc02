"""Turns cut pieces into token sequences with weights, and packs them into flat batches.

A batch is one flat run of rows, example after example, without padding; positions restart with
each example and nothing attends across (engine.training.objective sees to that). Owns the token
budgets that the model card tells serving about. Draws depend on the caller's generator alone, so
that an interrupted run goes on with exactly the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.tokenizer import Tokenizer
from engine.prompt import END, InfillFormat
from engine.training.corpus import Source
from engine.training.examples import Pieces, cut

PREFIX_TOKENS_MAX = 448
FAR_TOKENS_MAX = 128
NEAR_TOKENS_MAX = 128
EXAMPLE_TOKENS_MAX = 768

_FULL_BUDGET_SHARE = 0.3
_SHORT_PREFIX_TOKENS = (8, 96)
_SHORT_FAR_TOKENS = (0, 32)
# Characters taken per token of budget before counting; Python comes to 3.2 in this vocabulary.
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Mix:
    """What a stage's batches are made of.

    Attributes:
        plain_share: examples that are ordinary text rather than holes.
        short_share: holes with little context, so that a batch holds more of them.
        context_weight: weight in the AR loss of everything but the middles, which weigh 1.
    """

    plain_share: float
    short_share: float
    context_weight: float


# Stage 1 learns the language; stage 2 learns to fill holes, which are 6 % of stage 1's tokens.
LANGUAGE = Mix(plain_share=0.12, short_share=0.0, context_weight=0.3)
HOLES = Mix(plain_share=0.04, short_share=0.75, context_weight=0.15)


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence.

    Attributes:
        tokens: (T,) int64.
        weights: (T,) float32; of predicting tokens[i] from what stands before it, 0 for the first
            token and for markers that the prompt brings.
        middle: index of the first middle token, or None where there is no hole. The middle runs to
            the end and its last token is end-of-middle.
    """

    tokens: np.ndarray
    weights: np.ndarray
    middle: int | None


class Packer:
    """Draws examples from a set of files. Immutable; every draw takes its own generator."""

    def __init__(self, sources: Sequence[Source], tokenizer: Tokenizer) -> None:
        """Raises ValueError if the tokenizer lacks the infilling markers."""
        infill = tokenizer.infill
        end = tokenizer.id_of(END)
        if not isinstance(infill, InfillFormat) or end is None:
            raise ValueError("the tokenizer has no infilling markers")
        self._sources = sources
        self._tokenizer = tokenizer
        self._infill: InfillFormat = infill
        self._end = end
        self._cumulative = np.cumsum(file_weights(sources))

    def batch(self, rng: np.random.Generator, tokens: int, mix: Mix = LANGUAGE) -> list[Example]:
        """Examples with about this many tokens in all; never more, but for a single one."""
        chosen: list[Example] = []
        total = 0
        for example in self._draw(rng, mix):
            if chosen and total + len(example.tokens) > tokens:
                return chosen
            chosen.append(example)
            total += len(example.tokens)
        raise AssertionError("draws never end")

    def infilling(
        self, pieces: Pieces, rng: np.random.Generator, mix: Mix = LANGUAGE
    ) -> Example | None:
        """The example of these pieces under random budgets; None if the middle is too long."""
        if rng.random() < mix.short_share:
            far_budget = int(rng.integers(*_SHORT_FAR_TOKENS, endpoint=True))
            prefix_budget = int(rng.integers(*_SHORT_PREFIX_TOKENS, endpoint=True))
        else:
            far_budget = _budget(rng, FAR_TOKENS_MAX)
            prefix_budget = _budget(rng, PREFIX_TOKENS_MAX)
        prompt = prompt_tokens(pieces, self._tokenizer, prefix_budget, far_budget)
        middle = self._tokenizer.encode(pieces.middle)
        near_tokens = len(prompt) - prompt.index(self._infill.near) - 2
        if near_tokens > NEAR_TOKENS_MAX or len(prompt) + len(middle) >= EXAMPLE_TOKENS_MAX:
            return None
        tokens = np.array([*prompt, *middle, self._infill.end_of_middle], dtype=np.int64)
        weights = np.full(len(tokens), mix.context_weight, dtype=np.float32)
        weights[len(prompt) :] = 1.0
        weights[np.isin(tokens[: len(prompt)], self._markers()).nonzero()[0]] = 0.0
        return Example(tokens, weights, len(prompt))

    def plain(self, source: Source, rng: np.random.Generator, mix: Mix = LANGUAGE) -> Example:
        """Ordinary text from a line start on; ends with end-of-text only where the file ends."""
        start = int(rng.integers(len(source.text)))
        start = source.text.rfind("\n", 0, start) + 1 if rng.random() < 0.7 else 0
        budget = int(rng.integers(64, EXAMPLE_TOKENS_MAX - 256))
        text = source.text[start : start + budget * _CHARS_PER_TOKEN]
        ids = self._tokenizer.encode(text)
        if start + len(text) == len(source.text):
            ids.append(self._end)
        tokens = np.array([self._infill.begin, *ids[: budget - 1]], dtype=np.int64)
        weights = np.full(len(tokens), mix.context_weight, dtype=np.float32)
        weights[0] = 0.0
        return Example(tokens, weights, None)

    def _draw(self, rng: np.random.Generator, mix: Mix) -> Iterator[Example]:
        while True:
            place = rng.random() * self._cumulative[-1]
            source = self._sources[int(np.searchsorted(self._cumulative, place, side="right"))]
            if rng.random() < mix.plain_share:
                yield self.plain(source, rng, mix)
            else:
                example = self.infilling(cut(source, rng), rng, mix)
                if example is not None:
                    yield example

    def _markers(self) -> list[int]:
        infill = self._infill
        return [infill.begin, infill.far, infill.prefix, infill.near, infill.middle]


def prompt_tokens(
    pieces: Pieces, tokenizer: Tokenizer, prefix_budget: int, far_budget: int
) -> tuple[int, ...]:
    """The prompt of these pieces: prefix and far suffix cut to their budgets, the near one whole.

    Raises ValueError if the tokenizer lacks the infilling markers.
    """
    infill = tokenizer.infill
    if infill is None:
        raise ValueError("the tokenizer has no infilling markers")
    far = tokenizer.encode(pieces.far[: far_budget * _CHARS_PER_TOKEN])[:far_budget]
    prefix = prefix_tokens(pieces.prefix, tokenizer, prefix_budget)
    return infill.prompt(far, prefix, tokenizer.encode(pieces.near))


def prefix_tokens(text: str, tokenizer: Tokenizer, budget: int) -> list[int]:
    """The end of `text` from a line start on, in at most `budget` tokens.

    While it is too long the oldest quarter goes, at a line; of a single line, its front.
    """
    text = _from_line(text, len(text) - budget * _CHARS_PER_TOKEN)
    ids = tokenizer.encode(text)
    while len(ids) > budget:
        shorter = _from_line(text, len(text) // 4)
        if shorter == text or not shorter:
            return ids[len(ids) - budget :]
        text = shorter
        ids = tokenizer.encode(text)
    return ids


def file_weights(sources: Sequence[Source]) -> np.ndarray:
    """(files,) float64 chance of each file, not normalised.

    A package counts with the 0.6th power of its size, so that a few large ones do not drown the
    many small; inside a package files count by size.
    """
    sizes = np.array([len(source.text) for source in sources], dtype=np.float64)
    totals: dict[str, float] = {}
    for source, size in zip(sources, sizes, strict=True):
        totals[source.package] = totals.get(source.package, 0.0) + float(size)
    return sizes * np.array([totals[source.package] ** -0.4 for source in sources])


def _budget(rng: np.random.Generator, most: int) -> int:
    """Often all of a budget, as in a long file; else any part of it."""
    return most if rng.random() < _FULL_BUDGET_SHARE else int(rng.integers(most + 1))


def _from_line(text: str, start: int) -> str:
    """`text` from the first line start at or after `start` on; all of it if that is <= 0."""
    if start <= 0:
        return text
    found = text.find("\n", start - 1)
    return text[found + 1 :] if found >= 0 else text[text.rfind("\n") + 1 :]
