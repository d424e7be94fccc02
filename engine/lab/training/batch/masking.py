"""The noisy half of the joint objective: blocks over the middles, what is masked.

A noisy copy repeats the middle of a hole, cut into blocks that start at the first token behind
MIDDLE, as decoding cuts them. The last block is filled up with end-of-middle. Owns the noise;
knows nothing of networks nor of what a row sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.lab.data.sampler import Branch

BLOCK_LENGTHS = (32, 16, 8)
_BLOCK_SHARES = (0.6, 0.25, 0.15)
_FULL_SHARE = 0.3
_SEED_SHARE = 0.75
# Weight of the filling behind the end of a middle. Far below 1, far places would be taken for text
# rather than for what is behind the end, and blocks would not end.
FILLING_SHARE = 0.5
# Of the copies: those whose filling stays masked, as decoding leaves it behind a decided end.
_FILLING_MASKED_SHARE = 0.5
_NOISE_MIN = 1e-3
# 1/p is cut off here: a lone mask among known tokens must not outweigh a whole block.
_WEIGHT_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Noise:
    """Noisy rows that belong to one hole; N rows.

    Attributes:
        tokens: (N,) int64, the mask id where masked.
        labels: (N,) int64, the token of that very place.
        positions: (N,) int64, within the hole's tokens.
        blocks: (N,) int64; rows of one number see each other, both ways.
        starts: (N,) int64; the row sees the hole's clean tokens at positions below this.
        weights: (N,) float32; 0 where not masked, else the row's share times 1/p.
        shares: (N,) float32; 1, and FILLING_SHARE behind the end of the middle.
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
    parts = [_noisy_copy(hole, mask_id, rng) for _ in range(copies)]
    offset = 0
    for part in parts:
        part["blocks"] += offset
        offset = int(part["blocks"][-1]) + 1
    return Noise(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _noisy_copy(hole: Branch, mask_id: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    length = int(rng.choice(BLOCK_LENGTHS, p=_BLOCK_SHARES))
    middle = hole.tokens[hole.middle :]
    blocks_count = -(-len(middle) // length)
    rows = blocks_count * length
    labels = np.full(rows, middle[-1], dtype=np.int64)
    labels[: len(middle)] = middle
    shares = np.ones(rows, dtype=np.float32)
    shares[len(middle) :] = FILLING_SHARE
    blocks = np.arange(rows) // length
    masked, chance = _mask(blocks_count, length, rng)
    if rng.random() < _FILLING_MASKED_SHARE:
        masked[len(middle) :], chance[len(middle) :] = True, 1.0
    weights = np.where(masked, shares * np.minimum(1.0 / chance, _WEIGHT_MAX), 0.0)
    return {
        "tokens": np.where(masked, mask_id, labels),
        "labels": labels,
        "positions": hole.middle + np.arange(rows),
        "blocks": blocks,
        "starts": hole.middle + blocks * length,
        "weights": weights.astype(np.float32),
        "shares": shares,
    }


def _mask(blocks: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) bool which rows are masked, (rows,) float64 with what chance they were.

    Each block draws its own noise level. A share of the blocks is masked whole, as decoding starts
    them; most keep their first token, which decoding has from the causal row before.
    """
    level = (1 - _NOISE_MIN) * rng.random((blocks, 1)) + _NOISE_MIN
    level[rng.random((blocks, 1)) < _FULL_SHARE] = 1.0
    masked = rng.random((blocks, length)) < level
    seeded = rng.random(blocks) < _SEED_SHARE
    masked[seeded, 0] = False
    return masked.reshape(-1), np.broadcast_to(level, masked.shape).reshape(-1).copy()
