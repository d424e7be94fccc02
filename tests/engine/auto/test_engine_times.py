"""The engine measures its step-time curve while idle, keeps it, and serves requests before that."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.api import Finished, Limits, Request
from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures, write_stats
from engine.auto.measuring import CONTEXT
from engine.auto.step_times import StepTimes, TimesFile
from engine.config import EngineSettings
from engine.engine import MEASUREMENTS_MAX, Engine
from engine.scheduler import QUIET_SECONDS
from tests.tiny import write_tiny_checkpoint

SECONDS_MAX = 60


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    return EngineSettings(checkpoint, "cpu", "float32", threads=1, cache_tokens=1024)


@pytest.fixture
def file(tmp_path: Path) -> TimesFile:
    return TimesFile(tmp_path / "cache" / "times.json", "tiny", "1.0")


def finished(engine: Engine) -> Finished:
    return engine.generate(Request((5, 6, 7), "copy_spec", Limits(8)))


def finished_and_quiet(engine: Engine) -> None:
    """Lets the engine do its work of quiet times after a request."""
    finished(engine)
    time.sleep(1.5 * QUIET_SECONDS)


def measured(engine: Engine) -> StepTimes:
    give_up = time.monotonic() + SECONDS_MAX
    while engine.info.step_times is None:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return engine.info.step_times


def measured_once(settings: EngineSettings, file: TimesFile) -> StepTimes:
    """The curve that an engine measures and keeps in the file."""
    with closing(Engine.load(settings, file)) as engine:
        return measured(engine)


def test_requests_are_served_before_the_curve_is_there(
    settings: EngineSettings, file: TimesFile
) -> None:
    with closing(Engine.load(settings, file)) as engine:
        assert engine.info.step_times is None
        before = finished(engine)
        times = measured(engine)
        assert finished(engine).text == before.text
    assert times.is_measured
    assert file.path.is_file()


def test_a_kept_curve_is_there_at_once_and_goes_into_the_strategies(
    settings: EngineSettings, file: TimesFile
) -> None:
    times = measured_once(settings, file)
    with closing(Engine.load(settings, file)) as second:
        assert second.info.step_times == times
        assert second._traits.costs == times


def test_a_curve_kept_from_a_busy_moment_is_mended(
    settings: EngineSettings, file: TimesFile
) -> None:
    times = measured_once(settings, file)
    stored = json.loads(file.path.read_text("utf-8"))
    stored["milliseconds"] = [1e6] * len(stored["milliseconds"])
    file.path.write_text(json.dumps(stored), encoding="utf-8")
    with closing(Engine.load(settings, file)) as second:
        assert second.info.step_times is not None, "a kept curve serves until then"
        give_up = time.monotonic() + SECONDS_MAX
        while measured(second).at(1) >= 1e6:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert measured(second).rows == times.rows


def test_steps_that_are_much_faster_than_the_curve_have_it_measured_again(
    settings: EngineSettings, file: TimesFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a start on a machine that was busy, by whose curve prompts would stay short."""
    busy, ready = StepTimes((1, 2), (1e6, 1e6), CONTEXT), StepTimes((1, 2), (1e-6, 1e-6), CONTEXT)
    results = [busy, busy, ready]

    def fake(runtime: object) -> Generator[None, None, StepTimes]:
        yield
        return results.pop(0)

    monkeypatch.setattr("engine.engine.measure", fake)
    with closing(Engine.load(settings, file)) as engine:
        assert measured(engine) == busy
        give_up = time.monotonic() + SECONDS_MAX
        while engine.info.step_times != ready:
            finished_and_quiet(engine)
            assert time.monotonic() < give_up
        assert engine._traits.costs == ready
        for _ in range(3):  # No step is faster than this curve: nothing is measured any more.
            finished_and_quiet(engine)
    assert results == []


def test_a_wrong_clock_does_not_have_it_measured_for_ever(
    settings: EngineSettings, file: TimesFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def fake(runtime: object) -> Generator[None, None, StepTimes]:
        yield
        made.append(1)
        return StepTimes((1, 2), (1e6, 1e6), CONTEXT)

    monkeypatch.setattr("engine.engine.measure", fake)
    with closing(Engine.load(settings, file)) as engine:
        measured(engine)
        give_up = time.monotonic() + SECONDS_MAX
        while len(made) < MEASUREMENTS_MAX:
            finished_and_quiet(engine)
            assert time.monotonic() < give_up
        for _ in range(3):
            finished_and_quiet(engine)
    assert len(made) == MEASUREMENTS_MAX


@pytest.mark.parametrize("stale", ["version", "broken"])
def test_a_stale_or_broken_curve_is_measured_anew(
    settings: EngineSettings, file: TimesFile, stale: str
) -> None:
    measured_once(settings, file)
    before = file.path.read_bytes()
    if stale == "version":
        file = replace(file, version="1.1")
    else:
        file.path.write_bytes(before[:-20])
    with closing(Engine.load(settings, file)) as second:
        assert second.info.step_times is None
        measured(second)
    assert file.path.read_bytes() != before


def test_without_a_file_nothing_is_measured(settings: EngineSettings) -> None:
    with closing(Engine.load(settings)) as engine:
        time.sleep(0.5)
        assert engine.info.step_times is None
        assert not engine._traits.costs.is_measured


def test_stats_come_with_the_checkpoint(settings: EngineSettings) -> None:
    stats = CheckpointStats({"block": ModeFigures(3.0, 32.0)}, 32, True, "decoding.json")
    write_stats(settings.checkpoint_path(), stats)
    with closing(Engine.load(settings)) as engine:
        assert engine.info.stats == stats


def test_rows_after_the_prompt_are_counted(settings: EngineSettings) -> None:
    with closing(Engine.load(settings)) as engine:
        usage = finished(engine).usage
    assert usage.rows >= usage.forwards > 0
    assert usage.tokens <= usage.rows + 1
