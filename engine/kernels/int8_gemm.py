"""The skinny GEMM with int8 weights: y = (x w^T) * scale + b, with one scale per output.

The weights are read as int8 and are exact in the activations' dtype, so that only the sums are
rounded; the scale of an output is multiplied in once, in fp32. Activations are not quantised. The
integers and scales are those of `engine/model/quantized.py`: w[i, j] * scale[i] is the weight that
a loader multiplies out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, for_architecture, launch
from engine.kernels.int8_rows import int8_gemm_torch
from engine.kernels.products import FP32, Case, Config, tile_for, tile_product
from engine.kernels.skinny_gemm import add_parts, splits_for
from engine.kernels.variants import Variant

# Chosen so that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {
        16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 4),
        64: Config(128, 64, 8, 4), 128: Config(64, 64, 8, 3),
    },
    90: {
        16: Config(64, 128, 4, 5), 32: Config(64, 128, 4, 5),
        64: Config(128, 64, 8, 5), 128: Config(64, 128, 8, 4),
    },
    120: {
        16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 3),
        64: Config(128, 64, 8, 3), 128: Config(64, 64, 8, 3),
    },
}  # fmt: skip


@triton.jit
def _int8_gemm_kernel(
    x, weight, scale, bias, out, rows, outputs, stride,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
    SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """As the skinny GEMM's kernel: one tile of outputs and of rows, over a part of the columns."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    entry = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    here, known = row < rows, entry < outputs
    split = tl.program_id(2)
    part: tl.constexpr = (WIDTH + SPLITS * DEPTH - 1) // (SPLITS * DEPTH) * DEPTH
    begin = split * part
    end = tl.minimum(begin + part, WIDTH)
    product = tile_product(x, weight, row, entry, here, known, stride, begin, end, WIDTH, DEPTH)
    product *= tl.load(scale + entry, mask=known, other=0.0)[None, :]
    if HAS_BIAS:
        product += tl.load(bias + entry, mask=known, other=0.0).to(tl.float32)[None, :]
    at = (split * rows + row).to(tl.int64)[:, None] * outputs + entry[None, :]
    tl.store(out + at, product.to(out.dtype.element_ty), mask=here[:, None] & known[None, :])


def int8_gemm_triton(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, splits: int | None = None
) -> Tensor:
    """As `int8_gemm`.

    Args:
        splits: the parts of the columns; None for as many as fill the card.
    """
    (rows, width), outputs = x.shape, len(weight)
    assert x.stride(1) == 1
    assert weight.shape == (outputs, width)
    assert weight.dtype == torch.int8
    assert weight.is_contiguous()
    assert scale.shape == (outputs,)
    assert scale.dtype == torch.float32
    assert scale.is_contiguous()
    assert bias is None or bias.shape == (outputs,)
    size, config = tile_for(CONFIGS, rows, x)
    grid = (-(-outputs // config.outputs), -(-rows // size))
    if splits is None:
        splits = splits_for(x, grid, config.depth)
    out = x.new_empty((rows, outputs))
    several = splits > 1
    partial = x.new_empty((splits, rows, outputs), dtype=torch.float32) if several else out
    launch(
        _int8_gemm_kernel, (*grid, splits),
        x, weight, scale, scale if bias is None else bias, partial, rows, outputs, x.stride(0),
        WIDTH=width, ROWS=size, OUTPUTS=config.outputs, DEPTH=config.depth, SPLITS=splits,
        HAS_BIAS=bias is not None and not several, warps=config.warps, stages=config.stages,
    )  # fmt: skip
    return add_parts(partial, bias, out) if several else out


def int8_gemm(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """(R, out) in x's dtype.

    Args:
        x: (R, in) bf16 or fp32; the rows may be strided. Meant for R up to 128: more rows read
            the weights again, and in fp32 more than 64.
        weight: (out, in) int8.
        scale: (out,) fp32, of each output.
        bias: (out,) or None.
    """
    return choose(int8_gemm_triton, int8_gemm_torch, x)(x, weight, scale, bias)


CASES = {
    "one row": Case(1, 64, 40, False),
    "odd, bias": Case(5, 97, 71, True),
    "width 1": Case(2, 1, 3, True),
    "no row": Case(0, 32, 16, False),
    "65 rows": Case(65, 33, 20, True),
    "128 rows": Case(128, 32, 20, False),
    "8B, one row, joint q, k, v": Case(1, 4096, 6144, False, is_large=True),
    "8B, a block, joint gate and up": Case(32, 4096, 28672, False, is_large=True),
    "8B, a block, down": Case(32, 14336, 4096, False, is_large=True),
    "8B, 128 rows, o": Case(128, 4096, 4096, False, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: layers of a served model, and of the tests' network."""
    found: list[Variant] = []
    for name, dtype, width, splits, has_bias in (
        ("8B o bf16", "bf16", 4096, 2, False),
        ("8B gate and up bf16", "bf16", 4096, 1, False),
        ("laws fp32", "fp32", 32, 1, True),
    ):
        table = FP32 if dtype == "fp32" else for_architecture(CONFIGS, architecture)
        for rows, config in table.items():
            types = {"x": f"*{dtype}", "weight": "*i8", "scale": "*fp32", "bias": f"*{dtype}"}
            types |= {"out": "*fp32" if splits > 1 else f"*{dtype}"}
            types |= dict.fromkeys(("rows", "outputs", "stride"), "i32")
            constants = {"WIDTH": width, "ROWS": rows, "OUTPUTS": config.outputs}
            constants |= {"DEPTH": config.depth, "SPLITS": splits, "HAS_BIAS": has_bias}
            title = f"int8 gemm {name}, {rows} rows"
            warps, stages = config.warps, config.stages
            found.append(
                Variant(title, _int8_gemm_kernel, types, constants, warps, stages, ("rows",))
            )
    return found
