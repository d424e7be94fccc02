"""The tiles of exact mode: which rows of a step are computed together, and the place of each row.

The rounding of a row's result in a matrix product depends on the number of rows and on the row's
place among them, and in attention on the number of keys. In a tile all three depend on the row's
position only. A tile has TILE_ROWS consecutive positions from a multiple of TILE_ROWS on, each row
is at its position modulo TILE_ROWS, and the keys are ordered by position up to a fixed end. So a
row's result depends neither on the other rows of the step nor on how a prompt was cut into steps.
Torch-free; knows neither network nor cache.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from engine.step import CACHED, Step

# Tiles of 16 | 32 rows, bundled model in bf16 on one busy core of a Sapphire Rapids Xeon: a step of
# one row 8.7 | 9.6 ms, of 8 rows at position 300 (two tiles | one) 17.7 | 9.7 ms, a prompt of 300
# tokens 137 | 82 ms; without tiles 5.4, 6.0 and 36 ms.
TILE_ROWS = 32
KEYS_MULTIPLE = 64  # keys are padded to a multiple of this, so that there are few different shapes


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of one sequence at consecutive positions, each the child of the row before it.

    Attributes:
        start: the position of the tile's first place, a multiple of TILE_ROWS.
        offset: the first row's place in the tile; the places outside the rows are padding.
        rows: at most TILE_ROWS - offset rows of the step.
        before: the first row's ancestors in the step, from the root on.
    """

    sequence: int
    start: int
    offset: int
    rows: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def keys(self) -> int:
        """The number of keys in the tile's attention, padding included."""
        return -(-(self.start + TILE_ROWS) // KEYS_MULTIPLE) * KEYS_MULTIPLE


def to_tiles(
    step: Step, exact: Collection[int], tile_rows: int = TILE_ROWS
) -> tuple[tuple[Tile, ...], tuple[int, ...]]:
    """The tiles of a step's causal rows, ancestors first, and the rows outside all tiles.

    Args:
        exact: the sequences whose causal rows are computed in tiles.
        tile_rows: the number of places of a tile; always the same for one model.

    Returns:
        The tiles, and the other rows: those of other sequences, in a group, with the drafter LoRA,
        or descending from such a row. No row of a tile sees any of these.
    """
    paths: dict[int, tuple[int, ...]] = {}  # the path that ends with each causal row
    tile_of: dict[int, int] = {}
    tiles: list[list[int]] = []
    for row, parent in enumerate(step.parent):
        is_causal = step.group[row] == 0 and not step.drafter[row]
        if not is_causal or step.sequence[row] not in exact:
            continue
        if parent != CACHED and parent not in paths:
            continue
        paths[row] = (row,) if parent == CACHED else (*paths[parent], row)
        number = tile_of.get(parent)
        begins = number is None or tiles[number][-1] != parent
        if begins or step.position[row] % tile_rows == 0:
            tiles.append([])
            number = len(tiles) - 1
        assert number is not None
        tiles[number].append(row)
        tile_of[row] = number
    rest = tuple(row for row in range(step.rows) if row not in paths)
    return tuple(_tile(step, rows, paths[rows[0]][:-1], tile_rows) for rows in tiles), rest


def _tile(step: Step, rows: list[int], before: tuple[int, ...], tile_rows: int) -> Tile:
    offset = step.position[rows[0]] % tile_rows
    start = step.position[rows[0]] - offset
    return Tile(step.sequence[rows[0]], start, offset, tuple(rows), before)
