"""Plain text as training examples, for what a checkpoint learns without infilling markers.

A document is a trunk followed by one branch, the rest of its tokens, so that rows and noise are
those of holes. This module owns how documents are drawn and the position-dependent noise of
Efficient-DLM (arXiv 2512.14067). It knows no networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from engine.lab.data.corpus import Source
from engine.lab.data.sampler import Branch, Example, Files, take_tokens
from engine.lab.training.batch.masking import (
    BLOCK_LENGTHS,
    Noise,
    add_noise,
    draw_levels,
    joined,
    noisy_copy,
)
from engine.model.tokenizer import Tokenizer

# Branches are multiples of the longest block, so that no noisy block reaches beyond the text.
_BLOCKS_MAX = 12
_TRUNK_TOKENS = (2, 96)
_CHARS_PER_TOKEN = 6  # so many characters are tokenised for each token that is wanted


class PlainTexts:
    """Draws documents from a set of files. Immutable; every draw takes its own generator."""

    def __init__(
        self, sources: Sequence[Source], tokenizer: Tokenizer, begin: int | None = None
    ) -> None:
        """
        Args:
            begin: the token that begins every text, if the checkpoint has one.
        """
        self._files = Files(sources)
        self._tokenizer = tokenizer
        self._begin = [] if begin is None else [begin]

    def batch(self, rng: np.random.Generator, tokens: int) -> list[Example]:
        """As `take_tokens`."""
        return take_tokens((self.example(rng) for _ in count()), tokens)

    def example(self, rng: np.random.Generator) -> Example:
        """One document: a trunk followed by whole blocks of tokens."""
        longest = max(BLOCK_LENGTHS)
        while True:
            trunk = int(rng.integers(*_TRUNK_TOKENS, endpoint=True))
            wanted = longest * int(rng.integers(1, _BLOCKS_MAX, endpoint=True))
            ids = [*self._begin, *self._ids(rng, trunk + wanted)][: trunk + wanted]
            rest = (len(ids) - trunk) // longest * longest
            if rest > 0:
                break
        tokens = np.array(ids, dtype=np.int64)
        weights = np.ones(len(tokens), dtype=np.float32)
        weights[[0, trunk]] = 0.0  # no token before them predicts them
        branch = slice(trunk, trunk + rest)
        hole = Branch(trunk, tokens[branch], weights[branch], 0)
        return Example(tokens[:trunk], weights[:trunk], (hole,))

    def _ids(self, rng: np.random.Generator, tokens: int) -> list[int]:
        text = self._files.draw(rng).text
        start = text.rfind("\n", 0, int(rng.integers(len(text)))) + 1
        return self._tokenizer.encode(text[start : start + tokens * _CHARS_PER_TOKEN])


def plain_text_noise(
    hole: Branch, *, mask_id: int, copies: int, late: float, rng: np.random.Generator
) -> Noise:
    """Noise for one hole; with `late` above 0, later tokens of a block are masked more often.

    Of a block of L tokens at level t, tL are masked on average, drawn without replacement with
    weights w_i = exp(late (1 - t) i), i from 0. The last masks of a block then stand at its right,
    as in text that is written from left to right. The loss keeps the weight 1/t.
    """
    if late <= 0:
        return add_noise(hole, mask_id=mask_id, copies=copies, rng=rng)

    def draw(blocks: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        masked, level = late_mask(blocks, length, late, rng)
        return masked.reshape(-1), np.broadcast_to(level, masked.shape).reshape(-1)

    lengths = (int(rng.choice(BLOCK_LENGTHS)) for _ in range(copies))
    return joined([noisy_copy(hole, length, 0.0, mask_id, draw) for length in lengths])


def late_mask(
    blocks: int, length: int, late: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, length) bool which tokens are masked, (blocks, 1) float64 level of each block."""
    level = draw_levels(blocks, rng)
    masks = np.floor(level * length + rng.random((blocks, 1)))
    # The largest values of log w + Gumbel noise are a draw without replacement with weights w.
    score = late * (1 - level) * np.arange(length) + rng.gumbel(size=(blocks, length))
    rank = np.argsort(np.argsort(-score, axis=1), axis=1)
    return rank < masks, level
