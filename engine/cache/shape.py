"""The size of one token's keys and values. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A token has one key and one value of width `head_dim` for each K/V head of each layer."""

    layers: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: ModelConfig) -> CacheShape:
        """The shape for a model with this config."""
        return cls(config.layers, config.kv_heads, config.head_dim)
