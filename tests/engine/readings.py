"""Hand-written readings, and readings of tensors by numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

import engine.sampling
from engine.api import Sampling
from engine.reading import Reading


def reading_of(token: int, probability: float = 0.9) -> Reading:
    """The reading of a row that gives this token."""
    return Reading(token, probability, ((token, math.log(probability)),), 0.0)


def readings_of(*tokens: int) -> tuple[Reading, ...]:
    """One reading per token."""
    return tuple(reading_of(token) for token in tokens)


def in_numpy(
    logits: Tensor, places: Sequence[int], sampling: Sampling, *, mask_id: int | None
) -> tuple[Reading, ...]:
    """`engine.sampling.to_readings` of a tensor."""
    rows = logits.cpu().numpy()
    return engine.sampling.to_readings(rows, places, sampling, mask_id=mask_id)
