"""Linear layers and embeddings whose matrices stay quantised in memory.

A card reads such weights as they are and multiplies them out tile by tile (`engine.kernels`), so
that a file of 4 bits a weight needs no more memory than that, and a step reads no more. On a
processor the same modules compute in torch, by dequantising; that is the meaning of the kernels,
and what tests compare. Matrices of other types, and all vectors, are loaded as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy
import torch
from torch import Tensor, nn

from engine.kernels.blocks import TYPES, Blocks, block_gemm_torch, dequantize, empty_blocks, fill
from engine.kernels.int8_rows import int8_gemm_torch
from engine.model.config import ModelConfig
from engine.model.gguf_weights import GGUFWeights
from engine.model.network import Network
from engine.model.safetensors_file import SafetensorsWeights
from engine.model.weights import EMBEDDING, HEAD, Shape, Weights, network_tensors

_BYTES_AT_ONCE = 1 << 22  # of stored rows that are laid out
_WEIGHT = ".weight"
INT8 = "I8"


class Matrix(Protocol):
    """A quantised matrix (out, in) on one device."""

    @property
    def kind(self) -> str:
        """How it is stored: a name in TYPES, or INT8."""
        ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        ...

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(R, in) → (R, out) in x's dtype."""
        ...

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, in) of the rows `ids`, (N,) int64."""
        ...


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """A matrix of ggml's blocks; `gemm` is `engine.kernels.block_gemm.block_gemm` or its
    meaning."""

    blocks: Blocks
    gemm: Callable[[Tensor, Blocks, Tensor | None], Tensor]

    @property
    def kind(self) -> str:
        return self.blocks.kind

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.shape

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.gemm(x, self.blocks, bias)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return dequantize(self.blocks.rows(ids)).to(dtype)


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix of int8 with one scale per row.

    Attributes:
        weight: (out, in) int8.
        scale: (out,) fp32.
        gemm: `engine.kernels.int8_gemm.int8_gemm` or its meaning.
    """

    weight: Tensor
    scale: Tensor
    gemm: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    @property
    def kind(self) -> str:
        return INT8

    @property
    def shape(self) -> tuple[int, int]:
        return _matrix(tuple(self.weight.shape))

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.scale.nbytes

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.gemm(x, self.weight, self.scale, bias)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return (self.weight[ids].float() * self.scale[ids, None]).to(dtype)


class QuantizedLinear(nn.Module):
    """As `nn.Linear`; moving or converting the module leaves the matrix alone."""

    def __init__(self, matrix: Matrix, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        flat = self.matrix.product(x.flatten(0, -2), self.bias)
        return flat.unflatten(0, x.shape[:-1])


class QuantizedEmbedding(nn.Module):
    """As `nn.Embedding`, in `dtype`."""

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = matrix
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        return self.matrix.rows(tokens.flatten(), self.dtype).unflatten(0, tokens.shape)


def kept(weights: Weights, config: ModelConfig) -> dict[str, int]:
    """The matrices that can stay quantised, by name, and the bytes that each takes in memory."""
    found: dict[str, int] = {}
    for name, shape in network_tensors(config).items():
        kind = _kind(weights, name) if len(shape) == 2 else None
        if kind in TYPES:
            found[name] = empty_blocks(kind, _matrix(shape), torch.device("meta")).nbytes
        elif kind is not None:
            found[name] = shape[0] * (shape[1] + 4)
    return found


def read_matrices(
    weights: Weights, config: ModelConfig, names: Mapping[str, int], device: torch.device
) -> dict[str, Matrix]:
    """The matrices that `kept` names, on a device, a part of their stored rows at a time."""
    shapes = network_tensors(config)
    block_gemm, int8_gemm = _operations(device)
    found: dict[str, Matrix] = {}
    for name in names:
        if isinstance(weights, GGUFWeights):
            blocks = _read_blocks(weights, name, _matrix(shapes[name]), device)
            found[name] = BlockMatrix(blocks, block_gemm)
        elif isinstance(weights, SafetensorsWeights):
            stored = weights.stored_int8(name)
            assert stored is not None
            values, scale = (torch.from_numpy(each.copy()).to(device) for each in stored)
            found[name] = Int8Matrix(values, scale[:, 0], int8_gemm)
    return found


def install(network: Network, matrices: Mapping[str, Matrix], dtype: torch.dtype) -> None:
    """Puts the modules of these matrices in the place of the network's own, whose biases they keep.
    A tied head shares its matrix with the embedding."""
    for name, matrix in matrices.items():
        path = name.removesuffix(_WEIGHT)
        if name == EMBEDDING:
            network.set_submodule(path, QuantizedEmbedding(matrix, dtype))
            continue
        bias = getattr(network.get_submodule(path), "bias", None)
        network.set_submodule(path, QuantizedLinear(matrix, bias))
    if network.config.tied_head and EMBEDDING in matrices:
        head = QuantizedLinear(matrices[EMBEDDING], None)
        network.set_submodule(HEAD.removesuffix(_WEIGHT), head)


def is_quantized(network: Network) -> bool:
    """Whether a module of the network has a quantised matrix."""
    return any(isinstance(each, QuantizedLinear | QuantizedEmbedding) for each in network.modules())


def _kind(weights: Weights, name: str) -> str | None:
    """A name in TYPES, INT8, or None for tensors that are dequantised when they are loaded."""
    if isinstance(weights, GGUFWeights):
        kind = weights.type_name(name)
        return kind if kind in TYPES else None
    if isinstance(weights, SafetensorsWeights):
        return None if weights.stored_int8(name) is None else INT8
    return None


def _matrix(shape: Shape) -> tuple[int, int]:
    rows, width = shape
    return rows, width


def _read_blocks(
    weights: GGUFWeights, name: str, shape: tuple[int, int], device: torch.device
) -> Blocks:
    blocks = empty_blocks(weights.type_name(name), shape, device)
    row_bytes = shape[1] * TYPES[blocks.kind].bytes // TYPES[blocks.kind].columns
    step = max(1, _BYTES_AT_ONCE // row_bytes)
    for start in range(0, shape[0], step):
        stored = weights.stored_rows(name, range(start, min(start + step, shape[0])))
        fill(blocks, start, torch.from_numpy(numpy.array(stored)).to(device))
    return blocks


def _operations(
    device: torch.device,
) -> tuple[
    Callable[[Tensor, Blocks, Tensor | None], Tensor],
    Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
]:
    """The products with blocks and with int8. Kernels are imported only for a card, since a
    processor needs no Triton."""
    if device.type != "cuda":
        return block_gemm_torch, int8_gemm_torch
    from engine.kernels.block_gemm import block_gemm
    from engine.kernels.int8_gemm import int8_gemm

    return block_gemm, int8_gemm
