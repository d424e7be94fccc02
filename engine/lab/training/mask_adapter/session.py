"""A mask adapter in training on sequences that lie on the device, as `training.run.Job`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.lab.training.mask_adapter.adapter import (
    MaskAdapter,
    run_clean,
    run_masks,
)
from engine.lab.training.mask_adapter.groups import LAYOUT, GroupBatch, draw_groups
from engine.lab.training.mask_adapter.loss import (
    LATENT_WEIGHT,
    accepted,
    backward,
    count_rows,
)
from engine.lab.training.mask_adapter.teacher import Written
from engine.lab.training.mask_adapter.work import StepWork, flops_of_step
from engine.lab.training.run import Position, StepReport
from engine.model.network import Network

_WARM_UP_STEPS = 40
_CLIP = 1.0
_HELD_OUT_SIZE = 8
_HELD_OUT_GROUPS = 8
# Sequences that are measured together: as many as memory has room for beside training.
_MEASURED_ON_CPU, _MEASURED_ON_CUDA = 8, 64


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How an adapter is trained.

    Attributes:
        rate: AdamW's peak learning rate; rises at first and falls to 0 along a cosine.
        sequences: of a batch; each carries the rows of `layout`.
        at_once: sequences of a batch that are computed together; the gradients of its parts add up
            to that of the whole.
        latent_weight: of the latent term.
        average: decay of the running average per step.
        seed: of the anchors and the order of sequences.
    """

    rate: float = 1e-3
    sequences: int = 32
    at_once: int = 32
    layout: tuple[int, ...] = LAYOUT
    latent_weight: float = LATENT_WEIGHT
    average: float = 0.99
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Figures over held-out groups of 8 mask rows.

    Attributes:
        drafts: accepted per cycle, the anchor's own exact token not counted.
        by_offset: share of the groups with a label there whose drafts up to this offset were all
            right.
    """

    drafts: float
    by_offset: tuple[float, ...]


class Session:
    """One adapter in training; see `engine.lab.training.run.Job`."""

    def __init__(
        self,
        network: Network,
        adapter: MaskAdapter,
        data: Sequence[Written],
        held_out: Sequence[Written],
        options: SessionOptions,
        served: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """
        Args:
            served: further figures of the adapter, by name, wherever held-out ones are measured.
        """
        self.adapter, self.options = adapter, options
        self.position = Position()
        self._network, self._data, self._held_out = network, data, held_out
        self._served = served
        self._parameters = dict(adapter.named_parameters())
        self._average = {name: each.detach().clone() for name, each in self._parameters.items()}
        device = network.encoder.embed_tokens.weight.device
        # Factors start small and must be free to grow: nothing is decayed.
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self._generator = torch.Generator(device=device)
        self._shares = np.array([len(each.tokens) for each in data], dtype=float)
        self._shares /= self._shares.sum()

    def step(self, share: float) -> StepReport:
        """One batch, where `share` of the run is done."""
        options, step = self.options, self.position.step
        rng = np.random.default_rng([options.seed, step])
        self._generator.manual_seed(options.seed * 1_000_003 + step)
        written = self._data[rng.choice(len(self._data), p=self._shares)]
        chosen = torch.from_numpy(rng.integers(len(written.tokens), size=options.sequences))
        part = written.slice(chosen.to(written.tokens.device))
        batch = draw_groups(part, options.layout, self._generator)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._backward(part, batch)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), _CLIP)
        rate = options.rate * _schedule(step, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._blend()
        lowrank = self.adapter.lowrank
        work = StepWork(
            options.sequences,
            written.tokens.shape[1],
            options.layout,
            sum(each.numel() for each in (*lowrank.down.values(), *lowrank.up.values())),
            len(self.adapter.draft_ids),
        )
        flops = flops_of_step(work, self._network.config)
        rows = options.sequences * sum(options.layout)
        return StepReport(losses, rows, rate, flops=flops)

    def _backward(self, written: Written, batch: GroupBatch) -> dict[str, float]:
        """Adds the gradient of a batch, part by part; returns the losses by name."""
        options, adapter = self.options, self.adapter
        counts = count_rows(adapter, batch)
        total: dict[str, float] = {}
        rows = torch.arange(options.sequences, device=batch.anchors.device)
        for low in range(0, options.sequences, options.at_once):
            places = slice(low, low + options.at_once)
            part = batch.slice(places)
            clean = run_clean(self._network, written.slice(rows[places]))
            hidden = run_masks(self._network, adapter, clean, part, options.layout)
            losses = backward(
                adapter, clean, hidden, part, latent_weight=options.latent_weight, counts=counts
            )
            for name, value in asdict(losses).items():
                total[name] = total.get(name, 0.0) + value
        return total

    def held_out(self) -> dict[str, float]:
        """Drafts accepted on held-out sequences, in all and up to each offset, and what `served`
        gives: all of the averaged weights, with which a run ends."""
        with self._averaged():
            found = measure(self._network, self.adapter, self._held_out)
            further = self._served() if self._served is not None else {}
        by_offset = {f"offset_{index}": each for index, each in enumerate(found.by_offset, 1)}
        return {"drafts": found.drafts, **by_offset, **further}

    def use_average(self) -> None:
        """Takes the average of the last weights for the weights."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._average[name])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside this context the weights are the average of the last ones."""
        kept = {name: each.detach().clone() for name, each in self._parameters.items()}
        self.use_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])

    @torch.no_grad()
    def _blend(self) -> None:
        step = self.position.step + 1
        decay = min(self.options.average, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(parameter, 1 - decay)

    def save(self, path: Path) -> None:
        """Writes parameters, averages, optimizer and position, in one step."""
        state = {
            "parameters": {name: each.detach() for name, each in self._parameters.items()},
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "position": asdict(self.position),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Takes up what `save` wrote."""
        # Written on a card, perhaps, and gone on with on a processor.
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state["parameters"][name])
                self._average[name].copy_(state["average"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])


@torch.no_grad()
def measure(network: Network, adapter: MaskAdapter, data: Sequence[Written]) -> Acceptance:
    """Drafts accepted at random places of the middles of held-out sequences."""
    layout = (_HELD_OUT_SIZE,) * _HELD_OUT_GROUPS
    device = network.encoder.embed_tokens.weight.device
    sequences = _MEASURED_ON_CUDA if device.type == "cuda" else _MEASURED_ON_CPU
    generator = torch.Generator(device=device)
    generator.manual_seed(5)
    hits = torch.zeros(_HELD_OUT_SIZE, device=device)
    tried = torch.zeros_like(hits)
    for written in data:
        for part in _parts(written, sequences):
            batch = draw_groups(part, layout, generator, revealed_share=0.0, middles_only=True)
            clean = run_clean(network, part)
            hidden = run_masks(network, adapter, clean, batch, layout)
            counts = accepted(adapter, hidden, batch, _HELD_OUT_SIZE)
            hits, tried = hits + counts[0], tried + counts[1]
    shares = (hits / tried.clamp(min=1)).tolist()
    return Acceptance(float(hits.sum() / tried[0].clamp(min=1)), tuple(shares))


def _parts(written: Written, size: int) -> Iterator[Written]:
    for rows in torch.arange(len(written.tokens), device=written.tokens.device).split(size):
        yield written.slice(rows)


def _schedule(step: int, share: float) -> float:
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * (1 + math.cos(math.pi * min(share, 1.0))) / 2
