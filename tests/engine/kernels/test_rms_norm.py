"""Residual and norm: the sum to the bit, and the normed rows near the fp64 truth."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.rms_norm import CASES, Case, rms_norm, rms_norm_torch, rms_norm_triton
from engine.model.network import RMSNorm
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5


def inputs(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """x, whose rows are strided, a residual and a weight."""
    generator = torch.Generator().manual_seed(case.width)
    wide, residual = torch.randn((2, case.rows, case.width + 3), generator=generator).unbind()
    weight = torch.randn((case.width,), generator=generator)
    tensors = (wide, residual[:, : case.width].contiguous(), weight)
    wide, residual, weight = (each.to(DEVICE, dtype) for each in tensors)
    return wide[:, : case.width], residual, weight


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_rms_norm_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x, added, weight = inputs(case, dtype)
    residual = added if case.has_residual else None
    ours, total = rms_norm_triton(x, residual, weight, EPS)
    theirs, expected = rms_norm_torch(x, residual, weight, EPS)
    assert torch.equal(total, expected)
    truth, _ = rms_norm_torch(expected.double(), None, weight.double(), EPS)
    assert_near(ours, theirs, truth)


def test_what_is_normed_is_the_rounded_sum() -> None:
    """The sum that the next layer will read, not what it was before rounding."""
    x, added, weight = inputs(CASES["14B"], torch.bfloat16)
    ours, total = rms_norm_triton(x, added, weight, EPS)
    assert torch.equal(ours, rms_norm_triton(total, None, weight, EPS)[0])


def test_the_reference_is_the_networks_own_norm() -> None:
    x, added, weight = inputs(CASES["odd"], torch.bfloat16)
    norm = RMSNorm(x.shape[1], EPS).to(DEVICE, torch.bfloat16)
    norm.weight.data = weight
    assert torch.equal(rms_norm_torch(x, added, weight, EPS)[0], norm(x + added))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors = inputs(CASES["odd"], torch.bfloat16)
    assert torch.equal(rms_norm(*tensors, EPS)[0], rms_norm_torch(*tensors, EPS)[0])
