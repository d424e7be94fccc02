"""SwiGLU: near the fp64 truth, also where the gate is far from 0."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.swiglu import CASES, swiglu, swiglu_torch, swiglu_triton
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_swiglu_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(case.width)
    joint = 20 * torch.randn((case.rows, 2 * case.width + 1), generator=generator)
    joint = joint.to(DEVICE, dtype)[:, : 2 * case.width]
    assert_near(swiglu_triton(joint), swiglu_torch(joint), swiglu_torch(joint.double()))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    joint = torch.randn((3, 8), dtype=torch.bfloat16)
    assert torch.equal(swiglu(joint), swiglu_torch(joint))
