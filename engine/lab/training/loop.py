"""The training loop: batches, one optimizer step after the other, a log, and a state on disk.

Owns the weights in fp32, of which the network holds a copy in the compute dtype, and the position
in the data. The state is written whole by rename, so that an interrupted run goes on from the last
one; under a budget of tokens it then ends with the very weights it would have had.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.lab.data.sampler import HOLES, LANGUAGE, Example, ExampleSampler
from engine.lab.training.batch.masking import Noise, add_noise
from engine.lab.training.batch.rows import Rows, lay_out
from engine.lab.training.batch.throughput import flops_of, matrix_rate
from engine.lab.training.loss.objective import Batch, assemble, backward, losses, to_batch
from engine.lab.training.recipe import Recipe
from engine.model.network import Network

logger = logging.getLogger(__name__)

# The rows of an optimizer step's batches, by its number and whether stage 2 has begun.
Draw = Callable[[int, bool], list[Rows]]

_HELD_OUT_SEED = 20_240
_HELD_OUT_TOKENS = 24_576
_LOG_STEPS = 10
_COMPILED_MAX = 256


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends: after this many minutes of training, or tokens; exactly one is set."""

    minutes: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError unless exactly one is set, and positive."""
        given = [value for value in (self.minutes, self.tokens) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ConfigError(
                "The budget is neither minutes nor tokens, or not positive.",
                remedy="Give one of --minutes and --tokens.",
                param="minutes",
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. `seconds` counts training alone; `joint_tokens` are stage 2's; `flops`
    are operations of matrix products (engine.lab.training.batch.throughput)."""

    step: int = 0
    tokens: int = 0
    joint_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def share(self, budget: Budget) -> float:
        """The part of the budget that is spent."""
        if budget.tokens is not None:
            return self.tokens / budget.tokens
        assert budget.minutes is not None
        return self.seconds / (60 * budget.minutes)


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over their own weights, in nats; diffusion is None before stage 2."""

    ar: float
    diffusion: float | None


class Trainer:
    """One network in training. Not safe to share between threads."""

    def __init__(
        self, network: Network, recipe: Recipe, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.recipe = recipe
        self.device, self.dtype = device, dtype
        self.network = network.to(device=device, dtype=dtype)
        self.progress = Progress()
        torch.manual_seed(recipe.seed)
        self._masters = {
            name: nn.Parameter(initial_weight(name, parameter.shape, network.config.layers))
            for name, parameter in network.named_parameters()
        }
        for parameter in self._masters.values():
            parameter.data = parameter.data.to(device)
        self._optimizers = make_optimizers(self._masters, recipe)
        self._is_compiled = False
        self._publish()

    def compile(self) -> None:
        """Has every layer compiled at the first step, all but the attention.

        Needs a C++ compiler and half a minute at the start.
        """
        # Layers know their number, so that each is compiled for itself.
        torch._dynamo.config.recompile_limit = _COMPILED_MAX
        for module in (*self.network.encoder.layers, self.network.encoder.norm):
            module.compile(dynamic=True)
        self._is_compiled = True

    @property
    def mask_id(self) -> int:
        """The token that stands for an undecided place."""
        mask_id = self.network.config.mask_id
        assert mask_id is not None
        return mask_id

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Losses:
        """One optimizer step over several batches, normalised over all of them together."""
        ar_total = sum(batch.ar_total for batch in batches)
        diffusion_total = sum(batch.diffusion_total for batch in batches)
        ar_sum = diffusion_sum = 0.0
        for batch in batches:
            if self._is_compiled:
                batch = replace(batch, attend=torch.compiler.disable(batch.attend))
            sums = backward(
                self.network,
                batch,
                ar_scale=1.0 / ar_total,
                diffusion_scale=self.recipe.diffusion_weight / diffusion_total
                if diffusion_total
                else 0.0,
            )
            ar_sum += sums.ar
            diffusion_sum += sums.diffusion
        self._update(learning_rate)
        return Losses(
            ar_sum / ar_total, diffusion_sum / diffusion_total if diffusion_total else None
        )

    def evaluate(self, batches: Sequence[Batch]) -> Losses:
        """Mean losses over all batches together."""
        if not self._is_compiled:
            return evaluate(self.network, batches)
        # Layers would be compiled anew for passes without gradients, which takes minutes.
        with torch.compiler.set_stance("force_eager"):
            return evaluate(self.network, batches)

    def save(self, path: Path) -> None:
        """Writes weights, optimizer and position, by rename."""
        state = {
            "weights": {name: master.data for name, master in self._masters.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "progress": asdict(self.progress),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Takes up what `save` wrote.

        Raises:
            ConfigError: the state belongs to a network of another shape.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        shapes = {name: tensor.shape for name, tensor in state["weights"].items()}
        if shapes != {name: master.shape for name, master in self._masters.items()}:
            raise ConfigError(
                f"{path} holds a network of another shape.",
                remedy="Give the preset it was started with, or another --out.",
                param="preset",
            )
        self.set_weights(state["weights"])
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.progress = Progress(**state["progress"])

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes these weights, of every parameter by its name, for the present ones."""
        for name, master in self._masters.items():
            master.data.copy_(weights[name])
        self._publish()

    def _update(self, learning_rate: float) -> None:
        for name, parameter in self.network.named_parameters():
            assert parameter.grad is not None, name
            self._masters[name].grad = parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(self._masters.values(), self.recipe.gradient_norm_max)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Copies the fp32 weights into the network."""
        for name, parameter in self.network.named_parameters():
            parameter.copy_(self._masters[name])


def train(
    trainer: Trainer,
    draw: Draw,
    held_out: Sequence[Batch],
    budget: Budget,
    folder: Path,
    *,
    until: float = 1.0,
    save_seconds: float = 300.0,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains until the budget's share `until` is spent, or `stop` says so after a step; goes on
    from `folder/state.pt` if there. `draw` gives the rows of a step, as `drawing` and `Prefetch`.

    Appends to `folder/log.jsonl` and saves to `folder/state.pt` every `save_seconds` and at the
    end.
    """
    recipe = trainer.recipe
    state = folder / "state.pt"
    if state.is_file():
        trainer.load(state)
    if trainer.progress.share(budget) >= until:
        return
    saved = time.monotonic()
    recent: list[Losses] = []
    window = trainer.progress
    peak = matrix_rate(trainer.device, trainer.dtype)
    while (share := trainer.progress.share(budget)) < until and not stop():
        began = time.monotonic()
        joint = recipe.is_joint(share)
        drawn = draw(trainer.progress.step, joint)
        batches = [to_batch(rows, device=trainer.device, dtype=trainer.dtype) for rows in drawn]
        rate = recipe.learning_rate_at(trainer.progress.step, share)
        recent.append(trainer.step(batches, rate))
        _check_finite(recent[-1], trainer.progress.step)
        count = sum(batch.rows for batch in batches)
        before = trainer.progress
        trainer.progress = Progress(
            step=before.step + 1,
            tokens=before.tokens + count,
            joint_tokens=before.joint_tokens + (count if joint else 0),
            seconds=before.seconds + time.monotonic() - began,
            flops=before.flops + sum(flops_of(rows, trainer.network.config) for rows in drawn),
        )
        if trainer.progress.step % _LOG_STEPS == 0:
            _log(folder, trainer.progress, window, recent, rate, peak)
            recent, window = [], trainer.progress
        if time.monotonic() - saved >= save_seconds:
            trainer.save(state)
            _log_held_out(folder, trainer, held_out)
            saved = time.monotonic()
    trainer.save(state)
    _log_held_out(folder, trainer, held_out)


