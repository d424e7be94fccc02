"""Attention over a flat batch on a CPU: tiles of rows, each with the keys that some of them see.

A tile is a part of a trunk, or a few branches of one trunk, so that the small products of single
branches become a few large ones, and nothing is computed across examples. Forward and backward are
plain matrix products: at these lengths they take less than half the time of the CPU's fused kernel.
`engine.lab.training.batch.rows` has the rule of what a row sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.lab.training.batch.rows import NONE, Rows, own_sees

# Rows of a tile: enough to fill a matrix unit, few enough for the scores to stay in the cache.
_TILE_ROWS = 256
# Rows and keys of a tile are padded to a multiple of this: the library makes a kernel for each
# shape that it meets, which takes longer than running it.
_MULTIPLE = 64
# Added to the scores of what a row does not see: finite, and far below any score.
_MASKED_OUT = -30_000.0


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows start..stop, which see some of each other and of the `seen` rows from `above` on.

    Attributes:
        bias: (rows, keys), 0 where visible. Both dimensions are padded: the added rows mean
            nothing, and no other row sees the added keys.
    """

    start: int
    stop: int
    above: int
    seen: int
    bias: Tensor


class PackedAttention:
    """`attend` for one flat batch."""

    def __init__(self, rows: Rows, dtype: torch.dtype) -> None:
        """
        Args:
            dtype: the dtype of the keys.
        """
        self._tiles = [_tile(rows, *bounds, dtype) for bounds in _bounds(rows)]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (R, H, D), key and value (R, Hkv, D) → (R, H, D)."""
        del layer
        return _Attention.apply(query, key, value, self._tiles)


class _Attention(torch.autograd.Function):
    """Softmax attention tile by tile; the query heads of a group share one key head.

    Inside, the H heads are (Hkv, G), and the rows of a group are concatenated.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: Sequence[_Tile]
    ) -> Tensor:
        rows, heads, width = query.shape
        kv_heads = key.shape[1]
        queries = _by_head(query * width**-0.5, kv_heads)
        keys, values = (x.transpose(0, 1).contiguous() for x in (key, value))
        mixed = torch.empty_like(queries)
        probs: list[Tensor] = []
        for tile in tiles:
            scores = torch.bmm(_rows_of(queries, tile), _keys_of(keys, tile).transpose(1, 2))
            scores.view(kv_heads, -1, *tile.bias.shape).add_(tile.bias)
            probs.append(scores.softmax(dim=-1))
            part = torch.bmm(probs[-1], _keys_of(values, tile))
            _put_rows(mixed, tile, part)
        ctx.save_for_backward(queries, keys, values, *probs)
        ctx.tiles = tiles
        return mixed.view(heads, rows, width).transpose(0, 1)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_mixed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, *probs = ctx.saved_tensors
        kv_heads, group, rows, width = queries.shape
        upper = _by_head(by_mixed, kv_heads)
        grad_queries = torch.empty_like(queries)
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        for tile, prob in zip(ctx.tiles, probs, strict=True):
            upper_rows = _rows_of(upper, tile)
            _add_keys(grad_values, tile, torch.bmm(prob.transpose(1, 2), upper_rows))
            grad_prob = torch.bmm(upper_rows, _keys_of(values, tile).transpose(1, 2))
            grad_scores = _softmax_backward(grad_prob, prob)
            part = torch.bmm(grad_scores, _keys_of(keys, tile))
            _put_rows(grad_queries, tile, part)
            _add_keys(
                grad_keys, tile, torch.bmm(grad_scores.transpose(1, 2), _rows_of(queries, tile))
            )
        grad_queries = grad_queries.mul_(width**-0.5).view(kv_heads * group, rows, width)
        grad_query = grad_queries.transpose(0, 1)
        return grad_query, grad_keys.transpose(0, 1), grad_values.transpose(0, 1), None


def _softmax_backward(grad_prob: Tensor, prob: Tensor) -> Tensor:
    return torch.ops.aten._softmax_backward_data(grad_prob, prob, -1, prob.dtype)


def _by_head(x: Tensor, kv_heads: int) -> Tensor:
    """(R, H, D) → (Hkv, G, R, D), contiguous."""
    return x.transpose(0, 1).unflatten(0, (kv_heads, -1)).contiguous()


def _rows_of(x: Tensor, tile: _Tile) -> Tensor:
    """(Hkv, G, R, D) → (Hkv, G * rows, D), the rows of the tile."""
    part = x[:, :, tile.start : tile.stop]
    missing = tile.bias.shape[0] - part.shape[2]
    return functional.pad(part, (0, 0, 0, missing)).flatten(1, 2)


def _put_rows(total: Tensor, tile: _Tile, part: Tensor) -> None:
    """Writes back the rows that `_rows_of` took."""
    count = tile.stop - tile.start
    rows = part.view(*total.shape[:2], -1, total.shape[3])
    total[:, :, tile.start : tile.stop].copy_(rows[:, :, :count])


def _keys_of(x: Tensor, tile: _Tile) -> Tensor:
    """(Hkv, R, D) → (Hkv, keys, D), the keys of the tile."""
    above, own = x[:, tile.above : tile.above + tile.seen], x[:, tile.start : tile.stop]
    missing = tile.bias.shape[1] - above.shape[1] - own.shape[1]
    return torch.cat((above, own, x.new_zeros(len(x), missing, x.shape[2])), dim=1)


def _add_keys(total: Tensor, tile: _Tile, part: Tensor) -> None:
    count = tile.stop - tile.start
    total[:, tile.above : tile.above + tile.seen].add_(part[:, : tile.seen])
    total[:, tile.start : tile.stop].add_(part[:, tile.seen : tile.seen + count])


def _bounds(rows: Rows) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, above, seen) of each tile."""
    ends = np.cumsum([segment.rows for segment in rows.segments])
    starts = ends - [segment.rows for segment in rows.segments]
    number = 0
    while number < len(rows.segments):
        segment, first = rows.segments[number], int(starts[number])
        if segment.trunk == NONE:
            for start in range(first, int(ends[number]), _TILE_ROWS):
                stop = min(start + _TILE_ROWS, int(ends[number]))
                yield start, stop, first, start - first
            number += 1
            continue
        seen, last = segment.seen, number
        while last + 1 < len(rows.segments) and ends[last + 1] - first <= _TILE_ROWS:
            following = rows.segments[last + 1]
            if following.trunk != segment.trunk:
                break
            seen, last = max(seen, following.seen), last + 1
        yield first, int(ends[last]), int(starts[segment.trunk]), seen
        number = last + 1


def _tile(rows: Rows, start: int, stop: int, above: int, seen: int, dtype: torch.dtype) -> _Tile:
    part = slice(start, stop)
    segment = rows.segment[part]
    own = own_sees(rows, part) & (segment[:, None] == segment[None, :])
    reaches = np.array([item.seen for item in rows.segments])[segment]
    is_branch = np.array([item.trunk != NONE for item in rows.segments])[segment]
    reaches = np.where(is_branch, reaches, seen)
    sees = np.concatenate((np.arange(seen)[None, :] < reaches[:, None], own), axis=1)
    masked_out = np.pad(
        ~sees, [(0, -length % _MULTIPLE) for length in sees.shape], constant_values=True
    )
    return _Tile(start, stop, above, seen, torch.from_numpy(masked_out).to(dtype).mul_(_MASKED_OUT))
