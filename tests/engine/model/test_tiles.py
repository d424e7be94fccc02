"""In exact mode the place of a row depends on its position only, for any tree of rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.model.tiles import KEYS_MULTIPLE, TILE_ROWS, to_tiles
from engine.step import Step, chain, visible_rows
from tests.engine.steps import trees

EXACT, OTHER = 4, 9
STEPS = st.fixed_dictionaries({EXACT: st.integers(0, 70), OTHER: st.integers(0, 70)}).flatmap(
    lambda lengths: trees(lengths, rows_max=60, groups=(*[0] * 9, 1), drafters=(*[False] * 9, True))
)


@given(STEPS)
def test_each_row_has_one_place_and_it_is_its_position(step: Step) -> None:
    tiles, rest = to_tiles(step, {EXACT})
    placed = [row for tile in tiles for row in tile.rows]
    assert sorted([*placed, *rest]) == list(range(step.rows))
    for tile in tiles:
        assert tile.start % TILE_ROWS == 0
        for place, row in enumerate(tile.rows, tile.offset):
            assert 0 <= place < TILE_ROWS
            assert step.position[row] == tile.start + place
            assert step.sequence[row] == tile.sequence == EXACT
        assert tile.keys >= tile.start + TILE_ROWS
        assert tile.keys % KEYS_MULTIPLE == 0


@given(STEPS)
def test_a_tile_sees_only_what_was_computed_before_it(step: Step) -> None:
    tiles, _ = to_tiles(step, {EXACT})
    done: set[int] = set()
    visible = visible_rows(step)
    for tile in tiles:
        assert done.issuperset(tile.before)
        path = (*tile.before, *tile.rows)
        for index, row in enumerate(path):
            assert visible[row] == sum(1 << ancestor for ancestor in path[: index + 1])
        done.update(tile.rows)


@given(STEPS)
def test_what_is_outside_the_tiles_is_not_causal_or_not_exact(step: Step) -> None:
    _, rest = to_tiles(step, {EXACT})
    for row in rest:
        assert (
            step.sequence[row] == OTHER
            or step.group[row]
            or step.drafter[row]
            or step.parent[row] in rest
        )


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_chain_fills_its_tiles(start: int, rows: int) -> None:
    tiles, rest = to_tiles(chain((5,) * rows, start, sequence=EXACT), {EXACT})
    assert rest == ()
    assert len(tiles) == (start + rows - 1) // TILE_ROWS - start // TILE_ROWS + 1
