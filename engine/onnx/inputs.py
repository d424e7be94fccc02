"""What the graph takes that follows from positions: cos and sin, and how a mask says "hidden"."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy import ndarray

from engine.model.config import ModelConfig
from engine.model.rotary import query_scale, rotary_frequencies

HIDDEN = -1e30  # in the mask: exp gives exactly 0, and a row that sees nothing no NaN


class Rotation:
    """cos and sin of a step's rows, as the graph takes them."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._frequencies = rotary_frequencies(config.rope, config.head_dim)

    def __call__(self, positions: Sequence[int]) -> tuple[ndarray, ndarray]:
        """cos and sin (R, H + Hkv, D) fp32; sin's first half is negated (rotate-half)."""
        config = self._config
        angles = numpy.asarray(positions, dtype=numpy.float32)[:, None] * self._frequencies
        factor = numpy.float32(config.rope.attention_factor)
        cos, sin = numpy.cos(angles) * factor, numpy.sin(angles) * factor
        cos = numpy.concatenate((cos, cos), axis=1)[:, None]
        sin = numpy.concatenate((-sin, sin), axis=1)[:, None]
        scales = numpy.ones((len(positions), config.heads + config.kv_heads, 1), numpy.float32)
        of_queries = query_scale(config.rope, positions) / math.sqrt(config.head_dim)
        scales[:, : config.heads] = of_queries[:, None, None]
        return cos * scales, sin * scales
