"""A training run: trains any job until its budget is spent or Ctrl-C ends it, and resumes it.

A job can take a step, measure itself, and write and read its state. This module owns the loop, the
log, the progress bar and the signals; it does not know what is trained. With a budget of tokens, an
interrupted run ends with exactly the weights that it would have had.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engine.errors import ConfigError

logger = logging.getLogger(__name__)

STATE, LOG, PLAN = "state.pt", "log.jsonl", "plan.json"
_LOG_STEPS = 10


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends: after so many minutes of training or so many tokens."""

    minutes: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError unless exactly one of them is set and it is positive."""
        given = [value for value in (self.minutes, self.tokens) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ConfigError(
                "The budget must be a positive number of minutes or of tokens.",
                remedy="Give one of --minutes and --tokens.",
                param="minutes",
            )


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come.

    Attributes:
        joint_tokens: the tokens of stage 2.
        seconds: the time spent in steps.
        flops: operations of matrix products (`engine.lab.training.batch.throughput`).
    """

    step: int = 0
    tokens: int = 0
    joint_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def share(self, budget: Budget) -> float:
        """The share of the budget that is spent."""
        if budget.tokens is not None:
            return self.tokens / budget.tokens
        assert budget.minutes is not None
        return self.seconds / (60 * budget.minutes)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did.

    Attributes:
        losses: by name.
        rows: the rows that it trained on, of which `joint_rows` with the joint objective.
        rate: the learning rate.
        flops: operations of matrix products; 0 if they are not counted.
    """

    losses: Mapping[str, float]
    rows: int
    rate: float
    joint_rows: int = 0
    flops: float = 0.0


class Job(Protocol):
    """Something that is trained."""

    @property
    def position(self) -> Position:
        """How far training has come."""
        ...

    @position.setter
    def position(self, position: Position) -> None: ...

    def step(self, share: float) -> StepReport:
        """Takes one optimizer step after `share` of the budget is spent."""
        ...

    def held_out(self) -> dict[str, float]:
        """The losses on fixed examples that are never trained on."""
        ...

    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is watched and kept.

    Attributes:
        label: the label of the progress bar; None shows no bar.
        until: the share of the budget at which the run ends.
        save_seconds: the time between two states on disk.
        measures_at_saves: whether every state on disk comes with held-out losses in the log.
        measure_seconds: the time between two measurements of held-out losses, where these take too
            long for every state. Such a run measures nothing when it is ended early.
        matrix_rate: the device's operations per second, of which the log states the share used.
    """

    label: str | None = None
    until: float = 1.0
    save_seconds: float = 120.0
    measures_at_saves: bool = False
    measure_seconds: float | None = None
    matrix_rate: float | None = None

    def measures_after(self, seconds: float) -> bool:
        """Whether held-out losses are due so long after the last ones."""
        return self.measure_seconds is not None and seconds >= self.measure_seconds


def run_job(job: Job, budget: Budget, folder: Path, options: RunOptions) -> bool:
    """Trains until the budget is spent, resuming from `folder/state.pt` if it exists.

    Appends to `folder/log.jsonl`. SIGINT and SIGTERM end the run after the current step, with the
    state saved.

    Returns:
        Whether the budget is spent; False if the run was ended early.
    """
    state = folder / STATE
    if state.is_file():
        job.load(state)
    if job.position.share(budget) >= options.until:
        return True
    if not job.position.step:
        _log_held_out(folder, job)
    console = Console(stderr=True)
    columns = (TextColumn(options.label or ""), BarColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=options.label is None)
    saved, window, recent = time.monotonic(), job.position, []
    measured = saved
    with _Stop() as stop, bar as shown:
        task = shown.add_task("", total=options.until)
        while (share := job.position.share(budget)) < options.until and not stop.asked:
            recent.append(_timed_step(job, share))
            shown.update(task, completed=share, description=_words(recent[-1], job.position))
            if job.position.step % _LOG_STEPS == 0:
                _log(folder, job.position, window, recent, options.matrix_rate)
                window, recent = job.position, []
            if time.monotonic() - saved >= options.save_seconds:
                job.save(state)
                if options.measures_at_saves:
                    _log_held_out(folder, job)
                saved = time.monotonic()
            if options.measures_after(time.monotonic() - measured):
                _log_held_out(folder, job)
                measured = time.monotonic()
    job.save(state)
    if options.measure_seconds is None or not stop.asked:
        _log_held_out(folder, job)
    return job.position.share(budget) >= options.until


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Writes the state of a job whole, by rename."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


class _Stop:
    """Inside this context SIGINT and SIGTERM set `asked` instead of ending the process."""

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


def _timed_step(job: Job, share: float) -> StepReport:
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
        joint_tokens=before.joint_tokens + report.joint_rows,
        seconds=before.seconds + time.monotonic() - began,
        flops=before.flops + report.flops,
    )
    return report


def _words(report: StepReport, position: Position) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    speed = position.tokens / max(position.seconds, 1e-9)
    return f"step {position.step}  {losses}  {speed:,.0f} rows/s"


def _log(
    folder: Path,
    now: Position,
    window: Position,
    recent: Sequence[StepReport],
    matrix_rate: float | None,
) -> None:
    """Writes one row: the position, and means over the steps since the last row."""
    seconds = max(now.seconds - window.seconds, 1e-9)
    row: dict[str, object] = {**asdict(now)}
    for name in recent[-1].losses:
        values = [report.losses[name] for report in recent if name in report.losses]
        row[name] = sum(values) / len(values)
    row["rate"] = recent[-1].rate
    row["tokens_per_second"] = (now.tokens - window.tokens) / seconds
    if matrix_rate is not None:
        row["share_of_matrix_rate"] = (now.flops - window.flops) / (seconds * matrix_rate)
    _append(folder, row)


def _log_held_out(folder: Path, job: Job) -> None:
    losses = {f"held_out_{name}": value for name, value in job.held_out().items()}
    _append(folder, {**asdict(job.position), **losses})


def _append(folder: Path, row: Mapping[str, object]) -> None:
    logger.info("%s", {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
