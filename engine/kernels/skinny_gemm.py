"""The skinny GEMM: y = x w^T + b for the few rows of a decoding step.

Its time is that of reading the weights once, so the programs have to fill the card: where a layer
has too few outputs for that, the columns are split among programs too, whose sums are added in a
fixed order by a second kernel. fp32 inside, rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, for_architecture, launch, processors
from engine.kernels.products import FP32, Case, Config, tile_for, tile_product
from engine.kernels.variants import Variant

SPLITS_MAX = 8
_SUMMED = 1024  # entries that a program of the second kernel adds
# Chosen so that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 4), 64: Config(128, 64, 8, 4)},
    90: {16: Config(64, 128, 4, 5), 32: Config(64, 128, 4, 5), 64: Config(128, 64, 8, 5)},
    120: {16: Config(64, 128, 4, 3), 32: Config(64, 64, 4, 4), 64: Config(128, 64, 8, 3)},
}


def skinny_gemm_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The meaning of `skinny_gemm`; computes in fp32, or in fp64 if that is what it is given."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.to(wide) @ weight.to(wide).T
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)


@triton.jit
def _skinny_gemm_kernel(
    x, weight, bias, out, rows, outputs, stride,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
    SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """One tile of outputs and of rows, over one part of the columns. With several parts, `out` is
    (SPLITS, rows, outputs) in fp32, and has no bias yet."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    entry = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    here, known = row < rows, entry < outputs
    split = tl.program_id(2)
    part: tl.constexpr = (WIDTH + SPLITS * DEPTH - 1) // (SPLITS * DEPTH) * DEPTH
    begin = split * part
    end = tl.minimum(begin + part, WIDTH)
    product = tile_product(x, weight, row, entry, here, known, stride, begin, end, WIDTH, DEPTH)
    if HAS_BIAS:
        product += tl.load(bias + entry, mask=known, other=0.0).to(tl.float32)[None, :]
    at = (split * rows + row).to(tl.int64)[:, None] * outputs + entry[None, :]
    tl.store(out + at, product.to(out.dtype.element_ty), mask=here[:, None] & known[None, :])


@triton.jit
def _sum_kernel(
    partial, bias, out, size, outputs,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Adds the parts of (SPLITS, rows, outputs), in order, and the bias."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < size
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + split * size.to(tl.int64) + cell, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + cell % outputs, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + cell, total.to(out.dtype.element_ty), mask=inside)


def skinny_gemm_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, splits: int | None = None
) -> Tensor:
    """As `skinny_gemm`.

    Args:
        splits: the parts of the columns; None for as many as fill the card.
    """
    (rows, width), outputs = x.shape, len(weight)
    assert x.stride(1) == 1
    assert weight.shape == (outputs, width)
    assert weight.is_contiguous()
    assert bias is None or bias.shape == (outputs,)
    size, config = tile_for(CONFIGS, rows, x)
    grid = (-(-outputs // config.outputs), -(-rows // size))
    if splits is None:
        splits = splits_for(x, grid, config.depth)
    out = x.new_empty((rows, outputs))
    several = splits > 1
    partial = x.new_empty((splits, rows, outputs), dtype=torch.float32) if several else out
    launch(
        _skinny_gemm_kernel, (*grid, splits),
        x, weight, weight if bias is None else bias, partial, rows, outputs, x.stride(0),
        WIDTH=width, ROWS=size, OUTPUTS=config.outputs, DEPTH=config.depth, SPLITS=splits,
        HAS_BIAS=bias is not None and not several, warps=config.warps, stages=config.stages,
    )  # fmt: skip
    return add_parts(partial, bias, out) if several else out


def splits_for(x: Tensor, grid: tuple[int, int], depth: int) -> int:
    """Into how many parts x's columns are split, so that programs fill the card.

    Args:
        grid: the programs of one part.
        depth: the columns read at once.
    """
    free = processors(x) // max(grid[0] * grid[1], 1)
    return min(max(free, 1), SPLITS_MAX, max(x.shape[1] // depth, 1))


def add_parts(partial: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Writes the sum of the parts (S, R, out) fp32, in order, and of the bias into `out`, (R, out),
    and returns it."""
    splits, rows, outputs = partial.shape
    launch(
        _sum_kernel, (-(-rows * outputs // _SUMMED),),
        partial, partial if bias is None else bias, out, rows * outputs, outputs,
        SPLITS=splits, BLOCK=_SUMMED, HAS_BIAS=bias is not None, warps=4,
    )  # fmt: skip
    return out


def skinny_gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(R, out) in x's dtype.

    Args:
        x: (R, in); the rows may be strided. Meant for R up to 64: more rows read the weights again.
        weight: (out, in), in x's dtype.
        bias: (out,) or None.
    """
    return choose(skinny_gemm_triton, skinny_gemm_torch, x)(x, weight, bias)


CASES = {
    "one row": Case(1, 64, 40, False),
    "odd, bias": Case(5, 97, 71, True),
    "width 1": Case(2, 1, 3, True),
    "no row": Case(0, 32, 16, False),
    "two tiles of rows": Case(67, 32, 20, False),
    "8B, one row, joint q, k, v": Case(1, 4096, 6144, False, is_large=True),
    "8B, a block, joint gate and up": Case(32, 4096, 28672, False, is_large=True),
    "8B, a block, down": Case(32, 14336, 4096, False, is_large=True),
    "8B, 64 rows, o": Case(64, 4096, 4096, False, is_large=True),
    "0.5B, a block, joint q, k, v": Case(32, 896, 1152, True, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: layers of two served models, and of the tests' network."""
    found: list[Variant] = []
    for name, dtype, width, splits, has_bias in (
        ("8B o bf16", "bf16", 4096, 2, False),
        ("8B gate and up bf16", "bf16", 4096, 1, False),
        ("0.5B q, k, v bf16", "bf16", 896, 1, True),
        ("laws fp32", "fp32", 32, 1, True),
    ):
        table = FP32 if dtype == "fp32" else for_architecture(CONFIGS, architecture)
        for rows, config in table.items():
            types = dict.fromkeys(("x", "weight", "bias"), f"*{dtype}")
            types |= {"out": "*fp32" if splits > 1 else f"*{dtype}"}
            types |= dict.fromkeys(("rows", "outputs", "stride"), "i32")
            constants = {"WIDTH": width, "ROWS": rows, "OUTPUTS": config.outputs}
            constants |= {"DEPTH": config.depth, "SPLITS": splits, "HAS_BIAS": has_bias}
            title = f"skinny gemm {name}, {rows} rows"
            warps, stages = config.warps, config.stages
            found.append(
                Variant(title, _skinny_gemm_kernel, types, constants, warps, stages, ("rows",))
            )
    types = {"partial": "*fp32", "bias": "*bf16", "out": "*bf16", "size": "i32", "outputs": "i32"}
    constants = {"SPLITS": SPLITS_MAX, "BLOCK": _SUMMED, "HAS_BIAS": False}
    found.append(Variant("skinny gemm bf16, sum of parts", _sum_kernel, types, constants, 4, 1))
    return found
