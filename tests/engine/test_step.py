"""The visibility rule: same sequence, and itself, an ancestor or of the same group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.visibility import visibility
from engine.step import CACHED, Step, chain, group, joined, visible_rows
from tests.engine.steps import trees

STEPS = trees({0: 0, 1: 0, 2: 0}, groups=(0, 1, 2, 3))


def brute_force_visible(step: Step, q: int, k: int) -> bool:
    if step.sequence[q] != step.sequence[k]:
        return False
    ancestor = q
    while ancestor != CACHED:
        if ancestor == k:
            return True
        ancestor = step.parent[ancestor]
    return step.group[q] != 0 and step.group[q] == step.group[k]


@given(STEPS)
def test_visible_rows_follow_the_rule(step: Step) -> None:
    bits = visible_rows(step)
    for q in range(step.rows):
        for k in range(step.rows):
            assert bool(bits[q] >> k & 1) == brute_force_visible(step, q, k)


@given(STEPS, st.lists(st.integers(0, 20), min_size=3, max_size=3))
def test_mask_shows_each_row_its_own_cached_tokens(step: Step, cached: list[int]) -> None:
    lengths = [(sequence, cached[sequence]) for sequence in dict.fromkeys(step.sequence)]
    mask = visibility(step, lengths)
    total = sum(length for _, length in lengths)
    assert mask.shape == (step.rows, total + step.rows)
    column = 0
    for sequence, length in lengths:
        for row in range(step.rows):
            expected = step.sequence[row] == sequence
            assert mask[row, column : column + length].tolist() == [expected] * length
        column += length
    for q in range(step.rows):
        for k in range(step.rows):
            assert bool(mask[q, total + k]) == brute_force_visible(step, q, k)


def test_chain_is_causal_and_group_is_bidirectional() -> None:
    assert visible_rows(chain((5, 6, 7), 10)) == (0b001, 0b011, 0b111)
    assert visible_rows(group((5, 6, 7), 10, read=(1,))) == (0b111, 0b111, 0b111)


@pytest.mark.parametrize("parent", [(0,), (-2,), (-1, 1)])
def test_a_parent_stands_before_its_row(parent: tuple[int, ...]) -> None:
    rows = len(parent)
    with pytest.raises(AssertionError):
        Step((1,) * rows, (0,) * rows, (0,) * rows, parent, (0,) * rows, (False,) * rows, ())


def test_a_causal_row_decides_the_place_after_it_and_a_masked_row_its_own() -> None:
    assert chain((5, 6, 7), 10, read=(0, 2)).places == (11, 13)
    assert group((5, 0, 0), 10, read=(2, 1)).places == (12, 11)
    both = joined([chain((5,), 3, read=(0,)), group((6, 0), 8, read=(1,), sequence=1)])
    assert both.places == (4, 9)
    assert chain((5, 6), 0).places == ()
