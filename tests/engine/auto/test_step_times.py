"""The step-time curve: its shape, its file, and its measurement by real steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.api import Request, Sampling
from engine.auto.measuring import CONTEXT, PREFILL_ROWS, ROWS, SAMPLES, measure
from engine.auto.step_times import (
    CPU_TIMES,
    CUDA_TIMES,
    PREFILL_MS_MAX,
    StepTimes,
    TimesKey,
    never_falling,
    prefill_rows,
    read_times,
    write_times,
)
from engine.auto.step_times import PREFILL_ROWS as PREFILL_COUNTS
from engine.cache.storage import KVCache
from engine.decoders.strategy import PendingTokens, Task, Traits
from engine.model.runner import ModelRunner
from engine.model.torch_runtime import TorchRuntime
from engine.step import Step
from tests.engine.decoders.test_copying import curves
from tests.engine.seeded import seeded_model
from tests.engine.subjects import subject

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


def test_a_measurement_that_a_busy_machine_cut_short_spoils_no_curve() -> None:
    whole = StepTimes((1, 2, 4, 8, 32), (4.0, 4.1, 4.2, 4.5, 9.0), 256)
    cut_short = StepTimes((1, 2, 4), (360.0, 360.0, 360.0), 256)
    assert whole.least(cut_short) == cut_short.least(whole) == whole


CURVES = st.lists(st.integers(2, 130), min_size=1, max_size=5, unique=True).flatmap(
    lambda counts: st.lists(
        st.floats(0.01, 1000), min_size=1 + len(counts), max_size=1 + len(counts)
    ).map(lambda times: never_falling([1, *sorted(counts)], times, 256))
)


@given(CURVES, CURVES)
def test_the_least_of_two_curves_is_below_what_either_has_measured(
    one: StepTimes, other: StepTimes
) -> None:
    least = one.least(other)
    assert least == other.least(one)
    assert set(least.rows) == {*one.rows, *other.rows}
    for curve in (one, other):
        for rows, time in zip(curve.rows, curve.milliseconds, strict=True):
            assert least.at(rows) <= time * (1 + 1e-9)
    assert min(least.milliseconds) == min(one.at(1), other.at(1))


def test_the_curve_is_linear_between_and_after_the_measured_counts() -> None:
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
    write_times(path, KEY, replace(TIMES, with_masks=(2.0, 2.5, 3.0)))
    assert read_times(path, KEY) == replace(TIMES, with_masks=(2.0, 2.5, 3.0))
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
        lambda text: text.replace('"format": 2', '"format": 1'),
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


@given(curves())
def test_a_prompts_step_is_short_where_that_costs_little_more(times: StepTimes) -> None:
    rows = prefill_rows(times)
    assert rows in PREFILL_COUNTS
    cost = {count: times.at(count) / count for count in PREFILL_COUNTS}
    assert cost[rows] <= 1.25 * min(cost.values())
    cheap = [count for count in PREFILL_COUNTS if cost[count] <= 1.25 * min(cost.values())]
    assert times.at(rows) <= PREFILL_MS_MAX or rows == cheap[0]
    longer = [count for count in cheap if count > rows]
    assert all(times.at(count) > PREFILL_MS_MAX for count in longer)


@pytest.mark.parametrize(
    ("row_ms", "expected"),
    [
        (2.0, 256),  # 20 million parameters: a prompt in steps of 49 ms
        (10.0, 64),  # 65 ms, where 128 rows take 125
        (
            25.0,
            32,
        ),  # half a billion with AMX: 88 ms; of 16 rows, 55, but more in all
        (60.0, 32),  # and with AVX2
    ],
)
def test_a_larger_models_prompt_is_fed_in_shorter_steps(row_ms: float, expected: int) -> None:
    milliseconds = tuple(row_ms * ratio for ratio in CPU_TIMES.milliseconds)
    assert prefill_rows(StepTimes(CPU_TIMES.rows, milliseconds)) == expected


def test_before_anything_is_measured_a_prompts_step_is_of_a_middling_size() -> None:
    assert prefill_rows(CPU_TIMES) == 64
    assert prefill_rows(CUDA_TIMES) == 256  # a card takes many rows in the time of one


def test_a_feed_takes_as_many_rows_as_the_curve_says() -> None:
    fast = StepTimes((1, 128), (0.1, 1.0))
    slow = StepTimes((1, 128), (10.0, 1000.0))
    request = Request(tuple(range(5, 305)), "ar")
    for times in (fast, slow, CPU_TIMES):
        task = Task(request, 3, 7, Traits(None, costs=times))
        pending, rows = PendingTokens(3, request.prompt[3:]), []
        while pending.tokens:
            step = pending.plan(task)
            assert step.sequence[0] == 7
            assert step.token == request.prompt[pending.cached :][: step.rows]
            rows.append(step.rows)
            assert bool(step.read) == (pending.cached + step.rows == len(request.prompt))
            pending = pending.after(step)
        assert set(rows[:-1]) <= {prefill_rows(times)}
        assert sum(rows) == 297


def test_measuring_runs_one_real_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded_model()
    run: list[tuple[int, int]] = []
    forward = ModelRunner._forward

    def watched(self: ModelRunner, step, cache, **options) -> torch.Tensor:
        run.append((step.rows, step.position[0]))
        return forward(self, step, cache, **options)

    monkeypatch.setattr(ModelRunner, "_forward", watched)
    times: list[StepTimes] = []

    def collect() -> Generator[None]:
        times.append((yield from measure(TorchRuntime(model))))

    for steps, _ in enumerate(collect(), start=1):
        assert len(run) == steps
    fed = CONTEXT // PREFILL_ROWS
    assert run[:fed] == [(PREFILL_ROWS, start) for start in range(0, CONTEXT, PREFILL_ROWS)]
    assert run[fed:] == [(rows, CONTEXT) for _ in range(1 + SAMPLES) for rows in ROWS]
    assert (times[0].rows, times[0].context, times[0].is_measured) == (ROWS, CONTEXT, True)


def test_where_there_is_a_mask_adapter_steps_with_masks_are_measured_too() -> None:
    tried = subject("adapted", "float32")
    assert isinstance(tried.model, ModelRunner)
    times = measured(TorchRuntime(tried.model))
    assert len(times.with_masks) == len(times.rows) == len(ROWS)
    assert times.at(8, masks=True) == times.with_masks[times.rows.index(8)]
    plain = replace(times, with_masks=())
    assert plain.at(8, masks=True) == plain.at(8)


def test_curves_with_and_without_masks_are_not_mixed() -> None:
    masked = replace(TIMES, with_masks=(2.0, 3.0, 4.0))
    assert TIMES.least(masked) == TIMES
    lower = replace(masked, with_masks=(1.5, 3.5, 3.5))
    assert masked.least(lower).with_masks == (1.5, 3.0, 3.5)
    with pytest.raises(ValueError, match="time for every count"):
        replace(TIMES, with_masks=(1.0,))


def measured(runtime: TorchRuntime | None = None) -> StepTimes:
    """The curve of a small model."""
    steps = measure(runtime or TorchRuntime(seeded_model()))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_slow_steps_end_the_measurement_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.auto.measuring.SLOW_SECONDS", 0.0)
    assert measured().rows == (1, 2)


def take(monkeypatch: pytest.MonkeyPatch, time_of: Callable[[int], float]) -> list[float]:
    """Makes steps take the given milliseconds by rows; returns the growing list of times."""
    taken: list[float] = []

    def timed(runtime: TorchRuntime, cache: KVCache, step: Step) -> float:
        runtime(step, cache, Sampling())
        taken.append(time_of(step.rows))
        return taken[-1]

    monkeypatch.setattr("engine.auto.measuring._timed", timed)
    return taken


def test_one_slow_step_among_fast_ones_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was busy for a moment must not shorten the curve."""
    fed = CONTEXT // PREFILL_ROWS
    slow = {fed + 1, fed + 4}
    taken = take(monkeypatch, lambda rows: 400.0 if len(taken) in slow else 100.0)
    times = measured()
    assert times.rows == ROWS
    assert set(times.milliseconds) == {100.0}


@pytest.mark.parametrize("row_ms", [60.0, 180.0, 300.0])
def test_a_large_models_measurement_is_short(
    monkeypatch: pytest.MonkeyPatch, row_ms: float
) -> None:
    """For half a billion parameters without VNNI, and steps of up to 5 times that, the measurement
    takes seconds, and no step takes much longer than a slow one may."""
    taken = take(monkeypatch, lambda rows: row_ms * CPU_TIMES.at(rows))
    times = measured()
    assert sum(taken) < 15_000
    assert max(taken) < 4 * 300
    assert times.milliseconds == tuple(row_ms * CPU_TIMES.at(rows) for rows in times.rows)


def test_a_machine_and_a_program_have_names() -> None:
    runtime = TorchRuntime(seeded_model())
    assert runtime.machine
    assert runtime.program == f"torch {torch.__version__}"
