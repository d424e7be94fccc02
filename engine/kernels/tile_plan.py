"""What the tiles of exact mode see, as arrays on the device, and the shapes that are tried.

A tile has rows of one sequence at consecutive positions, each the child of the row before it
(`engine.model.tiles`). Its path is the rows that are not cached, in order of position from the
sequence's first uncached one to the tile's last. Imports no Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Positions that are summed together. A constant, since a row's bits depend on it.
PART = 256


@dataclass(frozen=True, slots=True)
class TilePlan:
    """What the rows of tiles see, on the device; the same for all layers.

    Attributes:
        tiles: (T, 5) int32: sequence, position of the first row, number of rows, the first row
            among the queries, first entry in `path`. A tile of 0 rows is padding.
        positions: (R,) int32, of each query's row; -1 for a row outside of all tiles.
        path: (K,) int32, numbers of new keys and values. A tile's first entry is at the position of
            its sequence's cached length.
        pages: (S, P) int32, the numbers of each sequence's pages, in order of position.
        lengths: (S,) int32, the cached tokens of each sequence.
        page_tokens: the slots of a page.
        places: of a tile; its first place has a position that is a multiple of this.
        parts: of `PART` positions each, at least as many as the last position needs. How many there
            are changes no bit.
    """

    tiles: Tensor
    positions: Tensor
    path: Tensor
    pages: Tensor
    lengths: Tensor
    page_tokens: int
    places: int
    parts: int


@dataclass(frozen=True, slots=True)
class Path:
    """One sequence of a case: its cached tokens, the position of the first row that is computed
    (those between are new keys of earlier forwards), and the number of rows."""

    cached: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks.

    Attributes:
        heads: query heads, K/V heads, width.
        is_large: whether it takes long in the interpreter.
    """

    heads: tuple[int, int, int]
    paths: tuple[Path, ...]
    is_large: bool = False

    @property
    def rows(self) -> int:
        """The rows that are computed."""
        return sum(one.rows for one in self.paths)


def plan_tiles(
    paths: Sequence[Path],
    pages: Sequence[Sequence[int]],
    *,
    places: int,
    page_tokens: int,
    device: torch.device,
) -> TilePlan:
    """Lays out the arrays of a case. The rows of one path stand together among the queries, and its
    new keys and values, earlier ones first, together among the new ones.

    Args:
        pages: of each path, at least as many as its cached tokens need.
    """
    tiles: list[tuple[int, ...]] = []
    positions: list[int] = []
    path_first = 0
    for number, path in enumerate(paths):
        end = path.first + path.rows
        first = path.first
        while first < end:
            count = min(end, first - first % places + places) - first
            tiles.append((number, first, count, len(positions), path_first))
            positions += range(first, first + count)
            first += count
        path_first += end - path.cached
    longest = max(map(len, pages), default=0)
    padded = [[*each, *[0] * (longest - len(each))] for each in pages]

    def to_device(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return TilePlan(
        tiles=to_device(tiles).view(-1, 5),
        positions=to_device(positions),
        path=to_device(range(path_first)),
        pages=to_device(padded).view(len(pages), longest),
        lengths=to_device([path.cached for path in paths]),
        page_tokens=page_tokens,
        places=places,
        parts=max(positions, default=0) // PART + 1,
    )
