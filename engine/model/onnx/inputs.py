"""The graph's inputs that follow from positions, cos and sin, and the mask's "hidden" value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy import ndarray

from engine.model.config import ModelConfig
from engine.model.rotary import query_scale, rotary_frequencies

HIDDEN = -1e30  # in the mask: exp of it is exactly 0, and a row that sees nothing gives no NaN


class Rotation:
    """Computes cos and sin of a step's rows for the graph."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._frequencies = rotary_frequencies(config.rope, config.head_dim)

    def __call__(self, positions: Sequence[int]) -> dict[str, ndarray]:
        """The graph's inputs by name, each (R, D / 2) fp32; the queries' include their scale."""
        config = self._config
        angles = numpy.asarray(positions, dtype=numpy.float32)[:, None] * self._frequencies
        factor = numpy.float32(config.rope.attention_factor)
        cos, sin = numpy.cos(angles) * factor, numpy.sin(angles) * factor
        scale = numpy.float32(1 / math.sqrt(config.head_dim)) * query_scale(config.rope, positions)
        scales = numpy.broadcast_to(numpy.asarray(scale, numpy.float32), (len(positions),))[:, None]
        return {"cos.q": cos * scales, "sin.q": sin * scales, "cos.k": cos, "sin.k": sin}
