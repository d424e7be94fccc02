"""Rotary position encoding in numpy: the frequencies and the scale of queries. Torch-free.

The torch network and the ONNX graph both use these frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy import ndarray

from engine.model.config import RopeConfig


def rotary_frequencies(rope: RopeConfig, head_dim: int) -> ndarray:
    """(D/2,) fp32 angular frequencies, radians per position.

    The plain frequencies are divided by the config's factors, if it has any. YaRN (arXiv
    2309.00071, §3.2) divides the frequencies of dimensions that turn fewer than `beta_slow` times
    over the original context by `factor` and keeps those above `beta_fast`, with a ramp between.
    """
    exponents = numpy.arange(0, head_dim, 2, dtype=numpy.float32) / numpy.float32(head_dim)
    plain = (1.0 / numpy.float32(rope.theta) ** exponents).astype(numpy.float32)
    if rope.frequency_factors:
        plain = plain / numpy.array(rope.frequency_factors, dtype=numpy.float32)
    if not rope.yarn:
        return plain

    def dimension(turns: float) -> float:
        turn_length = rope.original_positions / (turns * 2 * math.pi)
        return head_dim * math.log(turn_length) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    width = max(high - low, 0.001)
    dimensions = numpy.arange(head_dim // 2, dtype=numpy.float32)
    ramp = numpy.clip((dimensions - low) / width, 0, 1).astype(numpy.float32)
    return (plain / rope.factor * ramp + plain * (1 - ramp)).astype(numpy.float32)


def turn(rope: RopeConfig, head_dim: int, positions: int) -> tuple[ndarray, ndarray]:
    """cos and sin (D/2,) fp32 that move a rotated key by so many positions, which may be negative:
    rotations add up (arXiv 2104.09864, §3.4.3)."""
    angles = rotary_frequencies(rope, head_dim).astype(numpy.float64) * positions
    return numpy.cos(angles).astype(numpy.float32), numpy.sin(angles).astype(numpy.float32)


def query_scale(rope: RopeConfig, positions: Sequence[int]) -> ndarray:
    """(R,) fp32: Llama-4's scale of the queries at these positions; ones if there is none."""
    places = numpy.asarray(positions, dtype=numpy.float32)
    if not rope.query_scale_beta:
        return numpy.ones_like(places)
    steps = numpy.floor(places / numpy.float32(rope.original_positions))
    return (1 + rope.query_scale_beta * numpy.log1p(steps)).astype(numpy.float32)
