"""Sampling draws from the stated distribution, with randomness from (seed, position) only."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch

import engine.sampling
from engine.api import Sampling
from engine.model import readout
from engine.reading import Reading
from engine.sampling import uniform
from tests.engine.readings import in_numpy

Read = Callable[..., tuple[Reading, ...]]
both = pytest.mark.parametrize("read", [in_numpy, readout.to_readings], ids=["numpy", "torch"])


def test_uniform_is_uniform_and_unrelated_between_neighbours() -> None:
    draws = [uniform(seed, position) for seed in range(100) for position in range(100)]
    assert all(0 <= draw < 1 for draw in draws)
    bins = [0] * 20
    for draw in draws:
        bins[int(draw * 20)] += 1
    assert chi_square(bins, [500.0] * 20) < 43.8  # 0.1 % point at 19 degrees of freedom
    pairs = [0] * 16
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        pairs[int(first * 4) * 4 + int(second * 4)] += 1
    assert chi_square(pairs, [5000 / 16] * 16) < 37.7  # 15 degrees of freedom


@both
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8)])
def test_draws_follow_the_distribution(temperature: float, top_p: float, read: Read) -> None:
    logits = torch.tensor([[0.3, -1.0, 1.7, 0.0, 0.9, -3.0]])
    sampling = Sampling(temperature, top_p, seed=7)
    count = 6000
    expected = (readout.distribution(logits, sampling)[0] * count).tolist()
    readings = read(logits.repeat(count, 1), range(count), sampling, mask_id=5)
    tokens = [reading.token for reading in readings]
    observed = [tokens.count(token) for token in range(6)]
    assert observed[5] == 0  # the mask
    kept = [index for index in range(5) if expected[index] > 0]
    assert sum(observed[index] for index in kept) == count
    scale = count / sum(expected[index] for index in kept)
    statistic = chi_square(
        [observed[index] for index in kept], [expected[index] * scale for index in kept]
    )
    assert statistic < 18.5  # 0.1 % point at 4 degrees of freedom


def test_the_nucleus_is_the_smallest_set_that_holds_its_mass() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    for top_p, expected in ((0.65, [0, 4 / 7, 0, 3 / 7]), (1e-6, [0, 1, 0, 0])):
        sampling = Sampling(1.0, top_p)
        in_torch = readout.distribution(logits, sampling)[0].numpy()
        for kept in (engine.sampling.distribution(logits[0].numpy(), sampling), in_torch):
            assert kept.dtype == numpy.float64
            numpy.testing.assert_allclose(kept, expected, rtol=1e-6, atol=1e-6)


@both
def test_reading_leaves_the_logits_as_they_were(read: Read) -> None:
    logits = torch.tensor([[0.5, 2.0, 1.0, 3.0, -1.0]])
    before = logits.clone()
    read(logits, [0], Sampling(), mask_id=1)
    read(logits, [0], Sampling(0.8, 0.9), mask_id=1)
    assert torch.equal(logits, before)


def chi_square(observed: list[int], expected: list[float]) -> float:
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
