"""`decoding.json`: a checkpoint's figures about decoding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.api import MODES
from engine.auto.checkpoint_stats import (
    FILE,
    CheckpointStats,
    ModeFigures,
    read_stats,
    write_stats,
)
from engine.lab.bench.shapes import released_config
from engine.model.families import LLAMA

figures = st.builds(ModeFigures, st.floats(0.01, 256), st.floats(1, 2000))
stats_known = st.builds(
    CheckpointStats,
    st.dictionaries(st.sampled_from(MODES), figures),
    st.integers(2, 256),
    st.booleans(),
    st.just(FILE),
)


@given(stats_known)
def test_stats_survive_its_file(
    tmp_path_factory: pytest.TempPathFactory, stats: CheckpointStats
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    assert write_stats(folder, stats) == folder / "decoding.json"
    assert read_stats(folder, is_released=False, has_drafter=False) == stats


def test_figures_that_are_not_positive_are_not_written(tmp_path: Path) -> None:
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            write_stats(tmp_path, CheckpointStats({"block": ModeFigures(bad, 32)}))
    assert not (tmp_path / FILE).exists()


def stored(**change: Any) -> str:
    mode = {"tokens_per_forward": 2.0, "rows_per_forward": 32.0}
    whole = {"format": 1, "block_length": 32, "block_is_on_par": True, "modes": {"block": mode}}
    return json.dumps({**whole, **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        stored()[:-4],
        stored(format=2),
        stored(block_length=0),
        stored(modes={"block": {"tokens_per_forward": 0, "rows_per_forward": 32}}),
        stored(modes={"block": {"tokens_per_forward": 2}}),
    ],
)
def test_a_broken_file_is_ignored_and_logged(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_stats(tmp_path, is_released=True, has_drafter=False) is None
    assert FILE in caplog.text


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(stored(measured_on="something"))
    stats = read_stats(tmp_path, is_released=True, has_drafter=False)
    assert stats is not None
    assert stats.modes == {"block": ModeFigures(2.0, 32.0)}


def test_released_checkpoints_have_the_published_figures(tmp_path: Path) -> None:
    with_drafter = read_stats(tmp_path, is_released=True, has_drafter=True)
    without = read_stats(tmp_path, is_released=True, has_drafter=False)
    assert with_drafter is not None
    assert without is not None
    faster, slower = (
        stats.modes["linear_spec"].tokens_per_forward for stats in (with_drafter, without)
    )
    assert faster > slower > with_drafter.modes["block"].tokens_per_forward


def test_of_other_checkpoints_nothing_is_known(tmp_path: Path) -> None:
    assert read_stats(tmp_path, is_released=False, has_drafter=True) is None


def test_a_gguf_file_has_no_stats_and_nothing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    published = read_stats(file, is_released=True, has_drafter=False)
    assert published is not None
    assert published.source == "published figures"
    assert read_stats(file, is_released=False, has_drafter=False) is None
    assert not caplog.records


def test_released_checkpoints_are_known_by_their_architecture_and_size() -> None:
    released = released_config("3B")
    assert released.is_released
    assert not replace(released, layers=2).is_released
    assert not replace(released, family=LLAMA).is_released
