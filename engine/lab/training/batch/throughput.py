"""The work of a training batch in floating point operations.

The convention is that of PaLM's model FLOPs utilisation (arXiv 2204.02311, appendix B): it counts
multiplications and additions of matrix products, the backward pass as two forward passes, and
nothing for recomputation.
"""

from __future__ import annotations

import numpy as np

from engine.lab.training.batch.rows import NONE, Rows
from engine.model.config import ModelConfig


def flops_of(rows: Rows, config: ModelConfig) -> float:
    """Floating point operations of one forward and backward pass over these rows.

    Rows that predict nothing have no logits, and only rows that see each other have a score.
    """
    width = config.heads * config.head_dim
    kv_width = config.kv_heads * config.head_dim
    layer = config.hidden * (2 * width + 2 * kv_width + 3 * config.intermediate)
    products = len(rows.tokens) * config.layers * layer
    read = np.count_nonzero((rows.ar_weights > 0) | (rows.diffusion_weights > 0))
    products += int(read) * config.vocabulary * config.hidden
    products += pairs_of(rows) * config.layers * 2 * width
    return 6.0 * products


def pairs_of(rows: Rows) -> int:
    """The number of pairs of rows of which the first sees the second."""
    above = np.array([segment.seen for segment in rows.segments])[rows.segment]
    noisy = rows.block[rows.block != NONE]
    own_block = int((np.bincount(noisy) ** 2).sum()) if len(noisy) else 0
    return int(above.sum() + rows.reach.sum()) + own_block
