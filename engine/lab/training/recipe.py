"""The size presets and the schedule: every number of a training run in one place.

The types are frozen and the functions pure; torch-free. Progress is the share of the budget that is
spent, from 0 to 1, whether the budget is in minutes or in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from engine.errors import ConfigError
from engine.model.config import ModelConfig, RopeConfig
from engine.prompt import BEGIN, END, MASK, SPECIAL_TOKENS


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a network."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


def rate_share(
    step: int, progress: float, *, warmup_steps: int = 20, decay_share: float = 0.4
) -> float:
    """The learning rate of optimizer step `step` (from 0) over its peak: warm-up, constant, then
    1 - sqrt down to 0 over the last `decay_share` of the budget."""
    warm = min(1.0, (step + 1) / warmup_steps)
    left = max(0.0, min(1.0, (1.0 - progress) / decay_share))
    return warm * (1.0 if left >= 1 else 1.0 - math.sqrt(1.0 - left))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network of one shape is trained.

    Attributes:
        learning_rate: the peak rate; `rate_share` has the schedule.
        joint_share: the last part of the budget, which trains the joint objective.
        diffusion_weight: of the diffusion loss beside the AR loss, each a mean over its tokens.
        copies: noisy copies of each middle, which are cheap beside the context that they share.
        batch_tokens, batches: clean tokens per forward, and forwards per optimizer step.
    """

    shape: Shape
    learning_rate: float
    batch_tokens: int
    batches: int
    minutes: float
    warmup_steps: int = 100
    decay_share: float = 0.35
    joint_share: float = 0.45
    diffusion_weight: float = 0.7
    copies: int = 2
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    seed: int = 1

    def continued(self) -> Recipe:
        """The recipe that continues from trained weights: a short stage 1, and a rate that starts
        lower and falls for longer."""
        return replace(
            self,
            learning_rate=self.learning_rate * 2 / 3,
            warmup_steps=self.warmup_steps // 2,
            decay_share=0.6,
            joint_share=0.92,
        )

    def learning_rate_at(self, step: int, progress: float) -> float:
        """The learning rate of optimizer step `step` (from 0)."""
        return self.learning_rate * rate_share(
            step, progress, warmup_steps=self.warmup_steps, decay_share=self.decay_share
        )

    def is_joint(self, progress: float) -> bool:
        """Whether stage 2 has begun."""
        return progress >= 1.0 - self.joint_share


PRESETS = {
    # Up to 4,000 rows/s on one idle Zen 5 core, 2,800 in the bundled run on a busy one.
    "nano": Recipe(
        Shape(hidden=256, intermediate=768, layers=6, heads=4, kv_heads=2, vocabulary=8192),
        learning_rate=3e-3,
        batch_tokens=4096,
        batches=2,
        minutes=100,
    ),
    # A vocabulary of 16,384 would save 5 % of Python's tokens and 6 % of TypeScript's, for 8 M more
    # parameters and 15 % more work on each row.
    # Its steps are large, so that on a card the optimizer's many small kernels cost little.
    "small": Recipe(
        Shape(hidden=512, intermediate=1408, layers=8, heads=8, kv_heads=4, vocabulary=8192),
        learning_rate=2e-3,
        batch_tokens=32_768,
        batches=4,
        minutes=120,
    ),
}


def preset(name: str) -> Recipe:
    """The recipe of that name. Raises ConfigError if there is none."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(
            f"There is no preset {name!r}.",
            remedy=f"Use one of {sorted(PRESETS)}.",
            param="preset",
        ) from None


def model_config(shape: Shape) -> ModelConfig:
    """The network's config: NLD's decoder at this size, with the ids of SPECIAL_TOKENS.

    The 2,048 positions are YaRN by 2 over 1,024, so that the bundled model uses both YaRN and the
    query scale, as the released ones do.
    """
    return ModelConfig(
        vocabulary=shape.vocabulary,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=64,
        norm_eps=1e-5,
        positions_max=2048,
        tied_head=False,
        mask_id=SPECIAL_TOKENS.index(MASK),
        begin_id=SPECIAL_TOKENS.index(BEGIN),
        end_ids=(SPECIAL_TOKENS.index(END),),
        block_length=32,
        rope=RopeConfig(
            theta=10_000.0,
            yarn=True,
            factor=2.0,
            original_positions=1024,
            beta_fast=32.0,
            beta_slow=1.0,
            attention_factor=1.0,
            query_scale_beta=0.1,
        ),
    )
