"""A mask adapter in torch: what it adds to the products of rows that draft, and its masks.

The factors of linears that are computed as one product are joined as well: one product with their
A below each other, and one with their B in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from engine.drafting import DraftHead
from engine.model.config import ModelConfig
from engine.model.mask_adapter import MaskAdapterWeights, find_adapter
from engine.model.network import Draft, Network, Product
from engine.model.source import CheckpointSource

_LINEARS: dict[Product, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True, slots=True)
class TorchMaskAdapter:
    """As `engine.model.runner.RowAdapter`.

    Attributes:
        down: by layer and product, (sum of ranks, in).
        up: by layer and product, (out, sum of ranks).
        vectors: (K, hidden), the embeddings of the tokens after the vocabulary.
    """

    down: dict[tuple[int, Product], Tensor]
    up: dict[tuple[int, Product], Tensor]
    vectors: Tensor

    @property
    def masks(self) -> int:
        """The number of masks."""
        return len(self.vectors)

    def factors(self, layer: int, product: Product) -> tuple[Tensor, Tensor]:
        """`down` and `up` of a product."""
        return self.down[layer, product], self.up[layer, product]

    def embed(self, network: Network, tokens: Tensor) -> Tensor:
        """(..., T, hidden) of tokens; masks come after the vocabulary."""
        vocabulary = network.config.vocabulary
        is_mask = tokens >= vocabulary
        embedded = network.encoder.embed_tokens(tokens.masked_fill(is_mask, 0))
        masks = self.vectors[(tokens - vocabulary).clamp(min=0)]
        return torch.where(is_mask[..., None], masks, embedded)

    def draft(self, rows: Tensor) -> Draft:
        """The additions for rows (..., T, 1) that are 1."""

        def add(layer: int, product: Product, x: Tensor) -> Tensor:
            low = x @ self.down[layer, product].T
            return low @ self.up[layer, product].T * rows

        return add


def load_mask_adapter(
    source: CheckpointSource, own: Path | None, *, device: torch.device, dtype: torch.dtype
) -> tuple[TorchMaskAdapter, DraftHead] | None:
    """The adapter of a checkpoint's weights and what reads its rows; None if there is none.

    Args:
        own: the user's folder of adapters.

    Raises:
        CheckpointError: it is there, but damaged.
    """
    weights = find_adapter(source.config, source.weights, own)
    if weights is None:
        return None
    head = DraftHead(weights.draft_ids, weights.before, weights.after)
    return to_torch(weights, source.config, device=device, dtype=dtype), head


def to_torch(
    weights: MaskAdapterWeights, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> TorchMaskAdapter:
    """The adapter's arrays as tensors on a device."""

    def tensor(array: numpy.ndarray) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(array)).to(device, dtype)

    down: dict[tuple[int, Product], Tensor] = {}
    up: dict[tuple[int, Product], Tensor] = {}
    for layer in range(config.layers):
        for product, linears in _LINEARS.items():
            factors = [weights.factors(f"encoder.layers.{layer}.{name}") for name in linears]
            down[layer, product] = tensor(numpy.concatenate([each.down for each in factors]))
            up[layer, product] = torch.block_diag(*(tensor(each.up) for each in factors))
    return TorchMaskAdapter(down, up, tensor(weights.mask_vectors))
