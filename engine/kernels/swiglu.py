"""SwiGLU: y = silu(gate) * up, of the joint projection [gate | up]; fp32 inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from engine.kernels.dispatch import choose, launch
from engine.kernels.variants import Variant

_BLOCK = 1024  # entries of a row per program; not timed yet


def swiglu_torch(joint: Tensor) -> Tensor:
    """The meaning of `swiglu`; computes in fp32, or in fp64 if that is what it is given."""
    gate, up = joint.to(torch.promote_types(joint.dtype, torch.float32)).chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(joint.dtype)


@triton.jit
def _swiglu_kernel(joint, out, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """out = gate / (1 + exp(-gate)) * up, for BLOCK entries of one row."""
    row = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = dims < WIDTH
    gate = tl.load(joint + row * stride + dims, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(joint + row * stride + WIDTH + dims, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + dims, product.to(out.dtype.element_ty), mask=inside)


def swiglu_triton(joint: Tensor) -> Tensor:
    """As `swiglu`."""
    rows, width = joint.shape[0], joint.shape[1] // 2
    assert joint.shape[1] == 2 * width
    assert joint.stride(1) == 1
    out = joint.new_empty((rows, width))
    launch(
        _swiglu_kernel, (rows, -(-width // _BLOCK)), joint, out, joint.stride(0),
        WIDTH=width, BLOCK=_BLOCK, warps=4,
    )  # fmt: skip
    return out


def swiglu(joint: Tensor) -> Tensor:
    """(R, I) in the dtype of `joint`, (R, 2 I), whose rows may be strided."""
    return choose(swiglu_triton, swiglu_torch, joint)(joint)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, and the width of what comes out."""

    rows: int
    width: int
    is_large: bool = False


CASES = {
    "one row, one entry": Case(1, 1),
    "odd": Case(3, 1500),
    "no row": Case(0, 16),
    "8B, a block": Case(32, 14336, is_large=True),
    "8B, prefill": Case(1024, 14336, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: two served models."""
    del architecture  # the same for all
    return [
        Variant(
            f"swiglu {size} bf16",
            _swiglu_kernel,
            {"joint": "*bf16", "out": "*bf16", "stride": "i32"},
            {"WIDTH": width, "BLOCK": _BLOCK},
            4,
            1,
        )
        for size, width in (("8B", 14336), ("0.5B", 4864))
    ]
