"""Seeded networks of every kind that the graph writer supports: rotary kinds, biases, norms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from engine.model.adapter_weights import AdapterWeights
from engine.model.config import ModelConfig, RopeConfig
from engine.model.families import LLAMA, QWEN2, QWEN3
from engine.model.network import Network
from tests.engine.seeded import CONFIG, seeded_network

PLAIN = RopeConfig(1e4, False, 1.0, 2048, 32.0, 1.0, 1.0, 0.0)
FACTORS = (1.0, 1.0, 1.5, 2.5, 4.0, 8.0, 8.0, 8.0)  # as Llama 3's: high frequencies are kept
FAMILIES: dict[str, ModelConfig] = {
    "nemotron: YaRN and query scale": CONFIG,
    "nemotron: one K/V head": replace(CONFIG, kv_heads=1),
    "nemotron: a K/V head each": replace(CONFIG, kv_heads=4),
    "nemotron: YaRN with a temperature": replace(
        CONFIG, rope=replace(CONFIG.rope, attention_factor=1.2, query_scale_beta=0.0)
    ),
    "llama: frequency factors": replace(
        CONFIG, family=LLAMA, rope=replace(PLAIN, frequency_factors=FACTORS)
    ),
    "qwen2: biases, tied head": replace(CONFIG, family=QWEN2, rope=PLAIN, tied_head=True),
    "qwen3: norms of queries and keys": replace(CONFIG, family=QWEN3, rope=PLAIN, head_dim=8),
}


@cache
def network_of(family: str) -> Network:
    """The network of one of FAMILIES, in which norms and biases are random too."""
    network = seeded_network(1, FAMILIES[family])
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.data = noise if name.endswith("bias") else 1 + noise
    return network


def drafter_of(config: ModelConfig, rank: int = 4) -> AdapterWeights:
    """A drafter LoRA large enough to change every draft."""
    generator = torch.Generator().manual_seed(3)

    def factor(*shape: int):
        return (torch.randn(shape, generator=generator) * 0.5).numpy()

    layers = range(config.layers)
    down = tuple(factor(rank, config.heads * config.head_dim) for _ in layers)
    up = tuple(factor(config.hidden, rank) for _ in layers)
    return AdapterWeights(rank, 6.0, down, up)
