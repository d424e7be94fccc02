"""The recipe as a job: a network trained from its first weights through both stages.

This module owns which batches a step has, which depends on its number alone, and what is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from engine.lab.data.sampler import HOLES, LANGUAGE, Example, ExampleSampler
from engine.lab.training.batch.masking import Noise, add_noise
from engine.lab.training.batch.rows import Rows, lay_out
from engine.lab.training.batch.throughput import flops_of
from engine.lab.training.loss.objective import Batch, assemble, to_batch
from engine.lab.training.recipe import Recipe
from engine.lab.training.run import StepReport
from engine.lab.training.trainer import Trainer, TrainerJob

# Draws the rows of a step's batches, by its number and whether stage 2 has begun.
StepDraw = Callable[[int, bool], list[Rows]]

_HELD_OUT_SEED = 20_240
_HELD_OUT_TOKENS = 24_576


class RecipeJob(TrainerJob):
    """One network in training by the recipe, as `run.Job`."""

    def __init__(self, trainer: Trainer, draw: StepDraw, held_out: Sequence[Batch]) -> None:
        """
        Args:
            draw: draws the rows of a step, as `drawing` and `Prefetch` do.
            held_out: the batches that `held_out_batches` returns.
        """
        super().__init__(trainer)
        self._draw, self._held_out = draw, held_out

    def step(self, share: float) -> StepReport:
        """Trains on the batches of one optimizer step: next tokens, in stage 2 both losses."""
        trainer, recipe = self.trainer, self.trainer.recipe
        step, is_joint = self.position.step, recipe.is_joint(share)
        drawn = self._draw(step, is_joint)
        batches = [to_batch(rows, device=trainer.device, dtype=trainer.dtype) for rows in drawn]
        rate = recipe.learning_rate_at(step, share)
        losses = trainer.step(batches, rate)
        count = sum(batch.rows for batch in batches)
        flops = sum(flops_of(rows, trainer.network.config) for rows in drawn)
        return StepReport(losses, count, rate, count if is_joint else 0, flops)

    def held_out(self) -> dict[str, float]:
        """Both losses on the held-out batches."""
        return self.trainer.evaluate(self._held_out)


def drawing(
    recipe: Recipe, sampler: ExampleSampler, mask_id: int, multiple_of: int = 1
) -> StepDraw:
    """A function that draws a step's rows from the files, by the seed and the step alone.

    Args:
        multiple_of: as for `engine.lab.training.batch.rows.lay_out`.
    """

    def draw(step: int, joint: bool) -> list[Rows]:
        rng = np.random.default_rng([recipe.seed, step])
        drawn = []
        for _ in range(recipe.batches):
            examples = sampler.batch(rng, recipe.batch_tokens, HOLES if joint else LANGUAGE)
            noises = noises_of(examples, recipe, mask_id, rng) if joint else [[] for _ in examples]
            drawn.append(lay_out(examples, noises, multiple_of=multiple_of))
        return drawn

    return draw


def noises_of(
    examples: Sequence[Example], recipe: Recipe, mask_id: int, rng: np.random.Generator
) -> list[list[Noise]]:
    """Noise for every hole of every example."""
    return [
        [add_noise(hole, mask_id=mask_id, copies=recipe.copies, rng=rng) for hole in example.holes]
        for example in examples
    ]


def held_out_batches(
    trainer: Trainer, sampler: ExampleSampler, tokens: int = _HELD_OUT_TOKENS
) -> list[Batch]:
    """The fixed examples whose losses are logged, always with noise.

    Only the tokens of middles have a weight, all the same: they are what an infilling model writes.
    """
    rng = np.random.default_rng(_HELD_OUT_SEED)
    batches = []
    while sum(batch.rows for batch in batches) < tokens:
        drawn = sampler.batch(rng, trainer.recipe.batch_tokens, HOLES)
        examples = [_middles_alone(example) for example in drawn if example.holes]
        if examples:
            noises = noises_of(examples, trainer.recipe, trainer.mask_id, rng)
            batches.append(assemble(examples, noises, device=trainer.device, dtype=trainer.dtype))
    return batches


def _middles_alone(example: Example) -> Example:
    holes = []
    for hole in example.holes:
        weights = np.zeros_like(hole.weights)
        weights[hole.middle :] = 1.0
        holes.append(replace(hole, weights=weights))
    return Example(example.tokens, np.zeros_like(example.weights), tuple(holes))
