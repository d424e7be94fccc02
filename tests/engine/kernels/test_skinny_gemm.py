"""The skinny GEMM: near the fp64 truth, however its columns are split."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.products import Case
from engine.kernels.skinny_gemm import (
    CASES,
    skinny_gemm,
    skinny_gemm_torch,
    skinny_gemm_triton,
)
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]


def inputs(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, whose rows are strided, a weight and a bias."""
    generator = torch.Generator().manual_seed(case.width)
    x = torch.randn((case.rows, case.width + 5), generator=generator)
    weight = torch.randn((case.outputs, case.width), generator=generator)
    bias = torch.randn((case.outputs,), generator=generator)
    x, weight, bias = (each.to(DEVICE, dtype) for each in (x, weight, bias))
    return x[:, : case.width], weight, bias


@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_skinny_gemm_is_near_the_truth(name: str, dtype: torch.dtype, splits: int | None) -> None:
    case = CASES[name]
    x, weight, given = inputs(case, dtype)
    bias = given if case.has_bias else None
    truth = skinny_gemm_torch(x.double(), weight.double(), None if bias is None else bias.double())
    ours = skinny_gemm_triton(x, weight, bias, splits)
    assert_near(ours, skinny_gemm_torch(x, weight, bias), truth)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors = inputs(CASES["odd, bias"], torch.bfloat16)
    assert torch.equal(skinny_gemm(*tensors), skinny_gemm_torch(*tensors))
