"""Attention over a flat batch as one fused kernel, for cards: FlexAttention under a block mask.

The kernel computes what a row sees from the batch's columns (`batch.rows` has the rule) and skips
blocks in which nothing is seen, so that one launch does for the whole batch what `PackedAttention`
does tile by tile. Source: FlexAttention, arXiv 2412.05496.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from engine.lab.training.batch.rows import NONE, Rows

# R is padded to a multiple of this, so that few shapes are compiled.
PAD_ROWS = 2048


class FusedAttention:
    """`attend` for one batch on one device."""

    def __init__(self, rows: Rows, device: torch.device, *, compiled: bool = True) -> None:
        """
        Args:
            compiled: if False, FlexAttention runs as plain products, with the same values.
        """
        trunks = np.array([segment.trunk for segment in rows.segments], dtype=np.int32)
        seen = np.array([segment.seen for segment in rows.segments], dtype=np.int32)
        of_row = (rows.segment, rows.place, rows.reach, rows.block)
        segment, place, reach, block = (torch.from_numpy(x).to(device) for x in of_row)
        by_segment = (trunks[rows.segment], seen[rows.segment])
        trunk, trunk_reach = (torch.from_numpy(x).to(device) for x in by_segment)

        def sees(_: Tensor, __: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = (segment[k] == segment[q]) & (place[k] < reach[q])
            above = (segment[k] == trunk[q]) & (place[k] < trunk_reach[q])
            clean = (block[k] == NONE) & (own | above)
            return clean | ((block[k] != NONE) & (block[k] == block[q]))

        count = len(rows.tokens)
        make, self._attend = _functions() if compiled else (create_block_mask, flex_attention)
        self._mask = make(sees, None, None, count, count, device=device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (R, H, D), key and value (R, Hkv, D) → (R, H, D)."""
        del layer
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        mixed = self._attend(query, key, value, block_mask=self._mask, enable_gqa=True)
        return mixed[0].transpose(0, 1)


@cache
def _functions() -> tuple[Any, Any]:
    """Both functions, compiled once per process; each shape's first call makes its kernel."""
    return torch.compile(create_block_mask), torch.compile(flex_attention, dynamic=False)