def drawing(recipe: Recipe, sampler: ExampleSampler, mask_id: int, multiple_of: int = 1) -> Draw:
    """Draws a step's rows from the files: a function of the seed and the step alone.

    Args:
        multiple_of: as `engine.lab.training.batch.rows.lay_out` has it.
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
    """The fixed examples whose losses are logged; always with noise.

    Weighted on the middles alone, every token the same: what an infilling model is asked for.
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


def evaluate(network: Network, batches: Sequence[Batch]) -> Losses:
    """Mean losses over all batches together."""
    sums = [losses(network, batch) for batch in batches]
    ar = sum(pair.ar for pair in sums) / sum(batch.ar_total for batch in batches)
    total = sum(batch.diffusion_total for batch in batches)
    return Losses(ar, sum(pair.diffusion for pair in sums) / total if total else None)


def make_optimizers(
    masters: Mapping[str, nn.Parameter], recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, fused AdamW for embedding, head and norms.

    After 0.7 M tokens of nano (AR, one batch a step, the whole schedule) the held-out loss was 4.71
    nats, 4.90 with AdamW for all, for 7 % more time.
    """
    matrices = [p for name, p in masters.items() if p.dim() == 2 and ".layers." in name]
    tables = [p for name, p in masters.items() if p.dim() == 2 and ".layers." not in name]
    vectors = [p for p in masters.values() if p.dim() < 2]
    decay = recipe.weight_decay
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.learning_rate,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [
                {"params": tables, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            fused=True,
        ),
    ]


def initial_weight(name: str, shape: torch.Size, layers: int) -> Tensor:
    """fp32 start value: ones for norms, else normal 0.02, less for what adds to the residual."""
    if len(shape) < 2:
        return torch.ones(shape)
    scale = 0.02
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        scale /= math.sqrt(2 * layers)
    return torch.randn(shape) * scale


def _middles_alone(example: Example) -> Example:
    holes = []
    for hole in example.holes:
        weights = np.zeros_like(hole.weights)
        weights[hole.middle :] = 1.0
        holes.append(replace(hole, weights=weights))
    return Example(example.tokens, np.zeros_like(example.weights), tuple(holes))


def _check_finite(values: Losses, step: int) -> None:
    if not math.isfinite(values.ar + (values.diffusion or 0.0)):
        raise FloatingPointError(f"The loss of step {step} is {values}; lower the learning rate.")


def _log(
    folder: Path,
    now: Progress,
    window: Progress,
    recent: Sequence[Losses],
    rate: float,
    peak: float,
) -> None:
    diffusion = [values.diffusion for values in recent if values.diffusion is not None]
    seconds = now.seconds - window.seconds
    row = {
        **asdict(now),
        "ar": sum(values.ar for values in recent) / len(recent),
        "diffusion": sum(diffusion) / len(diffusion) if diffusion else None,
        "rate": rate,
        "tokens_per_second": (now.tokens - window.tokens) / seconds,
        "share_of_matrix_rate": (now.flops - window.flops) / (seconds * peak),
    }
    _append(folder, row)


def _log_held_out(folder: Path, trainer: Trainer, batches: Sequence[Batch]) -> None:
    values = trainer.evaluate(batches)
    row = {
        **asdict(trainer.progress),
        "held_out_ar": values.ar,
        "held_out_diffusion": values.diffusion,
    }
    _append(folder, row)


def _append(folder: Path, row: dict[str, object]) -> None:
    logger.info("%s", {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
