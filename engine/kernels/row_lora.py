"""Row-masked LoRA: out = base + (x down^T) up^T in the rows that run with the adapter, base in all
others, to the bit.

So the rows of one step may run with and without the drafter, and no merged copy of the weights is
needed. The first product is a skinny GEMM; the second passes tiles without such rows by. The scale
of the adapter is part of its `up`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, for_architecture, launch
from engine.kernels.products import tile_for, tile_product
from engine.kernels.skinny_gemm import CONFIGS, skinny_gemm_triton
from engine.kernels.variants import Variant


def row_lora_torch(base: Tensor, x: Tensor, down: Tensor, up: Tensor, flags: Tensor) -> Tensor:
    """The meaning of `row_lora`; computes in fp32, or in fp64 if that is what it is given."""
    wide = torch.promote_types(x.dtype, torch.float32)
    low = (x.to(wide) @ down.to(wide).T).to(x.dtype).to(wide)
    added = base.to(wide) + low @ up.to(wide).T
    return torch.where(flags[:, None], added.to(base.dtype), base)


@triton.jit
def _row_lora_kernel(
    base, low, up, flags, out, rows, outputs,
    RANK: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out = base + low @ up.T in flagged rows, for one tile of outputs and of rows."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    entry = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    here, known = row < rows, entry < outputs
    drafts = tl.load(flags + row, mask=here, other=0) != 0
    end = tl.where(tl.max(drafts.to(tl.int32), 0) > 0, RANK, 0)
    product = tile_product(low, up, row, entry, drafts, known, RANK, 0, end, RANK, DEPTH)
    at = row.to(tl.int64)[:, None] * outputs + entry[None, :]
    inside = here[:, None] & known[None, :]
    before = tl.load(base + at, mask=inside, other=0.0)
    after = (before.to(tl.float32) + product).to(before.dtype)
    tl.store(out + at, tl.where(drafts[:, None], after, before), mask=inside)


def row_lora_triton(base: Tensor, x: Tensor, down: Tensor, up: Tensor, flags: Tensor) -> Tensor:
    """As `row_lora`."""
    (rows, outputs), rank = base.shape, len(down)
    assert base.is_contiguous()
    assert up.shape == (outputs, rank)
    assert up.is_contiguous()
    assert flags.shape == (rows,)
    assert flags.dtype == torch.bool
    low = skinny_gemm_triton(x, down, None)
    size, config = tile_for(CONFIGS, rows, x)
    out = torch.empty_like(base)
    launch(
        _row_lora_kernel, (-(-outputs // config.outputs), -(-rows // size)),
        base, low, up, flags.view(torch.int8), out, rows, outputs,
        RANK=rank, ROWS=size, OUTPUTS=config.outputs, DEPTH=config.depth,
        warps=config.warps, stages=config.stages,
    )  # fmt: skip
    return out


def row_lora(base: Tensor, x: Tensor, down: Tensor, up: Tensor, flags: Tensor) -> Tensor:
    """(R, out) in the dtype of `base`.

    Args:
        base: (R, out), the product without the adapter.
        x: (R, in), its input.
        down: (rank, in).
        up: (out, rank), scaled.
        flags: (R,) bool, the rows that run with the adapter.
    """
    return choose(row_lora_triton, row_lora_torch, x)(base, x, down, up, flags)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: columns, rank, outputs, and which rows are flagged."""

    width: int
    rank: int
    outputs: int
    flags: tuple[bool, ...]
    is_large: bool = False


CASES = {
    "one row": Case(32, 8, 40, (True,)),
    "some rows, odd": Case(33, 5, 71, (False, True, False, True, True)),
    "no flagged row": Case(16, 4, 9, (False, False)),
    "no row": Case(16, 4, 9, ()),
    "a tile without flagged rows": Case(16, 4, 9, (False,) * 64 + (True, False)),
    "8B drafter, o": Case(4096, 128, 4096, (False, *[True] * 31), is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: the 8B's drafter."""
    pointers = dict.fromkeys(("base", "low", "up", "out"), "*bf16")
    types = {**pointers, "flags": "*i8", "rows": "i32", "outputs": "i32"}
    return [
        Variant(
            f"row lora 8B o bf16, {rows} rows",
            _row_lora_kernel,
            types,
            {"RANK": 128, "ROWS": rows, "OUTPUTS": config.outputs, "DEPTH": config.depth},
            config.warps,
            config.stages,
            ("rows",),
        )
        for rows, config in for_architecture(CONFIGS, architecture).items()
    ]
