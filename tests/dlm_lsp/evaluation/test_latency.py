"""The typing benchmark: its keys, its requests to llama.cpp, its figures, and a whole small run. No
test asks how fast anything is."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.evaluation.latency import run
from dlm_lsp.evaluation.latency.answers import Ours, Theirs
from dlm_lsp.evaluation.latency.infill import infill, request_body
from dlm_lsp.evaluation.latency.keys import visits
from dlm_lsp.evaluation.latency.report import (
    JSON_FILE,
    TABLE_FILE,
    Sample,
    TypingSection,
    percentile,
    read,
    times_table,
    to_text,
    tokens_table,
    write,
)
from engine.errors import ConfigError


def section(model: str = "m.gguf", samples: tuple[Sample, ...] = ()) -> TypingSection:
    return TypingSection("A", model, 1, {"date": "today"}, samples)


SAMPLES = (
    Sample(False, "cold", Ours(900.0, 1000.0, 400), Theirs(2000.0, 800, False)),
    Sample(False, "rested", Ours(90.0, 100.0, 3), Theirs(2000.0, 800, False)),
    Sample(False, "warm", Ours(2.0, 2.0, None), Theirs(100.0, 250, False)),
    Sample(False, "warm", Ours(40.0, 80.0, 10), Theirs(100.0, 250, True)),
    Sample(False, "warm", Ours(None, 80.0, 30), None),
    Sample(True, "warm", Ours(80.0, 80.0, 30), Theirs(100.0, 250, False)),
)


def test_every_key_leads_from_one_text_to_the_next() -> None:
    seen = list(islice(visits(12), 8))
    assert len({visit.name for visit in seen}) == 8
    assert list(islice(visits(12), 8)) == seen, "the keys are the same in every run"
    for visit in seen:
        text = visit.text
        assert 0 < len(visit.keys) <= 12
        for key in visit.keys:
            splice = key.splice
            text = text[: splice.start] + splice.text + text[splice.start + splice.removed :]
            assert text == key.text
            assert 0 <= key.cursor <= len(text)


@given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=30))
def test_a_request_to_llama_cpp_holds_the_text_around_the_cursor(before: str, after: str) -> None:
    body = request_body(before + after, len(before))
    line = before.rpartition("\n")[2] + after.partition("\n")[0]
    prompt = body["prompt"]
    assert before.rpartition("\n")[0] + "\n" == body["input_prefix"]
    if line.strip():
        assert before.endswith(prompt)
        assert body["input_suffix"] == after + ("\n" if "\n" in after else "\n\n")
    else:
        assert prompt == ""


def test_a_request_to_llama_cpp_is_as_long_as_llama_vim_makes_it() -> None:
    text = "".join(f"{number}\n" for number in range(1000))
    body = request_body(text, text.index("500"))
    assert body["input_prefix"].splitlines() == [str(number) for number in range(244, 500)]
    assert body["input_suffix"].splitlines() == [str(number) for number in range(500, 565)]
    assert infill("http://nowhere.invalid", "x = (1, 2, 3, 4)\n", 2) is None, "it would not ask"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from((50, 95, 99)))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: int
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * share / 100
    assert sum(value < found for value in values) < len(values) * share / 100


def test_the_tables_tell_cold_from_warm_and_what_the_engine_was_asked() -> None:
    quiet = [sample for sample in SAMPLES if not sample.is_busy]
    cold, rested, warm, asked = times_table(quiet)[2:]
    assert cold.startswith("| cold | 1 | 1 | 900 / 900 / 900 | 1000 / 1000 / 1000 | 2000 / ")
    assert cold.endswith("| 0.45 (0.45) |")
    assert rested.startswith("| after a rest | 1 | 1 | 90 / 90 / 90 |")
    assert warm.startswith("| warm | 3 | 2 | 2 / 40 / 40 | 80 / 80 / 80 | 100 / 100 / 100 |")
    assert warm.endswith("| 0.02 (0.02) |")
    assert asked.startswith("| warm, engine asked | 2 | 1 | 40 / 40 / 40 |")
    assert tokens_table(quiet)[4] == "| warm | 2 | 10 / 30 / 30 | 250 / 250 / 250 |"


def test_the_report_judges_the_aim_for_each_condition() -> None:
    text = to_text([section(samples=SAMPLES)])
    assert "### Nothing else runs" in text
    assert "Warm, ≤ 0.4 × llama.cpp's: 0.02, met." in text
    assert "Warm, ≤ 0.4 × llama.cpp's: 0.80, **not met**." in text


def test_what_was_written_is_read_again_and_a_run_replaces_its_own_section(tmp_path: Path) -> None:
    write(tmp_path, section("b.gguf"))
    write(tmp_path, section("a.gguf"))
    write(tmp_path, section("b.gguf", SAMPLES))
    kept = read(tmp_path / JSON_FILE)
    assert [(one.model, tuple(one.samples)) for one in kept] == [
        ("a.gguf", ()),
        ("b.gguf", SAMPLES),
    ]
    assert (tmp_path / TABLE_FILE).read_text("utf-8") == to_text(kept)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}', '{"format": 1, "sections": [{}]}'])
def test_results_that_cannot_be_read_are_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / JSON_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"typing\.json cannot be read"):
        write(tmp_path, section())
    assert (tmp_path / JSON_FILE).read_text("utf-8") == content


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--checkpoint", str(tmp_path / "none.gguf")]) == 1
    assert "none.gguf is not a file. Give a GGUF file" in capsys.readouterr().err


@pytest.mark.slow  # the real model
def test_a_small_run_measures_both_engines(
    real_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp has no wheel for this system")
    out = tmp_path / "out"
    monkeypatch.setattr(run, "KEYS_PER_VISIT", 1)
    few = ["--keys", "2", "--peer-keys", "1", "--out", str(out)]
    assert run.main(["--checkpoint", str(real_model), *few]) == 0
    (kept,) = json.loads((out / JSON_FILE).read_text("utf-8"))["sections"]
    assert kept["model"] == real_model.name
    assert str(real_model.parent) not in (out / TABLE_FILE).read_text("utf-8")
    for is_busy in (False, True):
        samples = [one for one in kept["samples"] if one["is_busy"] == is_busy]
        assert samples[0]["kind"] == "cold"
        assert samples[0]["ours"]["recomputed"] > 0
        assert all(one["theirs"] is None or one["theirs"]["final"] > 0 for one in samples)
        # The first place is asked of both, those after the first key of this server alone.
        asked = [one["theirs"] is not None for one in samples]
        places = [number for number, one in enumerate(samples) if one["kind"] != "warm"]
        assert any(asked[: places[1]])
        assert not any(asked[places[1] :])
