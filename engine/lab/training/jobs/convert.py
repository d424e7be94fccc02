"""Makes a diffusion model of an autoregressive one by training all its weights further.

The objective is the recipe's, on plain text, on holes, or on both: clean block-wise context, next
token and masked tokens in one forward, no shift. Position-dependent masking is an option
(Efficient-DLM, arXiv 2512.14067). The result has NLD's layout and keeps what its family adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.lab.data.sampler import Draw, Example
from engine.lab.training.batch.plain_text import plain_text_noise
from engine.lab.training.loss.objective import Batch, assemble, evaluate
from engine.lab.training.recipe import Recipe, Shape, rate_share
from engine.lab.training.run import StepReport
from engine.lab.training.trainer import Trainer, TrainerJob
from engine.model.config import ModelConfig
from engine.model.families import NEMOTRON
from engine.model.network import Network

_HELD_OUT_BATCHES = 3


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How a conversion is trained.

    Attributes:
        rate: the peak learning rate.
        batch_tokens: clean tokens per forward.
        late: the strength of position-dependent masking; 0 masks all tokens of a block alike.
        diffusion_weight: of the diffusion loss beside the AR loss.
    """

    rate: float
    batch_tokens: int
    late: float = 0.0
    diffusion_weight: float = 0.5


class ConvertJob(TrainerJob):
    """All weights of a network in training, as `run.Job`."""

    def __init__(
        self,
        network: Network,
        draw: Draw,
        held_out: Draw,
        options: ConvertOptions,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            network: fp32 or in `dtype`, on the device that trains it; its config is a diffusion
                model's.
            draw, held_out: draw the examples of one forward.
        """
        self._draw, self._options = draw, options
        device = network.encoder.embed_tokens.weight.device
        weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
        network.requires_grad_(True)
        recipe = recipe_for(network.config, options)
        super().__init__(Trainer(network, recipe, device=device, dtype=dtype))
        self.trainer.set_weights(weights)
        rng = np.random.default_rng(20_240)
        # All tokens alike, however training masks them, so that runs can be compared.
        self._held_out = [self._batch(held_out(rng), 0.0, rng) for _ in range(_HELD_OUT_BATCHES)]

    def step(self, share: float) -> StepReport:
        """Trains on one batch with both losses."""
        rng = np.random.default_rng([13, self.position.step])
        batch = self._batch(self._draw(rng), self._options.late, rng)
        rate = self._options.rate * rate_share(self.position.step, share)
        return StepReport(self.trainer.step([batch], rate), batch.rows, rate)

    def held_out(self) -> dict[str, float]:
        """Both losses on fixed examples."""
        return evaluate(self.trainer.network, self._held_out)

    def _batch(self, examples: Sequence[Example], late: float, rng: np.random.Generator) -> Batch:
        trainer = self.trainer
        noises = [
            [
                plain_text_noise(hole, mask_id=trainer.mask_id, copies=1, late=late, rng=rng)
                for hole in example.holes
            ]
            for example in examples
        ]
        return assemble(examples, noises, device=trainer.device, dtype=trainer.dtype)


def diffusion_config(config: ModelConfig, mask_id: int, end_ids: Sequence[int]) -> ModelConfig:
    """The config of the diffusion model that a causal model of this config becomes."""
    kept = config.family
    family = replace(NEMOTRON, qkv_bias=kept.qkv_bias, qk_norm=kept.qk_norm)
    return replace(config, family=family, mask_id=mask_id, end_ids=tuple(end_ids), block_length=32)


def recipe_for(config: ModelConfig, options: ConvertOptions) -> Recipe:
    """The recipe's settings for a network of this config."""
    shape = Shape(
        hidden=config.hidden,
        intermediate=config.intermediate,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        vocabulary=config.vocabulary,
    )
    return Recipe(
        shape,
        learning_rate=options.rate,
        batch_tokens=options.batch_tokens,
        batches=1,
        minutes=1.0,
        diffusion_weight=options.diffusion_weight,
        weight_decay=0.0,
    )
