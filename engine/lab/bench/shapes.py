"""Networks with the released checkpoints' shapes and seeded random weights, to be timed.

Weights are drawn on the device, so that 14 B parameters need neither a file nor the host's memory.
The activations stay finite, which is all that timing needs.
"""

from __future__ import annotations

import torch

from engine.errors import MemoryExhausted
from engine.model.adapter import DrafterAdapter
from engine.model.config import ModelConfig, RopeConfig
from engine.model.families import RELEASED
from engine.model.network import Network

_SEED = 1
_DRAFTER_RANK, _DRAFTER_ALPHA = 128, 512.0


def released_config(size: str) -> ModelConfig:
    """The config of one of RELEASED, as in its published `config.json`."""
    layers, hidden, intermediate = RELEASED[size]
    return ModelConfig(
        vocabulary=131_072,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=32,
        kv_heads=8,
        head_dim=128,
        norm_eps=1e-5,
        positions_max=262_144,
        tied_head=False,
        mask_id=100,
        begin_id=1,
        end_ids=(11,),
        block_length=32,
        rope=RopeConfig(
            theta=1e6,
            yarn=True,
            factor=16.0,
            original_positions=16_384,
            beta_fast=32.0,
            beta_slow=1.0,
            attention_factor=1.0,
            query_scale_beta=0.1,
        ),
    )


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """The bytes of weights that a step reads: all except the embedding's, of which it reads few."""
    embedding = config.vocabulary * config.hidden
    return (config.parameters() - embedding) * dtype.itemsize


def random_network(config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> Network:
    """A network with seeded normal weights of variance 1 / fan-in.

    Raises:
        MemoryExhausted: It does not fit on the device.
    """
    with torch.device("meta"):
        network = Network(config).to(dtype)
    try:
        network = network.to_empty(device=device)
        generator = torch.Generator(device).manual_seed(_SEED)
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.data.fill_(1.0)
    except torch.OutOfMemoryError:
        needed = config.parameters() * dtype.itemsize / 2**30
        raise MemoryExhausted(
            f"{needed:.1f} GiB of weights do not fit on {device}.",
            remedy="Measure a smaller size.",
            param="sizes",
        ) from None
    return network.requires_grad_(False).eval()


def random_adapter(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> DrafterAdapter:
    """A drafter LoRA of the released rank whose second factor is zero, as before training."""
    rank = min(_DRAFTER_RANK, config.hidden)
    adapter = DrafterAdapter(config, rank, _DRAFTER_ALPHA).to(device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(_SEED)
    for down in adapter.down:
        down.data.normal_(std=down.shape[1] ** -0.5, generator=generator)
    return adapter.requires_grad_(False).eval()
