"""The noisy half of the joint objective: the middles in blocks, and which tokens are masked.

A noisy copy repeats the middle of a hole, cut into blocks that start at the first token after
MIDDLE, as in decoding. The last block is filled up with end-of-middle. This module owns the noise;
it knows neither networks nor what a row sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from engine.lab.data.sampler import Branch

BLOCK_LENGTHS = (32, 16, 8)
_BLOCK_SHARES = (0.6, 0.25, 0.15)
_FULL_SHARE = 0.3
_SEED_SHARE = 0.75
# The weight of the filling after the end of a middle. With a much lower one the model takes distant
# positions for text instead of filling, and blocks do not end.
FILLING_SHARE = 0.5
# The share of the copies whose filling stays masked, as decoding leaves it after a decided end.
_FILLING_MASKED_SHARE = 0.5
_NOISE_MIN = 1e-3
# 1/p is limited to this: a single mask among known tokens must not outweigh a whole block.
_WEIGHT_MAX = 10.0

# (blocks, length) → (rows,) bool which rows are masked, (rows,) float64 the probability of it.
DrawMasks = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Noise:
    """The N noisy rows of one hole.

    Attributes:
        tokens: (N,) int64, the mask id where a row is masked.
        labels: (N,) int64, the true token of the row's position.
        positions: (N,) int64, index into the hole's tokens.
        blocks: (N,) int64; rows with the same number see each other.
        starts: (N,) int64; the row sees the hole's clean tokens at positions below this.
        weights: (N,) float32; 0 where a row is not masked, else its share times 1/p.
        shares: (N,) float32; 1, and less after the end of the middle.
    """

    tokens: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    shares: np.ndarray


def add_noise(hole: Branch, *, mask_id: int, copies: int, rng: np.random.Generator) -> Noise:
    """`copies` independently masked copies of the hole's middle."""
    filling = slice(len(hole.tokens) - hole.middle, None)

    def draw(blocks: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        masked, chance = _mask(blocks, length, rng)
        if rng.random() < _FILLING_MASKED_SHARE:
            masked[filling], chance[filling] = True, 1.0
        return masked, chance

    def copy() -> Noise:
        length = int(rng.choice(BLOCK_LENGTHS, p=_BLOCK_SHARES))
        return noisy_copy(hole, length, FILLING_SHARE, mask_id, draw)

    return joined([copy() for _ in range(copies)])


def noisy_copy(
    hole: Branch, length: int, filling_share: float, mask_id: int, draw: DrawMasks
) -> Noise:
    """The hole's middle once, in blocks of `length` that are masked as `draw` decides."""
    middle = hole.tokens[hole.middle :]
    count = -(-len(middle) // length)
    rows = count * length
    labels = np.full(rows, middle[-1], dtype=np.int64)
    labels[: len(middle)] = middle
    shares = np.ones(rows, dtype=np.float32)
    shares[len(middle) :] = filling_share
    blocks = np.arange(rows) // length
    masked, chance = draw(count, length)
    weights = np.where(masked, shares * np.minimum(1.0 / chance, _WEIGHT_MAX), 0.0)
    return Noise(
        tokens=np.where(masked, mask_id, labels),
        labels=labels,
        positions=hole.middle + np.arange(rows),
        blocks=blocks,
        starts=hole.middle + blocks * length,
        weights=weights.astype(np.float32),
        shares=shares,
    )


def joined(copies: Sequence[Noise]) -> Noise:
    """Several copies as one noise, whose blocks have different numbers."""
    parts, offset = [], 0
    for copy in copies:
        parts.append(replace(copy, blocks=copy.blocks + offset))
        offset += int(copy.blocks[-1]) + 1
    names = [field.name for field in fields(Noise)]
    return Noise(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def draw_levels(blocks: int, rng: np.random.Generator) -> np.ndarray:
    """(blocks, 1) float64 noise levels, uniform and never 0."""
    return (1 - _NOISE_MIN) * rng.random((blocks, 1)) + _NOISE_MIN


def _mask(blocks: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As `DrawMasks`.

    Each block draws its own noise level. A share of the blocks is masked whole, as at the start of
    decoding; most keep their first token, which decoding has from the causal row before.
    """
    level = draw_levels(blocks, rng)
    level[rng.random((blocks, 1)) < _FULL_SHARE] = 1.0
    masked = rng.random((blocks, length)) < level
    seeded = rng.random(blocks) < _SEED_SHARE
    masked[seeded, 0] = False
    return masked.reshape(-1), np.broadcast_to(level, masked.shape).reshape(-1).copy()
