"""Teaches our infilling layout to a checkpoint that lacks it, by a LoRA that is then merged.

Holes are drawn, laid out and masked as in the recipe; a checkpoint that fills masks learns both
objectives, any other the next token alone. The checkpoint's own weights stay frozen, only the rows
of the new markers and the low-rank factors are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engine.lab.data.sampler import Example
from engine.lab.training.batch.masking import add_noise
from engine.lab.training.jobs.adam import Adam
from engine.lab.training.jobs.lora import LowRank
from engine.lab.training.loss.lowrank_loss import backward_frozen, losses_frozen
from engine.lab.training.loss.objective import Batch, Sums, assemble
from engine.lab.training.recipe import rate_share
from engine.lab.training.run import Position, StepReport
from engine.model.network import Network

DIFFUSION_WEIGHT = 0.5  # of the diffusion loss beside the AR loss
_COPIES = 1
_HELD_OUT_BATCHES = 3

Draw = Callable[[np.random.Generator], list[Example]]


class AdaptJob:
    """A LoRA of one frozen network in training, as `run.Job`."""

    def __init__(
        self, network: Network, low_rank: LowRank, draw: Draw, held_out: Draw, rate: float
    ) -> None:
        """
        Args:
            draw, held_out: examples for one forward, a function of the generator alone.
            rate: peak learning rate.
        """
        self.position = Position()
        self.low_rank = low_rank
        self._network, self._draw, self._rate = network, draw, rate
        rng = np.random.default_rng(20_240)
        self._held_out = [self._batch(held_out(rng), rng) for _ in range(_HELD_OUT_BATCHES)]
        self._optimizer = Adam(dict(low_rank.named_parameters()))

    def step(self, share: float) -> StepReport:
        """One batch, both losses."""
        rng = np.random.default_rng([11, self.position.step])
        batch = self._batch(self._draw(rng), rng)
        diffusion_scale = DIFFUSION_WEIGHT / batch.diffusion_total if batch.diffusion_total else 0.0
        with self.low_rank.attached(self._network):
            sums = backward_frozen(
                self._network,
                batch,
                ar_scale=1.0 / batch.ar_total,
                diffusion_scale=diffusion_scale,
            )
        rate = self._rate * rate_share(self.position.step, share)
        self._optimizer.update(rate)
        return StepReport(mean_losses([sums], [batch]), batch.rows, rate)

    def held_out(self) -> dict[str, float]:
        """Both losses on fixed examples."""
        with self.low_rank.attached(self._network):
            sums = [losses_frozen(self._network, batch) for batch in self._held_out]
        return mean_losses(sums, self._held_out)

    def save(self, path: Path) -> None:
        """Writes LoRA, optimizer and position."""
        self._optimizer.save(path, self.position)

    def load(self, path: Path) -> None:
        """Takes up what `save` wrote."""
        self.position = self._optimizer.load(path)

    def _batch(self, examples: Sequence[Example], rng: np.random.Generator) -> Batch:
        network = self._network
        weight = network.encoder.embed_tokens.weight
        mask_id = network.config.mask_id
        noises = [
            []
            if mask_id is None
            else [
                add_noise(hole, mask_id=mask_id, copies=_COPIES, rng=rng) for hole in example.holes
            ]
            for example in examples
        ]
        return assemble(examples, noises, device=weight.device, dtype=weight.dtype)


def mean_losses(sums: Sequence[Sums], batches: Sequence[Batch]) -> dict[str, float]:
    """Losses in nats, each over all batches together; diffusion only where there is noise."""
    means = {"ar": sum(each.ar for each in sums) / sum(batch.ar_total for batch in batches)}
    total = sum(batch.diffusion_total for batch in batches)
    if total:
        means["diffusion"] = sum(each.diffusion for each in sums) / total
    return means
