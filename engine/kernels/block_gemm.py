"""The skinny GEMM with ggml's quantised blocks: y = x w^T + b, where w is dequantised in the tile.

The weights are read as they are stored, four to nine bits each, in the planes of
`engine/kernels/blocks.py`. Their entries are computed in fp32 and rounded to the activations'
dtype, so that a card multiplies by the same weights as a network whose weights were dequantised
when they were loaded. Rows that are too many for this, as in a prompt's steps, get the whole matrix
dequantised by a second kernel, and one ordinary product.
"""

from __future__ import annotations

# Triton types a call among kernels as one that never returns.
# pyright: reportGeneralTypeIssues=false
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from engine.kernels.blocks import (
    CHUNK,
    HALF,
    SUPER,
    TYPES,
    Blocks,
    BlockType,
    block_gemm_torch,
    dequantize,
)
from engine.kernels.dispatch import choose, for_architecture, launch
from engine.kernels.products import FP32, Config, tile_for
from engine.kernels.skinny_gemm import add_parts, splits_for
from engine.kernels.variants import Variant

ROWS_MAX = 128  # with more rows, the matrix is dequantised once
# Chosen so that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {
        16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 4),
        64: Config(128, 128, 8, 4), 128: Config(64, 64, 8, 3),
    },
    90: {
        16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 5),
        64: Config(128, 128, 8, 5), 128: Config(64, 128, 8, 4),
    },
    120: {
        16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 3),
        64: Config(128, 64, 8, 3), 128: Config(64, 64, 8, 3),
    },
}  # fmt: skip
_FP32 = {rows: Config(each.outputs, CHUNK, each.warps, each.stages) for rows, each in FP32.items()}
_UNPACKED = Config(64, 128, 4, 1)  # rows and columns that a program of the second kernel writes


