"""Exact mode's order of work: which rows of a step are computed together, and where each stands.

A matrix product rounds a row's result by the number of rows it has and by the row's place among
them, and attention by the number of keys. Here all three depend on the row's position alone: rows
stand in tiles of TILE_ROWS consecutive positions that begin at multiples of TILE_ROWS, each at its
position modulo TILE_ROWS, and a tile's keys are laid out by position up to a fixed end. So a row's
result does not depend on what else the step had, nor on how a prompt was cut into steps. Plain
tuples without torch; knows neither network nor cache.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from engine.step import CACHED, Step

# Tiles of 16 | 32 rows, bundled model in bf16 on one busy core of a Sapphire Rapids Xeon: a step of
# one row 8.7 | 9.6 ms, of 8 rows at position 300 (two tiles | one) 17.7 | 9.7 ms, a prompt of 300
# tokens 137 | 82 ms; without tiles 5.4, 6.0 and 36 ms.
TILE_ROWS = 32
KEYS_MULTIPLE = 64  # keys are padded to this: few shapes, of which each is prepared once


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of one sequence at consecutive positions, each the child of the one before it.

    Attributes:
        start: position of the tile's first place, a multiple of TILE_ROWS.
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
        """Keys that the tile's attention is computed over, padding included."""
        return -(-(self.start + TILE_ROWS) // KEYS_MULTIPLE) * KEYS_MULTIPLE


def to_tiles(
    step: Step, exact: Collection[int], tile_rows: int = TILE_ROWS
) -> tuple[tuple[Tile, ...], tuple[int, ...]]:
    """The tiles of a step's causal rows, ancestors first, and all its other rows.

    Args:
        exact: sequences whose causal rows are computed in tiles.
        tile_rows: places of a tile; always the same for one model.

    Returns:
        The tiles, and the rows outside: of other sequences, in a group, with the drafter on, or
        descending from such a row. No row of a tile sees any of these.
    """
    paths: dict[int, tuple[int, ...]] = {}  # causal row -> the path that ends with it
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
