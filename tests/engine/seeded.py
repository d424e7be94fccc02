"""A small seeded network, and the plainest way to run it, which is the tests' oracle."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional

from engine.api import Request
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.loop import TokenState, decode
from engine.model.config import ModelConfig, RopeConfig
from engine.model.network import Network
from engine.model.runner import ModelRunner

CPU = torch.device("cpu")
# The laws hold on any device: `make gpu` runs them on a card.
DEVICE = torch.device(os.environ.get("DLM_TEST_DEVICE", "cpu"))
MASK_ID = 3
TRAITS = Traits(MASK_ID)
END_ID = 2
CONFIG = ModelConfig(
    vocabulary=97,
    hidden=32,
    intermediate=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    norm_eps=1e-5,
    positions_max=2048,
    tied_head=False,
    mask_id=MASK_ID,
    begin_id=1,
    end_ids=(END_ID,),
    block_length=8,
    # A short original context, so that YaRN's ramp and the query scale are both at work.
    rope=RopeConfig(1e4, True, 4.0, 64, 32.0, 1.0, 1.0, 0.1),
)


def seeded_network(seed: int = 0, config: ModelConfig = CONFIG) -> Network:
    """A network with large weights, so that logits depend visibly on what a row sees."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(config)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            width = parameter.shape[1]
            parameter.data = torch.randn(parameter.shape, generator=generator) * 1.5 / width**0.5
    return network.requires_grad_(False).eval()


def seeded_model(seed: int = 0) -> ModelRunner:
    return ModelRunner(seeded_network(seed).to(DEVICE), device=DEVICE)


def empty_cache(num_tokens: int = 1024, config: ModelConfig = CONFIG) -> KVCache:
    shape = CacheShape.of(config)
    return KVCache(shape, num_tokens, device=DEVICE, dtype=torch.float32)


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    """Ordinary token ids: no mask, no end."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(4, CONFIG.vocabulary, (length,), generator=generator).tolist())


def run(model: ModelRunner, cache: KVCache, request: Request) -> list[TokenState]:
    """All states of one request."""
    strategy = STRATEGIES[request.mode]
    return list(decode(model, cache, strategy, request, TRAITS))


def causal_logits(network: Network, tokens: tuple[int, ...], count: int | None = None) -> Tensor:
    """(T, V): one plain causal pass over all tokens without cache or steps.

    Args:
        count: return the logits of this number of last rows only, which is faster.
    """
    mask = torch.ones(len(tokens), len(tokens)).tril().bool()
    return masked_logits(network, tokens, mask, count)


def masked_logits(
    network: Network, tokens: tuple[int, ...], mask: Tensor, count: int | None = None
) -> Tensor:
    """(T, V) of rows at positions 0..T-1 that see what `mask` (T, T) allows."""

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(0, 1)

    device = next(network.parameters()).device
    mask = mask.to(device)
    ids, positions = torch.tensor(tokens, device=device), torch.arange(len(tokens), device=device)
    return network.logits(network(ids, positions, attend)[-(count or len(tokens)) :])