@triton.jit
def _above(
    high, at, place, outputs, mask,
    WORDS: tl.constexpr, UPPER: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """The bits above the low four, of one half of the columns: (chunks, 16, entries).

    `at` (chunks, entries) is the place of a chunk's first word.
    """
    if WORDS == 1:
        word = tl.load(high + at, mask=mask, other=0)
        bits = (word[:, None, :] >> (place + UPPER * HALF)[None, :, None]) & 1
    else:
        word = tl.load(high + at + UPPER * outputs, mask=mask, other=0)
        bits = (word[:, None, :] >> (place * 2)[None, :, None]) & 3
    return bits << 4


@triton.jit
def _entries(
    low, high, scales, supers, first, end, entry, known, outputs,
    BITS: tl.constexpr, ZERO: tl.constexpr, IS_SUPER: tl.constexpr, HAS_MINIMUM: tl.constexpr,
    CHUNKS: tl.constexpr,
    HALF: tl.constexpr, SUPER: tl.constexpr,
):  # fmt: skip
    """The entries of CHUNKS chunks from `first` on, in fp32: those of the chunks' lower halves and
    those of the upper ones, (CHUNKS * 16, entries) each. Chunks from `end` on give 0."""
    chunk, place = tl.arange(0, CHUNKS), tl.arange(0, HALF)
    mask = (first + chunk < end)[:, None] & known[None, :]
    at = chunk[:, None] * outputs + entry[None, :]
    row = tl.cast(first, tl.int64) * outputs
    if BITS == 8:
        cell = low + row * (2 * HALF) + (at * (2 * HALF))[:, None, :] + place[None, :, None]
        lower = tl.load(cell, mask=mask[:, None, :], other=0).to(tl.int32)
        upper = tl.load(cell + HALF, mask=mask[:, None, :], other=0).to(tl.int32)
    else:
        cell = low + row * HALF + (at * HALF)[:, None, :] + place[None, :, None]
        both = tl.load(cell, mask=mask[:, None, :], other=0).to(tl.int32)
        lower, upper = both & 15, both >> 4
    if BITS == 5 or BITS == 6:
        words: tl.constexpr = BITS - 4
        word = high + row * words
        place_of = (chunk * words)[:, None] * outputs + entry[None, :]
        lower |= _above(word, place_of, place, outputs, mask, words, 0, HALF)
        upper |= _above(word, place_of, place, outputs, mask, words, 1, HALF)
    low_values, high_values = (lower - ZERO).to(tl.float32), (upper - ZERO).to(tl.float32)
    if not IS_SUPER:
        scale = tl.load(scales + row + at, mask=mask, other=0.0).to(tl.float32)[:, None, :]
        low_values, high_values = low_values * scale, high_values * scale
    else:
        own = scales + 2 * row + 2 * chunk[:, None] * outputs + entry[None, :]
        one = tl.load(own, mask=mask, other=0).to(tl.float32)
        two = tl.load(own + outputs, mask=mask, other=0).to(tl.float32)
        factors = 2 if HAS_MINIMUM else 1
        block = ((first + chunk) // SUPER).to(tl.int64)[:, None] * factors * outputs
        factor = tl.load(supers + block + entry[None, :], mask=mask, other=0.0).to(tl.float32)
        scale = (one * factor)[:, None, :]
        if HAS_MINIMUM:
            of_minimum = supers + block + outputs + entry[None, :]
            minimum = two * tl.load(of_minimum, mask=mask, other=0.0).to(tl.float32)
            low_values = low_values * scale - minimum[:, None, :]
            high_values = high_values * scale - minimum[:, None, :]
        else:
            low_values = low_values * scale
            high_values = high_values * (two * factor)[:, None, :]
    size: tl.constexpr = CHUNKS * HALF
    return (
        tl.reshape(low_values, (size, entry.shape[0])),
        tl.reshape(high_values, (size, entry.shape[0])),
    )


@triton.jit
def _block_gemm_kernel(
    x, low, high, scales, supers, bias, out, rows, outputs, stride, chunks,
    BITS: tl.constexpr, ZERO: tl.constexpr, IS_SUPER: tl.constexpr, HAS_MINIMUM: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNKS: tl.constexpr, SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HALF: tl.constexpr, SUPER: tl.constexpr,
):  # fmt: skip
    """As the skinny GEMM's kernel: one tile of outputs and of rows, over a part of the chunks."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    entry = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    here, known = row < rows, entry < outputs
    split = tl.program_id(2)
    part = tl.cdiv(chunks, SPLITS * CHUNKS) * CHUNKS
    begin = split * part
    end = tl.minimum(begin + part, chunks)
    place = tl.arange(0, CHUNKS * HALF)
    column = place // HALF * (2 * HALF) + place % HALF
    states = x + row.to(tl.int64)[:, None] * stride + column[None, :]
    product = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(begin, end, CHUNKS):
        inside = here[:, None] & (first + place // HALF < end)[None, :]
        at = states + first * (2 * HALF)
        left = tl.load(at, mask=inside, other=0.0)
        right = tl.load(at + HALF, mask=inside, other=0.0)
        lower, upper = _entries(
            low, high, scales, supers, first, end, entry, known, outputs,
            BITS, ZERO, IS_SUPER, HAS_MINIMUM, CHUNKS, HALF, SUPER,
        )  # fmt: skip
        product = tl.dot(left, lower.to(left.dtype), product, input_precision="ieee")
        product = tl.dot(right, upper.to(left.dtype), product, input_precision="ieee")
    if HAS_BIAS:
        product += tl.load(bias + entry, mask=known, other=0.0).to(tl.float32)[None, :]
    at = (split * rows + row).to(tl.int64)[:, None] * outputs + entry[None, :]
    tl.store(out + at, product.to(out.dtype.element_ty), mask=here[:, None] & known[None, :])


@triton.jit
def _unpack_kernel(
    low, high, scales, supers, out, outputs, chunks,
    BITS: tl.constexpr, ZERO: tl.constexpr, IS_SUPER: tl.constexpr, HAS_MINIMUM: tl.constexpr,
    OUTPUTS: tl.constexpr, CHUNKS: tl.constexpr, HALF: tl.constexpr, SUPER: tl.constexpr,
):  # fmt: skip
    """Writes the entries of one tile of rows and chunks into `out` (outputs, chunks * 32)."""
    entry = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first = tl.program_id(1) * CHUNKS
    known = entry < outputs
    lower, upper = _entries(
        low, high, scales, supers, first, chunks, entry, known, outputs,
        BITS, ZERO, IS_SUPER, HAS_MINIMUM, CHUNKS, HALF, SUPER,
    )  # fmt: skip
    place = tl.arange(0, CHUNKS * HALF)
    column = first * (2 * HALF) + place // HALF * (2 * HALF) + place % HALF
    inside = (first + place // HALF < chunks)[:, None] & known[None, :]
    at = out + entry.to(tl.int64)[None, :] * chunks * (2 * HALF) + column[:, None]
    tl.store(at, lower.to(out.dtype.element_ty), mask=inside)
    tl.store(at + HALF, upper.to(out.dtype.element_ty), mask=inside)


def _constants(found: BlockType) -> dict[str, int | bool]:
    """What kernels have to know of a type."""
    return {
        "BITS": found.bits,
        "ZERO": found.zero,
        "IS_SUPER": found.is_super,
        "HAS_MINIMUM": found.has_minimum,
        "HALF": HALF,
        "SUPER": SUPER,
    }


def unpack_triton(blocks: Blocks, dtype: torch.dtype) -> Tensor:
    """(out, in): the entries of `dequantize`, rounded to `dtype`."""
    (outputs, width), config = blocks.shape, _UNPACKED
    out = torch.empty((outputs, width), dtype=dtype, device=blocks.low.device)
    count = config.depth // CHUNK
    launch(
        _unpack_kernel, (-(-outputs // config.outputs), -(-width // config.depth)),
        blocks.low, blocks.high, blocks.scales, blocks.supers, out, outputs, width // CHUNK,
        **_constants(blocks.type), OUTPUTS=config.outputs, CHUNKS=count,
        warps=config.warps, stages=config.stages,
    )  # fmt: skip
    return out


def unpack_torch(blocks: Blocks, dtype: torch.dtype) -> Tensor:
    """The meaning of `unpack_triton`."""
    return torch.cat([dequantize(part).to(dtype) for _, part in blocks.parts()])


def block_gemm_triton(
    x: Tensor, blocks: Blocks, bias: Tensor | None, splits: int | None = None
) -> Tensor:
    """As `block_gemm`.

    Args:
        splits: the parts of the columns; None for as many as fill the card.
    """
    (rows, width), outputs = x.shape, blocks.shape[0]
    assert blocks.shape[1] == width
    assert bias is None or bias.shape == (outputs,)
    if rows > ROWS_MAX:
        return functional.linear(x, unpack_triton(blocks, x.dtype), bias)
    assert x.stride(1) == 1
    planes = blocks.low, blocks.high, blocks.scales, blocks.supers
    assert all(each.is_contiguous() for each in planes)
    size, config = tile_for(CONFIGS, rows, x)
    if x.dtype == torch.float32:
        config = _FP32[size]
    grid = (-(-outputs // config.outputs), -(-rows // size))
    if splits is None:
        splits = splits_for(x, grid, config.depth)
    out = x.new_empty((rows, outputs))
    several = splits > 1
    partial = x.new_empty((splits, rows, outputs), dtype=torch.float32) if several else out
    launch(
        _block_gemm_kernel, (*grid, splits),
        x, *planes, blocks.scales if bias is None else bias, partial,
        rows, outputs, x.stride(0), width // CHUNK,
        **_constants(blocks.type), ROWS=size, OUTPUTS=config.outputs, CHUNKS=config.depth // CHUNK,
        SPLITS=splits, HAS_BIAS=bias is not None and not several,
        warps=config.warps, stages=config.stages,
    )  # fmt: skip
    return add_parts(partial, bias, out) if several else out


def block_gemm(x: Tensor, blocks: Blocks, bias: Tensor | None = None) -> Tensor:
    """(R, out) in x's dtype.

    Args:
        x: (R, in) bf16 or fp32; the rows may be strided.
        blocks: a matrix (out, in).
        bias: (out,) in x's dtype, or None.
    """
    return choose(block_gemm_triton, block_gemm_torch, x)(x, blocks, bias)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, superblocks of 256 columns, outputs, and whether
    there is a bias. Types whose blocks are chunks are also tried with one chunk more."""

    rows: int
    supers: int
    outputs: int
    has_bias: bool
    is_large: bool = False


CASES = {
    "one row": Case(1, 1, 40, False),
    "odd, bias": Case(5, 3, 71, True),
    "no row": Case(0, 1, 16, False),
    "65 rows": Case(65, 1, 20, False),
    "128 rows": Case(128, 1, 20, True),
    "a prompt's step": Case(130, 1, 20, True),
    "8B, one row, joint q, k, v": Case(1, 16, 6144, False, is_large=True),
    "8B, a block, joint gate and up": Case(32, 16, 28672, False, is_large=True),
    "8B, 128 rows, o": Case(128, 16, 4096, False, is_large=True),
    "1.5B, a block, down": Case(32, 35, 1536, False, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: every type, in bf16 for all rows and in fp32 for few."""
    found: list[Variant] = []
    planes = {"high": "*i32", "out": "*bf16"}
    for kind, each in TYPES.items():
        types = {**planes, "low": "*i8" if each.bits == 8 else "*u8"}
        types |= {"scales": "*i8" if each.is_super else "*fp16", "supers": "*fp16"}
        types |= dict.fromkeys(("outputs", "chunks"), "i32")
        config = _UNPACKED
        constants = {**_constants(each), "OUTPUTS": config.outputs}
        constants |= {"CHUNKS": config.depth // CHUNK}
        name, warps, stages = f"block gemm {kind}, unpack", config.warps, config.stages
        found.append(Variant(name, _unpack_kernel, types, constants, warps, stages, ("chunks",)))
        tiles = [("bf16", *item) for item in for_architecture(CONFIGS, architecture).items()]
        for dtype, rows, config in [*tiles, ("fp32", 16, _FP32[16])]:
            its = {**types, "x": f"*{dtype}", "bias": f"*{dtype}", "out": f"*{dtype}"}
            its |= {"rows": "i32", "stride": "i32"}
            constants = {**_constants(each), "ROWS": rows, "OUTPUTS": config.outputs}
            constants |= {"CHUNKS": config.depth // CHUNK, "SPLITS": 1, "HAS_BIAS": True}
            name, warps, stages = (
                f"block gemm {kind} {dtype}, {rows} rows",
                config.warps,
                config.stages,
            )
            unaligned = ("rows", "chunks")
            found.append(
                Variant(name, _block_gemm_kernel, its, constants, warps, stages, unaligned)
            )
    return found
