"""What kernels with a matrix product share: its body, and how large the tiles of rows are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import architecture, for_architecture

# Of a tile, where a table has no larger one; more rows read the weights again.
ROWS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Config:
    """A tuned configuration: outputs and columns read at once, and the compiler's options."""

    outputs: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, columns, outputs, and whether there is a bias."""

    rows: int
    width: int
    outputs: int
    has_bias: bool
    is_large: bool = False


Table = Mapping[int, Mapping[int, Config]]  # by architecture and rows
# In fp32, which no tensor core multiplies exactly; a product's columns are held in registers then.
FP32 = {16: Config(32, 16, 4, 2), 32: Config(32, 16, 4, 2), 64: Config(64, 16, 8, 2)}


def tile_for(table: Table, rows: int, x: Tensor) -> tuple[int, Config]:
    """The rows of a tile, the fewest of the table's that hold all or the most, and the
    configuration for so many on x's card in x's dtype."""
    own = FP32 if x.dtype == torch.float32 else for_architecture(table, architecture(x))
    size = next((each for each in sorted(own) if each >= rows), max(own))
    return size, own[size]


@triton.jit
def tile_product(
    x, weight, row, entry, here, known, x_stride, begin, end,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """x[row] @ weight[entry].T over the columns from `begin` to `end`, in fp32: (rows, entries).

    `x` has rows of `x_stride`, `weight` of WIDTH. `here` and `known` say which rows and entries
    exist; the others are 0. fp32 operands are multiplied as fp32, not as TF32. Weights may be int8,
    which x's dtype represents exactly.
    """
    dims = tl.arange(0, DEPTH)
    left = x + row.to(tl.int64)[:, None] * x_stride + dims[None, :]
    right = weight + entry.to(tl.int64)[None, :] * WIDTH + dims[:, None]
    product = tl.zeros((row.shape[0], entry.shape[0]), tl.float32)
    for low in range(begin, end, DEPTH):
        inside = low + dims < end
        states = tl.load(left + low, mask=here[:, None] & inside[None, :], other=0.0)
        weights = tl.load(right + low, mask=known[None, :] & inside[:, None], other=0.0)
        if weights.dtype.is_int():
            weights = weights.to(tl.float32).to(states.dtype)
        product = tl.dot(states, weights, product, input_precision="ieee")
    return product
