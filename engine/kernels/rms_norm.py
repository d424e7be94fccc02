"""Residual and RMS norm: s = x + r; y = (s * rsqrt(mean(s^2) + eps)) * w, where s is wanted too.

fp32 inside, rounded to the weights' dtype before the weight as in Llama. One program per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, launch, padded
from engine.kernels.variants import Variant


def rms_norm_torch(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The meaning of `rms_norm`; computes in fp32, or in fp64 if that is what it is given."""
    total = x if residual is None else x + residual
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype), total


@triton.jit
def _rms_norm_kernel(
    x, residual, weight, out, total, stride, eps,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """out = s * rsqrt(mean(s^2) + eps) * weight with s = x + residual, for one row."""
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, PADDED)
    inside = dims < WIDTH
    dtype = out.dtype.element_ty
    summed = tl.load(x + row * stride + dims, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        summed += tl.load(residual + row * WIDTH + dims, mask=inside, other=0.0).to(tl.float32)
        rounded = summed.to(dtype)
        tl.store(total + row * WIDTH + dims, rounded, mask=inside)
        summed = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(summed * summed, 0) / WIDTH + eps)
    normed = (summed * scale).to(dtype).to(tl.float32)
    factor = tl.load(weight + dims, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + dims, (normed * factor).to(dtype), mask=inside)


def _warps(width: int) -> int:
    """About 16 entries of a row per thread. Not timed yet."""
    return min(max(padded(width) // 512, 1), 16)


def rms_norm_triton(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As `rms_norm`."""
    rows, width = x.shape
    assert x.stride(1) == 1
    assert weight.shape == (width,)
    assert residual is None or (residual.shape == x.shape and residual.is_contiguous())
    out = x.new_empty((rows, width))
    total = x if residual is None else torch.empty_like(out)
    launch(
        _rms_norm_kernel, (rows,),
        x, residual if residual is not None else x, weight, out, total, x.stride(0), eps,
        WIDTH=width, PADDED=padded(width), HAS_RESIDUAL=residual is not None,
        warps=_warps(width),
    )  # fmt: skip
    return out, total


def rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The normed sum and the sum, both (R, width) in x's dtype.

    Args:
        x: (R, width); the rows may be strided.
        residual: (R, width), added first; None adds nothing, and the sum is x itself.
        weight: (width,), in x's dtype.
    """
    return choose(rms_norm_triton, rms_norm_torch, x)(x, residual, weight, eps)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, width, and whether there is a residual."""

    rows: int
    width: int
    has_residual: bool
    is_large: bool = False


CASES = {
    "one row": Case(1, 64, True),
    "odd": Case(5, 97, True),
    "no residual": Case(3, 896, False),
    "width 1": Case(2, 1, True),
    "no row": Case(0, 64, True),
    "14B": Case(2, 5120, True),
    "8B, a block": Case(32, 4096, True, is_large=True),
    "8B, prefill": Case(1024, 4096, True, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: the widths of the released models."""
    del architecture  # the same for all
    pointers = dict.fromkeys(("x", "residual", "weight", "out", "total"), "*bf16")
    return [
        Variant(
            f"rms norm {size} bf16{', residual' if has_residual else ''}",
            _rms_norm_kernel,
            {**pointers, "stride": "i32", "eps": "fp32"},
            {
                "WIDTH": width,
                "PADDED": padded(width),
                "HAS_RESIDUAL": has_residual,
            },
            _warps(width),
            1,
        )
        for size, width in (("0.5B", 896), ("8B", 4096), ("14B", 5120))
        for has_residual in (True, False)
    ]
