"""The share of a machine's rate: counted work equals what a row-by-row count of it gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from engine.lab.training.batch.rows import Rows
from engine.lab.training.batch.throughput import flops_of, pairs_of
from engine.lab.training.recipe import Shape, model_config
from tests.engine.lab.training.batch.test_rows import layouts, seen_rows


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_pairs_are_those_that_the_rule_shows(rows: Rows) -> None:
    assert pairs_of(rows) == int(seen_rows(rows).sum())


@given(layouts())
@settings(max_examples=20, deadline=None)
def test_work_is_that_of_the_matrices_of_the_network(rows: Rows) -> None:
    shape = Shape(hidden=32, intermediate=48, layers=3, heads=4, kv_heads=2, vocabulary=64)
    config = model_config(shape)
    width, kv_width = 4 * 64, 2 * 64
    matrices = [(32, width), (32, kv_width), (32, kv_width), (width, 32)]
    matrices += [(32, 48), (32, 48), (48, 32)]
    expected, seen = 0, seen_rows(rows)
    for row in range(len(rows.tokens)):
        expected += 3 * sum(a * b for a, b in matrices)
        expected += 3 * 2 * width * int(seen[row].sum())
        if rows.ar_weights[row] > 0 or rows.diffusion_weights[row] > 0:
            expected += 32 * 64
    assert flops_of(rows, config) == pytest.approx(6 * expected)
