"""Networks with the released checkpoints' shapes and seeded random weights, to be timed.

Weights are drawn on the device, so that 14 B parameters need neither a file nor the host's memory.
Qwen's shapes get a mask adapter, as the real ones have, so that all modes can be timed.
The activations stay finite, which is all that timing needs.
"""

from __future__ import annotations

import numpy
import torch

from engine.drafting import DraftHead
from engine.errors import MemoryExhausted
from engine.model.adapter import DrafterAdapter
from engine.model.config import ModelConfig, RopeConfig
from engine.model.families import QWEN2, RELEASED
from engine.model.mask_adapter import Factors, MaskAdapterWeights
from engine.model.network import Network
from engine.model.torch_mask_adapter import TorchMaskAdapter, to_torch
from engine.model.weights import network_tensors

_SEED = 1
_DRAFTER_RANK, _DRAFTER_ALPHA = 128, 512.0
# As the bundled mask adapters (their `adapter_config.json`).
_MASKS, _MASK_RANK, _MARKOV_RANK, _DRAFT_IDS = 16, 16, 32, 24_576
# Qwen2.5-Coder: layers, hidden size, feed-forward size, query heads, K/V heads, their width,
# vocabulary, and whether the head is the embedding.
QWEN = {
    "0.5B": (24, 896, 4864, 14, 2, 64, 151_936, True),
    "1.5B": (28, 1536, 8960, 12, 2, 128, 151_936, True),
    "7B": (28, 3584, 18_944, 28, 4, 128, 152_064, False),
}


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


def qwen_config(size: str) -> ModelConfig:
    """The config of one of QWEN, as in its published `config.json`."""
    layers, hidden, intermediate, heads, kv_heads, width, vocabulary, tied = QWEN[size]
    return ModelConfig(
        family=QWEN2,
        vocabulary=vocabulary,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        norm_eps=1e-6,
        positions_max=32_768,
        tied_head=tied,
        mask_id=None,
        begin_id=None,
        end_ids=(151_643,),
        block_length=32,
        rope=RopeConfig(
            theta=1e6,
            yarn=False,
            factor=1.0,
            original_positions=32_768,
            beta_fast=32.0,
            beta_slow=1.0,
            attention_factor=1.0,
            query_scale_beta=0.0,
        ),
    )


# The shapes that are timed, by the names that reports give them, the most telling ones first.
SHAPES = {
    "8B": released_config("8B"),
    "qwen 1.5B": qwen_config("1.5B"),
    "qwen 0.5B": qwen_config("0.5B"),
    "3B": released_config("3B"),
    "qwen 7B": qwen_config("7B"),
    "14B": released_config("14B"),
}


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


def random_mask_adapter(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[TorchMaskAdapter, DraftHead]:
    """A mask adapter of a bundled one's size, seeded and random, and what reads its rows."""
    generator = numpy.random.default_rng(_SEED)

    def draw(*shape: int) -> numpy.ndarray:
        return generator.standard_normal(shape, numpy.float32) / shape[-1] ** 0.5

    shapes = network_tensors(config)

    def factors(linear: str) -> Factors:
        outputs, width = shapes[f"{linear}.weight"]
        return Factors(draw(_MASK_RANK, width), draw(outputs, _MASK_RANK))

    count = min(_DRAFT_IDS, config.vocabulary)
    weights = MaskAdapterWeights(
        name="random",
        factors=factors,
        mask_vectors=draw(_MASKS, config.hidden),
        draft_ids=numpy.arange(count, dtype=numpy.int64),
        before=draw(count + 2, _MARKOV_RANK),
        after=draw(_MARKOV_RANK, count),
    )
    head = DraftHead(weights.draft_ids, weights.before, weights.after)
    return to_torch(weights, config, device=device, dtype=dtype), head
