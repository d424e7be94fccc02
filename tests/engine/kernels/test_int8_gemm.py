"""The skinny GEMM with int8 weights: near the fp64 truth, and the weights that a loader reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.int8_gemm import CASES, int8_gemm, int8_gemm_triton
from engine.kernels.int8_rows import int8_gemm_torch
from engine.kernels.products import Case
from engine.model.quantized import dequantize, quantize
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]


def inputs(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, whose rows are strided, weights as this project quantises them, scales and a bias."""
    generator = torch.Generator().manual_seed(case.width)
    x = torch.randn((case.rows, case.width + 5), generator=generator)
    # Rows of different sizes, so that a scale of another row would show.
    sizes = torch.logspace(-1, 1, case.outputs)[:, None]
    weight = torch.randn((case.outputs, case.width), generator=generator) * sizes
    bias = torch.randn((case.outputs,), generator=generator).to(DEVICE, dtype)
    values, scale = quantize("weight", weight)
    x = x.to(DEVICE, dtype)[:, : case.width]
    return x, values.to(DEVICE), scale[:, 0].to(DEVICE), bias if case.has_bias else None


@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_int8_gemm_is_near_the_truth(name: str, dtype: torch.dtype, splits: int | None) -> None:
    x, values, scale, bias = inputs(CASES[name], dtype)
    wide = None if bias is None else bias.double()
    truth = int8_gemm_torch(x.double(), values, scale, wide)
    ours = int8_gemm_triton(x, values, scale, bias, splits)
    assert_near(ours, int8_gemm_torch(x, values, scale, bias), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_its_weights_are_those_that_a_loader_reads(dtype: torch.dtype) -> None:
    _, values, scale, _ = inputs(CASES["odd, bias"], dtype)
    read = dequantize(values.cpu().numpy(), scale.cpu().numpy()[:, None])
    one_hot = torch.eye(values.shape[1], device=DEVICE, dtype=dtype)[60:64]
    ours = int8_gemm_triton(one_hot, values, scale, None)
    assert torch.equal(ours.cpu(), torch.from_numpy(read).T[60:64].to(dtype))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors = inputs(CASES["odd, bias"], torch.bfloat16)
    assert torch.equal(int8_gemm(*tensors), int8_gemm_torch(*tensors))
