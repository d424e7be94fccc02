"""The work of a training step in floating point operations, by the convention of
`engine.lab.training.batch.throughput`: multiplications and additions of matrix products, a backward
pass as two forward passes, nothing for recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.model.config import ModelConfig

_FORWARD, _BACKWARD = 2.0, 4.0


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step computes.

    Attributes:
        sequences, length: clean rows, which have a forward pass alone.
        layout: sizes of the groups of every sequence.
        adapter: parameters of the LoRA.
        drafted: tokens of the draft vocabulary.
    """

    sequences: int
    length: int
    layout: Sequence[int]
    adapter: int
    drafted: int


def flops_of_step(work: StepWork, config: ModelConfig) -> float:
    """Operations of the clean rows' forward pass and of the mask rows' both passes.

    Frozen weights have no gradient, so that a backward pass through them is one product and not
    two. Mask rows see half a sequence on average, and rows without a label are counted as if they
    had one.
    """
    width = config.heads * config.head_dim
    layer = config.hidden * (2 * width + 2 * config.kv_heads * config.head_dim)
    layer += config.hidden * 3 * config.intermediate
    frozen, pair = config.layers * layer, config.layers * 2 * width
    clean, masks = work.sequences * work.length, work.sequences * sum(work.layout)
    clean_pairs = clean * (work.length + 1) / 2
    own_group = work.sequences * sum(size * size for size in work.layout)
    mask_pairs = masks * work.length / 2 + own_group
    forward = clean * frozen + clean_pairs * pair
    both = mask_pairs * pair + masks * (work.adapter + work.drafted * config.hidden)
    return (
        _FORWARD * forward + (_FORWARD + _FORWARD) * masks * frozen + (_FORWARD + _BACKWARD) * both
    )
