"""Row-masked LoRA: flagged rows near the fp64 truth, all others unchanged to the bit."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.row_lora import CASES, Case, row_lora, row_lora_torch, row_lora_triton
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large one takes too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]


def inputs(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """base, x, down, up and flags. In rows without the adapter x is NaN, which must not tell."""
    generator = torch.Generator().manual_seed(case.width)
    rows = len(case.flags)
    flags = torch.tensor(case.flags, dtype=torch.bool)
    base = torch.randn((rows, case.outputs), generator=generator)
    x = torch.randn((rows, case.width), generator=generator)
    x[~flags] = torch.nan
    base[:, 0] = -0.0  # plus nothing it would be 0.0
    down = torch.randn((case.rank, case.width), generator=generator) / case.width**0.5
    up = torch.randn((case.outputs, case.rank), generator=generator)
    return [*(each.to(DEVICE, dtype) for each in (base, x, down, up)), flags.to(DEVICE)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_row_lora_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    base, x, down, up, flags = inputs(CASES[name], dtype)
    truth = row_lora_torch(*(each.double() for each in (base, x, down, up)), flags)
    ours = row_lora_triton(base, x, down, up, flags)
    assert_near(ours, row_lora_torch(base, x, down, up, flags), truth)
    assert torch.equal(ours[~flags].view(torch.uint8), base[~flags].view(torch.uint8))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors = inputs(CASES["some rows, odd"], torch.bfloat16)
    assert torch.equal(row_lora(*tensors), row_lora_torch(*tensors))
