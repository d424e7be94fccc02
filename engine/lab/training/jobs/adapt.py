"""Teaches our infilling layout to a checkpoint that lacks it, by a LoRA that is then merged.

Holes are drawn, laid out and masked as in the recipe. A checkpoint that fills masks learns both
objectives, any other only the next token. The checkpoint's own weights stay frozen; the low-rank
factors and the rows of the new markers are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.lab.data.sampler import Draw, Example
from engine.lab.training.batch.masking import add_noise
from engine.lab.training.jobs.adapter_job import AdapterJob
from engine.lab.training.jobs.lora import LowRank
from engine.lab.training.loss.objective import (
    Batch,
    assemble,
    backward_frozen,
    evaluate,
    mean_losses,
)
from engine.lab.training.run import StepReport
from engine.model.network import Network

DIFFUSION_WEIGHT = 0.5  # of the diffusion loss beside the AR loss
_HELD_OUT_BATCHES = 3


class AdaptJob(AdapterJob):
    """A LoRA of one frozen network in training, as `run.Job`."""

    def __init__(
        self, network: Network, low_rank: LowRank, draw: Draw, held_out: Draw, rate: float
    ) -> None:
        """
        Args:
            draw, held_out: draw the examples of one forward.
            rate: the peak learning rate.
        """
        super().__init__(network, low_rank, rate)
        self.low_rank = low_rank
        self._draw = draw
        rng = np.random.default_rng(20_240)
        self._held_out = [self._batch(held_out(rng), rng) for _ in range(_HELD_OUT_BATCHES)]

    def step(self, share: float) -> StepReport:
        """Trains on one batch with both losses."""
        rng = np.random.default_rng([11, self.position.step])
        batch = self._batch(self._draw(rng), rng)
        total = batch.diffusion_total
        with self.low_rank.attached(self._network):
            sums = backward_frozen(
                self._network,
                batch,
                ar_scale=1.0 / batch.ar_total,
                diffusion_scale=DIFFUSION_WEIGHT / total if total else 0.0,
            )
        return StepReport(mean_losses([sums], [batch]), batch.rows, self._update(share))

    def held_out(self) -> dict[str, float]:
        """Both losses on fixed examples."""
        with self.low_rank.attached(self._network):
            return evaluate(self._network, self._held_out)

    def _batch(self, examples: Sequence[Example], rng: np.random.Generator) -> Batch:
        weight = self._network.encoder.embed_tokens.weight
        mask_id = self._network.config.mask_id
        noises = [
            [add_noise(hole, mask_id=mask_id, copies=1, rng=rng) for hole in example.holes]
            if mask_id is not None
            else []
            for example in examples
        ]
        return assemble(examples, noises, device=weight.device, dtype=weight.dtype)
