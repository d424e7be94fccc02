"""The size of one token's keys and values. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from numpy import ndarray

from engine.model.config import ModelConfig, RopeConfig
from engine.model.rotary import turn


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A token has one key and one value of width `head_dim` for each K/V head of each layer.

    Attributes:
        rope: how keys are rotated by their positions; None if they are not.
    """

    layers: int
    kv_heads: int
    head_dim: int
    rope: RopeConfig | None = None

    def turn(self, positions: int) -> tuple[ndarray, ndarray]:
        """As `engine.model.rotary.turn`."""
        assert self.rope is not None
        return turn(self.rope, self.head_dim, positions)

    @classmethod
    def of(cls, config: ModelConfig) -> CacheShape:
        """The shape for a model with this config."""
        return cls(config.layers, config.kv_heads, config.head_dim, config.rope)
