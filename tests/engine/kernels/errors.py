"""How far a kernel may be from the truth: at most twice as far as torch's path, plus a floor.

The truth is the reference in fp64, of the same rounded inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A unit in the last place's half, relative: what one more rounding of an intermediate may add.
FLOOR = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


def assert_near(ours: Tensor, reference: Tensor, truth: Tensor) -> None:
    """Compares vectors along the last dimension, each by its own norm, so that none is averaged
    away among the others."""
    assert ours.dtype == reference.dtype
    assert ours.shape == truth.shape
    assert torch.isfinite(ours).all()
    limit = 2 * _error(reference, truth) + FLOOR[ours.dtype]
    error = _error(ours, truth)
    assert (error <= limit).all(), f"{error.max():.2e}, {(error / limit).max():.2f} of the limit"


def _error(found: Tensor, truth: Tensor) -> Tensor:
    distance = (found.double() - truth).norm(dim=-1)
    return distance / truth.norm(dim=-1).clamp(min=1e-30)
