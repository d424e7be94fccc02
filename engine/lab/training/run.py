"""A training run: any job to the end of its budget; resumable, and ended by Ctrl-C.

A job is whatever can take a step, measure itself, and write and read its state. Owns the loop, the
log, the bar and the signals; knows nothing of what is trained. Under a budget of tokens a run that
was interrupted ends with the very weights it would have had.
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

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engine.errors import ConfigError

logger = logging.getLogger(__name__)

STATE, LOG, PLAN = "state.pt", "log.jsonl", "plan.json"
_LOG_STEPS = 10


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
class Position:
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
class StepReport:
    """What one step did.

    Attributes:
        losses: by name.
        rows: that it trained on.
        rate: the learning rate.
        joint_rows: those of `rows` that were trained on with the joint objective.
        flops: operations of matrix products; 0 where nobody counts them.
    """

    losses: Mapping[str, float]
    rows: int
    rate: float
    joint_rows: int = 0
    flops: float = 0.0


class Job(Protocol):
    """Something in training."""

    @property
    def position(self) -> Position:
        """Where it stands."""
        ...

    @position.setter
    def position(self, position: Position) -> None: ...

    def step(self, share: float) -> StepReport:
        """One optimizer step; `share` of the budget is spent."""
        ...

    def held_out(self) -> dict[str, float]:
        """Losses on fixed examples that are never trained on."""
        ...

    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is watched and kept.

    Attributes:
        label: of the bar; None shows none.
        until: the budget's share at which to end.
        save_seconds: between two states on disk.
        measures_at_saves: held-out losses are logged with every state, not only at both ends.
        matrix_rate: operations per second that the device can do; None logs no share of it.
    """

    label: str | None = None
    until: float = 1.0
    save_seconds: float = 120.0
    measures_at_saves: bool = False
    matrix_rate: float | None = None


def run_job(job: Job, budget: Budget, folder: Path, options: RunOptions) -> bool:
    """Trains until the budget is spent, going on from `folder/state.pt` if it is there.

    Appends to `folder/log.jsonl`. SIGINT and SIGTERM end it after the step under way, with the
    state saved.

    Returns:
        Whether the budget is spent; False if it was ended before.
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
    job.save(state)
    _log_held_out(folder, job)
    return job.position.share(budget) >= options.until


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
    """One row: where the run stands, and means over the steps since the last row."""
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
