"""Plain text as training examples, for what a checkpoint learns without infilling markers.

A document is a trunk with one branch behind it, the rest of its tokens, so that the same rows and
noise serve as for holes. Owns how documents are drawn and the position-dependent noise of
Efficient-DLM (arXiv 2512.14067). Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.lab.data.corpus import Source
from engine.lab.data.sampler import Branch, Example, file_weights
from engine.lab.training.batch.masking import BLOCK_LENGTHS, Noise, add_noise
from engine.model.tokenizer import Tokenizer

# Multiples of the longest block, so that no noisy block reaches behind the text.
_BLOCKS_MAX = 12
_TRUNK_TOKENS = (2, 96)
_CHARS_PER_TOKEN = 6  # at most this many are read per token wanted
_NOISE_MIN = 1e-3
_WEIGHT_MAX = 10.0


class PlainTexts:
    """Draws documents from a set of files. Immutable; every draw takes its own generator."""

    def __init__(
        self, sources: Sequence[Source], tokenizer: Tokenizer, begin: int | None = None
    ) -> None:
        """
        Args:
            begin: the token that begins every text, where the checkpoint has one.
        """
        self._sources = sources
        self._tokenizer = tokenizer
        self._begin = [] if begin is None else [begin]
        self._cumulative = np.cumsum(file_weights(sources))

    def batch(self, rng: np.random.Generator, tokens: int) -> list[Example]:
        """Examples with about this many clean tokens in all; never more, but for a single one."""
        chosen: list[Example] = []
        total = 0
        while True:
            example = self.example(rng)
            if chosen and total + example.rows > tokens:
                return chosen
            chosen.append(example)
            total += example.rows

    def example(self, rng: np.random.Generator) -> Example:
        """One document: a trunk, and whole blocks of tokens behind it."""
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
        weights[[0, trunk]] = 0.0  # nothing stands before them that is to predict them
        branch = slice(trunk, trunk + rest)
        hole = Branch(trunk, tokens[branch], weights[branch], 0)
        return Example(tokens[:trunk], weights[:trunk], (hole,))

    def _ids(self, rng: np.random.Generator, count: int) -> list[int]:
        place = rng.random() * self._cumulative[-1]
        text = self._sources[int(np.searchsorted(self._cumulative, place, side="right"))].text
        start = text.rfind("\n", 0, int(rng.integers(len(text)))) + 1
        return self._tokenizer.encode(text[start : start + count * _CHARS_PER_TOKEN])


def plain_text_noise(
    hole: Branch, *, mask_id: int, copies: int, late: float, rng: np.random.Generator
) -> Noise:
    """Noise for one hole; with `late` above 0, later tokens of a block are masked more often.

    Of a block of L tokens at level t, a mean of tL are masked, drawn without replacement with
    weights w_i = exp(late (1 - t) i), i from 0. At the end of decoding what is left to fill then
    stands at the right, as in text that is written from left to right. The loss keeps the weight
    1/t.
    """
    if late <= 0:
        return add_noise(hole, mask_id=mask_id, copies=copies, rng=rng)
    parts = [_late_copy(hole, mask_id, late, rng) for _ in range(copies)]
    offset = 0
    for part in parts:
        part["blocks"] += offset
        offset = int(part["blocks"][-1]) + 1
    return Noise(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def late_mask(
    blocks: int, length: int, late: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, length) bool which tokens are masked, (blocks, 1) float64 level of each block."""
    level = (1 - _NOISE_MIN) * rng.random((blocks, 1)) + _NOISE_MIN
    count = np.floor(level * length + rng.random((blocks, 1)))
    # The largest of log w + Gumbel are a draw without replacement with weights w.
    score = late * (1 - level) * np.arange(length) + rng.gumbel(size=(blocks, length))
    rank = np.argsort(np.argsort(-score, axis=1), axis=1)
    return rank < count, level


def _late_copy(
    hole: Branch, mask_id: int, late: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    length = int(rng.choice(BLOCK_LENGTHS))
    middle = hole.tokens[hole.middle :]
    rows = -(-len(middle) // length) * length
    labels = np.full(rows, middle[-1], dtype=np.int64)
    labels[: len(middle)] = middle
    blocks = np.arange(rows) // length
    masked, level = late_mask(rows // length, length, late, rng)
    shares = np.zeros(rows, dtype=np.float32)
    shares[: len(middle)] = 1.0
    each = np.broadcast_to(np.minimum(1.0 / level, _WEIGHT_MAX), masked.shape).reshape(-1)
    masked = masked.reshape(-1)
    return {
        "tokens": np.where(masked, mask_id, labels),
        "labels": labels,
        "positions": hole.middle + np.arange(rows),
        "blocks": blocks,
        "starts": hole.middle + blocks * length,
        "weights": np.where(masked, shares * each, 0.0).astype(np.float32),
        "shares": shares,
    }
