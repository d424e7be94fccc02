"""A step as `torch.compile` runs it, without the engine: what compiling alone achieves.

The step is a causal chain after a K/V cache of one fixed length. On CUDA the compiled function is
replayed as a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from engine.model.network import Network

_ROOM = 512  # rows that a step may have


class CompiledStep:
    """Steps of one network after `context` tokens of random K/V."""

    def __init__(self, network: Network, context: int, backend: str = "inductor") -> None:
        config = network.config
        self._network = _plain(network, context + _ROOM)
        self._context = context
        weight = next(network.parameters())
        size = (config.layers, 1, config.kv_heads, context + _ROOM, config.head_dim)
        self._keys = torch.randn(size, device=weight.device, dtype=weight.dtype)
        self._values = torch.randn_like(self._keys)
        for tensor in (self._keys, self._values):
            # Else a step that writes into them is not replayed as a graph.
            torch._dynamo.mark_static_address(tensor)
        mode = "reduce-overhead" if backend == "inductor" and weight.is_cuda else None
        self._step = torch.compile(self._forward, backend=backend, mode=mode, dynamic=False)

    def prepared(self, rows: int) -> Callable[[], Tensor]:
        """A step of so many rows with all logits read, compiled at its first call."""
        device = self._keys.device
        tokens = torch.arange(rows, device=device)
        positions = torch.arange(self._context, self._context + rows, device=device)
        places = torch.arange(self._context + rows, device=device)
        mask = places[None, :] <= positions[:, None]

        @torch.inference_mode()
        def run() -> Tensor:
            if device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            return self._step(tokens, positions, mask)

        return run

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        end = mask.shape[1]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._keys[layer], self._values[layer]
            keys[0, :, self._context : end] = key.transpose(0, 1)
            values[0, :, self._context : end] = value.transpose(0, 1)
            mixed = functional.scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
                enable_gqa=True,
            )
            return mixed[0].transpose(0, 1)

        return self._network.logits(self._network(tokens, positions, attend))


def _plain(network: Network, positions: int) -> Network:
    """The network without the query scale, which is 1 at these positions and would split the
    compiled function in two, since it looks at the positions' values."""
    config = network.config
    if positions > config.rope.original_positions:
        return network
    plain = copy.copy(network)
    plain.config = replace(config, rope=replace(config.rope, query_scale_beta=0.0))
    return plain
