"""What the rows of a step see, as arrays on the device, and the shapes that attention is tried on.

Built once for a step and used by all of its layers. Knows sequences, pages and visibility as plain
numbers, and neither steps nor the cache. Imports no Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILES = (16, 32, 64, 128)  # what a tensor core's tile of rows may be


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What a step's rows see, on the device; the same for all layers.

    Attributes:
        order: (R,) int32, the rows, those of one sequence together.
        tiles: (T, 5) int32: sequence, first place in `order`, rows of the tile, first place and
            number of all rows of the sequence. A tile of 0 rows is padding.
        pages: (S, P) int32, the numbers of each sequence's pages, in order of position.
        lengths: (S,) int32, the cached tokens of each sequence.
        visible: (R, W) int32, bit k % 32 of word k // 32 says whether the row sees row k.
        page_tokens: the slots of a page.
        tile: the rows of a tile, query rows times the heads that share a K/V head.
    """

    order: Tensor
    tiles: Tensor
    pages: Tensor
    lengths: Tensor
    visible: Tensor
    page_tokens: int
    tile: int


def plan_attention(
    sequence: Sequence[int],
    visible: Sequence[int],
    pages: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    heads_per_kv_head: int,
    page_tokens: int,
    device: torch.device,
) -> AttentionPlan:
    """Lays out the arrays of a step. One tensor is copied to the device.

    Args:
        sequence: for each row, the index of its sequence in `pages` and `lengths`.
        visible: for each row, the rows that it sees as a bit mask (bit k for row k).
        pages: of each sequence, at least as many as its cached tokens need.
    """
    rows, words, longest = len(sequence), -(-len(sequence) // 32), max(map(len, pages), default=0)
    tile = tile_of(rows, heads_per_kv_head)
    order, tiles = in_tiles(sequence, len(pages), tile // heads_per_kv_head)
    padded = [number for each in pages for number in (*each, *[0] * (longest - len(each)))]
    bits = b"".join(mask.to_bytes(4 * words, "little") for mask in visible)
    masks = torch.frombuffer(bytearray(bits), dtype=torch.int32)
    parts = (order, tiles, padded, [*lengths])
    whole = torch.cat((masks, *(torch.tensor(part, dtype=torch.int32) for part in parts)))
    sizes = [len(masks), *map(len, parts)]
    masks, *rest = whole.to(device).split(sizes)
    return AttentionPlan(
        order=rest[0],
        tiles=rest[1].view(-1, 5),
        pages=rest[2].view(len(pages), longest),
        lengths=rest[3],
        visible=masks.view(rows, words),
        page_tokens=page_tokens,
        tile=tile,
    )


def in_tiles(sequence: Sequence[int], sequences: int, rows_max: int) -> tuple[list[int], list[int]]:
    """`AttentionPlan.order` and `AttentionPlan.tiles`, the latter flat.

    Args:
        sequence: as in `plan_attention`.
        sequences: how many there are.
        rows_max: the most rows of one tile.
    """
    order: list[int] = []
    tiles: list[int] = []
    for number in range(sequences):
        own = [row for row, each in enumerate(sequence) if each == number]
        for first in range(0, len(own), rows_max):
            count = min(rows_max, len(own) - first)
            tiles += (number, len(order) + first, count, len(order), len(own))
        order += own
    return order, tiles


def tile_of(rows: int, heads_per_kv_head: int) -> int:
    """The smallest tile that holds so many query rows, or the largest there is."""
    return next((each for each in TILES if each >= rows * heads_per_kv_head), TILES[-1])


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks.

    Attributes:
        heads: query heads, K/V heads, width.
        lengths: the cached tokens of each sequence.
        shapes: for each sequence, what its rows are: a parent for each (-1 for none), and a group
            number for each.
        is_large: whether it takes long in the interpreter.
    """

    heads: tuple[int, int, int]
    lengths: tuple[int, ...]
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    is_large: bool = False

    @property
    def sequence(self) -> tuple[int, ...]:
        """The sequence of each row."""
        return tuple(number for number, (own, _) in enumerate(self.shapes) for _ in own)

    @property
    def visible(self) -> tuple[int, ...]:
        """What each row sees of the rows, as a bit mask: itself, its ancestors, its group."""
        masks: list[int] = []
        for parents, groups in self.shapes:
            first = len(masks)
            for row, parent in enumerate(parents):
                masks.append(1 << first + row | (masks[first + parent] if parent >= 0 else 0))
            for row, group in enumerate(groups):
                members = (i for i, each in enumerate(groups) if group and each == group)
                masks[first + row] |= sum(1 << first + member for member in members)
        return tuple(masks)


def chain(rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(range(-1, rows - 1)), (0,) * rows


def group(rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (-1,) * rows, (1,) * rows


def hung(chain: int, masks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A causal chain with a group on each of its rows: quadratic self-speculation."""
    hung = [anchor for anchor in range(chain) for _ in range(masks)]
    return (*range(-1, chain - 1), *hung), (0,) * chain + tuple(anchor + 1 for anchor in hung)
