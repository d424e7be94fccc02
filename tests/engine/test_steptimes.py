"""The step-time curve: its shape, its file, and its measurement by real steps."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.measuring import CONTEXT, PREFILL_ROWS, ROWS, SAMPLES, measure
from engine.model.runner import Model
from engine.model.torch_runtime import TorchRuntime
from engine.steptimes import (
    CPU_TIMES,
    CUDA_TIMES,
    StepTimes,
    TimesKey,
    never_falling,
    read_times,
    write_times,
)
from tests.engine.seeded import seeded_model

KEY = TimesKey("abc", "here", "cpu", "float32", 1, "1.0 torch 2")
TIMES = StepTimes((1, 2, 32), (1.0, 1.5, 2.1), 256)


@given(
    st.lists(st.integers(2, 300), min_size=1, max_size=8, unique=True),
    st.lists(st.floats(0.01, 1000), min_size=9, max_size=9),
    st.lists(st.floats(0, 2000), min_size=2, max_size=20),
)
def test_more_rows_never_cost_less_and_measured_counts_cost_what_was_measured(
    counts: list[int], samples: list[float], asked: list[float]
) -> None:
    rows = [1, *sorted(counts)]
    times = never_falling(rows, samples[: len(rows)], 256)
    for count, time, sample in zip(rows, times.milliseconds, samples, strict=False):
        assert times.at(count) == pytest.approx(time)
        assert time >= sample
    for fewer, more in pairwise(sorted(asked)):
        assert times.at(fewer) <= times.at(more) * (1 + 1e-9)


def test_the_least_of_two_curves_is_one_below_both_where_they_were_measured_alike() -> None:
    one = StepTimes((1, 8, 32), (4.0, 4.5, 9.0), 256)
    other = StepTimes((1, 8, 32), (3.0, 5.0, 7.0), 256)
    assert one.least(other) == other.least(one) == StepTimes((1, 8, 32), (3.0, 4.5, 7.0), 256)
    assert one.least(replace(other, context=64)) == one
    assert one.least(StepTimes((1, 8), (1.0, 1.0), 256)) == one


def test_between_and_behind_the_measured_counts_lies_a_line() -> None:
    assert TIMES.at(1.5) == pytest.approx(1.25)
    assert TIMES.at(17) == pytest.approx(1.8)
    assert TIMES.at(62) == pytest.approx(2.7)
    assert TIMES.at(0) == 1.0


@pytest.mark.parametrize(
    ("rows", "milliseconds"),
    [
        ((1,), (1.0,)),
        ((2, 4), (1.0, 2.0)),
        ((1, 1), (1.0, 2.0)),
        ((1, 4), (2.0, 1.0)),
        ((1, 4), (0.0, 1.0)),
        ((1, 4), (1.0, float("inf"))),
        ((1, 4), (float("nan"), 1.0)),
        ((1, 4, 8), (1.0, 2.0)),
    ],
)
def test_what_is_no_curve_is_refused(
    rows: tuple[int, ...], milliseconds: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"curve|ascend|fall|positive"):
        StepTimes(rows, milliseconds)


def test_a_curve_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.json"
    write_times(path, KEY, TIMES)
    assert read_times(path, KEY) == TIMES
    assert [file.name for file in path.parent.iterdir()] == ["times.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "def"},
        {"machine": "there"},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
        {"threads": 2},
        {"program": "1.1 torch 2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_curve_of_something_else_is_not_taken(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "times.json"
    write_times(path, KEY, TIMES)
    assert read_times(path, replace(KEY, **change)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("1.5", "-1.5"),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: json.dumps({**json.loads(text), "rows": [1, 1, 32]}),
        lambda text: json.dumps([]),
        lambda text: "\0" * 100,
    ],
)
def test_a_broken_file_is_none(tmp_path: Path, damage) -> None:
    path = tmp_path / "times.json"
    write_times(path, KEY, TIMES)
    path.write_text(damage(path.read_text()))
    assert read_times(path, KEY) is None


def test_a_folder_that_cannot_be_written_to_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "times.json"
    write_times(path, KEY, TIMES)
    assert read_times(path, KEY) is None


@pytest.mark.parametrize("times", [CPU_TIMES, CUDA_TIMES])
def test_built_in_curves_say_that_they_are(times: StepTimes) -> None:
    assert not times.is_measured
    assert times.at(32) > times.at(1)


def test_measuring_runs_one_real_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded_model()
    run: list[tuple[int, int]] = []
    forward = Model._forward

    def watched(self: Model, step, cache, **options) -> torch.Tensor:
        run.append((step.rows, step.position[0]))
        return forward(self, step, cache, **options)

    monkeypatch.setattr(Model, "_forward", watched)
    times: list[StepTimes] = []

    def collect() -> Generator[None]:
        times.append((yield from measure(TorchRuntime(model))))

    for steps, _ in enumerate(collect(), start=1):
        assert len(run) == steps
    fed = CONTEXT // PREFILL_ROWS
    assert run[:fed] == [(PREFILL_ROWS, start) for start in range(0, CONTEXT, PREFILL_ROWS)]
    assert run[fed:] == [(rows, CONTEXT) for _ in range(1 + SAMPLES) for rows in ROWS]
    assert (times[0].rows, times[0].context, times[0].is_measured) == (ROWS, CONTEXT, True)


def test_slow_steps_end_the_measurement_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.measuring.SLOW_SECONDS", 0.0)

    times: list[StepTimes] = []

    def collect() -> Generator[None]:
        times.append((yield from measure(TorchRuntime(seeded_model()))))

    list(collect())
    assert times[0].rows == (1, 2)


def test_a_machine_and_a_program_have_names() -> None:
    runtime = TorchRuntime(seeded_model())
    assert runtime.machine
    assert runtime.program == f"torch {torch.__version__}"
