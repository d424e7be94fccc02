"""Readings from numpy, torch and plain Python have the same meaning."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import engine.sampling
from engine.api import Sampling
from engine.model.readout import _ROWS_AT_ONCE, read, to_readings
from engine.reading import BEST_MAX, Reading
from engine.step import Step, chain, group
from tests.engine.readings import in_numpy

# Not a fraction of 2 to 12 equal tokens, so that the nucleus does not depend on the last bit.
TOP_P = 0.6137


@st.composite
def drawn_logits(draw: st.DrawFn) -> Tensor:
    """(N, V) fp32 with any values, or with few values so that there are ties."""
    rows, width = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    value = draw(
        st.sampled_from(
            [st.sampled_from([-2.0, 0.0, 1.0, 1.5]), st.floats(-40, 40, width=32), st.just(0.0)]
        )
    )
    values = st.lists(value, min_size=rows * width, max_size=rows * width)
    return torch.tensor(draw(values), dtype=torch.float32).view(rows, width)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, TOP_P]),
    seed=st.integers(0, 1000),
)


def plain_best(row: list[float], mask_id: int | None) -> list[tuple[int, float]]:
    """`Reading.best` by sorting everything."""
    pairs = [(token, value) for token, value in enumerate(row) if token != mask_id]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:BEST_MAX]


@given(logits=drawn_logits(), sampling=samplings, masked=st.booleans(), start=st.integers(0, 99))
@settings(max_examples=300, deadline=None)
def test_numpy_and_torch_read_the_same(
    logits: Tensor, sampling: Sampling, masked: bool, start: int
) -> None:
    mask_id = logits.shape[1] // 2 if masked else None
    places = range(start, start + len(logits))
    ours = in_numpy(logits, places, sampling, mask_id=mask_id)
    theirs = to_readings(logits, places, sampling, mask_id=mask_id)
    for row, one, other in zip(logits.tolist(), ours, theirs, strict=True):
        check(row, one, sampling, mask_id)
        assert (one.token, one.best) == (other.token, other.best)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
        assert one.log_sum_exp == pytest.approx(other.log_sum_exp, abs=1e-5)


def check(row: list[float], reading: Reading, sampling: Sampling, mask_id: int | None) -> None:
    """Compares one reading with its definition."""
    total = math.fsum(math.exp(value) for value in row)
    assert list(reading.best) == plain_best(row, mask_id)
    assert reading.token != mask_id
    assert reading.probability == pytest.approx(math.exp(row[reading.token]) / total, abs=1e-5)
    assert reading.log_sum_exp == pytest.approx(math.log(total), abs=1e-5)
    if sampling.temperature == 0:
        assert reading.token == reading.best[0][0]


def test_many_rows_are_read_in_parts() -> None:
    logits = torch.randn(2 * _ROWS_AT_ONCE + 3, 9, generator=torch.Generator().manual_seed(0))
    for sampling in (Sampling(), Sampling(1.0, seed=4)):
        readings = to_readings(logits, range(len(logits)), sampling, mask_id=None)
        one_by_one = [
            to_readings(logits[row : row + 1], [row], sampling, mask_id=None)[0]
            for row in range(len(logits))
        ]
        assert list(readings) == one_by_one


@pytest.mark.parametrize(
    ("step", "places"),
    [
        (chain((5, 6, 7), 10, read=(0, 2)), (11, 13)),
        (group((5, 0, 0), 10, read=(1, 2)), (11, 12)),
    ],
    ids=["causal", "group"],
)
def test_a_draw_goes_by_the_place_that_the_row_decides(step: Step, places: tuple[int, int]) -> None:
    logits = torch.zeros(2, 50)
    sampling = Sampling(1.0, seed=8)
    expected = [int(engine.sampling.uniform(8, place) * 50) for place in places]
    assert [reading.token for reading in read(logits, step, sampling, None)] == expected
    torch_readings = to_readings(logits, step.places, sampling, mask_id=None)
    assert [reading.token for reading in torch_readings] == expected


def test_without_rows_there_are_no_readings() -> None:
    assert to_readings(torch.zeros(0, 5), (), Sampling(), mask_id=3) == ()
    assert in_numpy(torch.zeros(0, 5), (), Sampling(), mask_id=3) == ()
