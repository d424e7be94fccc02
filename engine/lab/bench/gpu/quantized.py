"""Networks whose matrices stay quantised, with random bits, to be timed.

Types are those of the roofline, so that what a step reads is what is counted there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from engine.errors import MemoryExhausted
from engine.kernels.blocks import block_gemm_torch, empty_blocks
from engine.kernels.int8_rows import int8_gemm_torch
from engine.lab.bench.gpu.stored import EMBEDDING, HEAD, Matrix, block_type, matrices
from engine.model import weights as names
from engine.model.config import ModelConfig
from engine.model.network import Network
from engine.model.quantized_linear import BlockMatrix, Int8Matrix, install
from engine.model.quantized_linear import Matrix as Stored

_SCALE = 2.0**-12  # of superblocks: entries are then below 1
_OURS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def random_quantized(
    config: ModelConfig, storage: str, *, device: torch.device, dtype: torch.dtype
) -> Network:
    """A network whose matrices are stored as `storage` says, one of `stored.STORAGES` but "bf16".

    A file in Q4_K_M has a head of its own, whether the model's is its embedding or not.

    Raises:
        MemoryExhausted: it does not fit on the device.
    """
    generator = torch.Generator(device).manual_seed(1)
    if storage == "Q4_K_M":
        config = replace(config, tied_head=False)
    try:
        found = {
            _name(each): _random(each, config, storage, device, generator)
            for each in matrices(config)
            if each.name != HEAD or not config.tied_head
        }
        with torch.device("meta"):
            network = Network(config).to(dtype)
        install(network, found, dtype)
        network = network.to_empty(device=device)
    except torch.OutOfMemoryError:
        raise MemoryExhausted(
            f"The weights in {storage} do not fit on {device}.",
            remedy="Measure a smaller size.",
            param="sizes",
        ) from None
    for parameter in network.parameters():
        parameter.data.fill_(1.0)
    return network.requires_grad_(False).eval()


def _name(matrix: Matrix) -> str:
    """The network's name of a matrix."""
    if matrix.name in _OURS:
        return f"encoder.layers.{matrix.layer}.{_OURS[matrix.name]}.weight"
    return {EMBEDDING: names.EMBEDDING, HEAD: names.HEAD}[matrix.name]


def _random(
    matrix: Matrix,
    config: ModelConfig,
    storage: str,
    device: torch.device,
    generator: torch.Generator,
) -> Stored:
    """A matrix of random bits."""

    def fill(tensor: torch.Tensor, low: int, high: int) -> None:
        tensor.copy_(torch.randint(low, high, tensor.shape, generator=generator, device=device))

    shape = (matrix.outputs, matrix.width)
    if storage == "int8":
        weight = torch.empty(shape, dtype=torch.int8, device=device)
        for part in weight.split(8192):  # the numbers are drawn as int64
            fill(part, -127, 128)
        scale = torch.full(shape[:1], 1 / (127 * matrix.width**0.5), device=device)
        return Int8Matrix(weight, scale, _operation("int8_gemm", int8_gemm_torch, device))
    blocks = empty_blocks(block_type(matrix, config.layers), shape, device)
    planes = (blocks.low, -128, 128) if blocks.low.dtype == torch.int8 else (blocks.low, 0, 256)
    for part in blocks.low.split(16):
        fill(part, *planes[1:])
    fill(blocks.high, -(2**31), 2**31)
    if blocks.type.is_super:
        fill(blocks.scales, 0, 64)
    else:
        blocks.scales.fill_(64 * _SCALE)
    blocks.supers.fill_(_SCALE)
    return BlockMatrix(blocks, _operation("block_gemm", block_gemm_torch, device))


def _operation(name: str, meaning: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The kernel's operation on a card, else its meaning, which needs no Triton."""
    if device.type != "cuda":
        return meaning
    return getattr(import_module(f"engine.kernels.{name}"), name)
