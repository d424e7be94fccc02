"""Runs a training job to the end of its budget: progress shown, resumable, ended by Ctrl-C.

A job is whatever can take a step, measure itself, and write and read its state. Owns the loop, the
log, the bar and the signals; knows nothing of what is trained.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError
from engine.lab.training.loop import Budget
from engine.lab.training.loop import Progress as Position

logger = logging.getLogger(__name__)

STATE, LOG, PLAN = "state.pt", "log.jsonl", "plan.json"
_LOG_STEPS = 10
_WARMUP_STEPS = 20
_DECAY_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Report:
    """What one step did: its losses by name, and the rows it trained on."""

    losses: Mapping[str, float]
    rows: int


class Job(Protocol):
    """Something in training."""

    @property
    def position(self) -> Position:
        """Where it stands."""
        ...

    @position.setter
    def position(self, position: Position) -> None: ...

    def step(self, share: float) -> Report:
        """One optimizer step; `share` of the budget is spent."""
        ...

    def held_out(self) -> dict[str, float]:
        """Losses on fixed examples that are never trained on."""
        ...

    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...


def run_job(
    job: Job, budget: Budget, folder: Path, label: str, *, save_seconds: float = 120.0
) -> bool:
    """Trains until the budget is spent, going on from `folder/state.pt` if it is there.

    Appends to `folder/log.jsonl`. SIGINT and SIGTERM end it after the step under way, with the
    state saved.

    Returns:
        Whether the budget is spent; False if it was ended before.
    """
    state = folder / STATE
    if state.is_file():
        job.load(state)
    if job.position.share(budget) >= 1:
        return True
    if not job.position.step:
        _append(folder, {**asdict(job.position), "held_out": job.held_out()})
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), TextColumn("{task.description}"))
    saved = time.monotonic()
    with _Stop() as stop, Progress(*columns, TimeElapsedColumn(), console=console) as shown:
        bar = shown.add_task("", total=1.0)
        while (share := job.position.share(budget)) < 1 and not stop.asked:
            report = _timed_step(job, share)
            shown.update(bar, completed=share, description=_words(report, job.position))
            if job.position.step % _LOG_STEPS == 0:
                _append(folder, {**asdict(job.position), **report.losses})
            if time.monotonic() - saved >= save_seconds:
                job.save(state)
                saved = time.monotonic()
    job.save(state)
    _append(folder, {**asdict(job.position), "held_out": job.held_out()})
    return job.position.share(budget) >= 1


def check_plan(folder: Path, plan: Mapping[str, object]) -> None:
    """Writes what a run is about to do, or compares it with what the folder's run was begun with.

    Raises:
        ConfigError: another run was begun there.
    """
    path = folder / PLAN
    text = json.dumps(plan, indent=1, default=str) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    begun = json.loads(path.read_text("utf-8"))
    differing = [key for key, value in json.loads(text).items() if begun.get(key) != value]
    if differing:
        raise ConfigError(
            f"{folder} holds a run with another {differing[0]} ({begun.get(differing[0])!r}).",
            remedy="Repeat its options to go on with it, or give another --out.",
            param=differing[0],
        )


def rate_at(peak: float, step: int, share: float) -> float:
    """Warm-up over 20 steps, constant, then 1 - sqrt down to 0 over the last 0.4 of the budget."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    left = max(0.0, min(1.0, (1.0 - share) / _DECAY_SHARE))
    return peak * warm * (1.0 if left >= 1 else 1.0 - math.sqrt(1.0 - left))


class Adam:
    """AdamW over a few fp32 parameters, with the clipping and the state that a job needs."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.95), weight_decay=0.0
        )

    def update(self, rate: float) -> None:
        """One step along the gradients, which are then gone."""
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def save(self, path: Path, position: Position) -> None:
        """Writes parameters, optimizer and position, by rename."""
        weights: dict[str, Tensor] = {k: p.detach() for k, p in self._parameters.items()}
        state = {
            "weights": weights,
            "optimizer": self._optimizer.state_dict(),
            "position": asdict(position),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> Position:
        """Takes up what `save` wrote.

        Raises:
            CheckpointError: the state is of other parameters.
        """
        state = torch.load(path, weights_only=True)
        weights = state["weights"]
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        if {name: tensor.shape for name, tensor in weights.items()} != shapes:
            raise CheckpointError(
                f"{path} is of another adapter.", remedy="Give another --out.", param=path.name
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])
        self._optimizer.load_state_dict(state["optimizer"])
        return Position(**state["position"])


class _Stop:
    """While entered, SIGINT and SIGTERM set `asked` instead of ending the process."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True


def _timed_step(job: Job, share: float) -> Report:
    began = time.monotonic()
    report = job.step(share)
    if not all(math.isfinite(value) for value in report.losses.values()):
        raise ConfigError(
            f"The losses of step {job.position.step} are {dict(report.losses)}.",
            remedy="Lower --learning-rate.",
            param="learning-rate",
        )
    before = job.position
    job.position = replace(
        before,
        step=before.step + 1,
        tokens=before.tokens + report.rows,
        seconds=before.seconds + time.monotonic() - began,
    )
    return report


def _words(report: Report, position: Position) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    speed = position.tokens / max(position.seconds, 1e-9)
    return f"step {position.step}  {losses}  {speed:,.0f} rows/s"


def _append(folder: Path, row: dict[str, object]) -> None:
    logger.info("%s", row)
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
