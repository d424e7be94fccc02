"""The benchmark beside llama.cpp: what its table says of figures, how sections are kept, and a
whole small run of it. No test asks how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import CheckpointError, ConfigError, EngineFailure
from engine.lab.bench.llamacpp import comparison
from engine.lab.bench.llamacpp.channel import Child
from engine.lab.bench.llamacpp.report import (
    JSON_FILE,
    TABLE_FILE,
    Bar,
    ComparedRow,
    MachineSection,
    merged,
    read,
    rows_table,
    to_text,
    write,
)

RATIO = Bar("ratio", 1.25, is_least=True)
OURS = Bar("ours", 2.0, is_least=False)


def row(
    ours: tuple[float, ...], theirs: tuple[float, ...], bar: Bar | None = None, name: str = "any"
) -> ComparedRow:
    return ComparedRow(1, name, "tokens/s", ours, theirs, bar=bar)


def section(processor: str = "A", model: str = "m.gguf", date: str = "today") -> MachineSection:
    return MachineSection(
        processor,
        model,
        {"date": date, "cpus": 2},
        [row((2.0, 4.0), (1.0, 2.0), RATIO), row((3.0,), (), OURS, "alone")],
        {"1": {"rows": (1, 2), "milliseconds": (10.0, 11.5)}},
        {
            "1": [
                {"product": "int8", "is_exact": False, "milliseconds": (1.0, 2.0, 3.0)},
                {"product": "uint8", "is_exact": True, "milliseconds": (1.5, 2.5, 3.5)},
            ]
        },
    )


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert row((2.0, 30.0, 4.0), (1.0, 10.0, 1.0)).ratio == 3.0
    assert row((2.0,), ()).ratio is None
    assert row((2.0,), (0.0,)).ratio is None


@pytest.mark.parametrize(
    ("bar", "ours", "theirs", "is_met"),
    [
        (Bar("ratio", 1.25, is_least=True), (5.0,), (4.0,), True),
        (Bar("ratio", 1.25, is_least=True), (4.9,), (4.0,), False),
        (Bar("ratio", 1.0, is_least=False), (4.0,), (4.0,), True),
        (Bar("ratio", 1.0, is_least=False), (4.1,), (4.0,), False),
        (Bar("ours", 2.0, is_least=False), (1.0, 2.0, 9.0), (1.0,), True),
        (Bar("ours", 0.5, is_least=True), (0.4,), (0.1,), False),
        (Bar("ratio", 1.0, is_least=True), (4.0,), (), None),
        (Bar("ours", 1.0, is_least=True), (), (4.0,), None),
        (None, (4.0,), (4.0,), None),
    ],
)
def test_a_bar_judges_what_it_names(
    bar: Bar | None, ours: tuple[float, ...], theirs: tuple[float, ...], is_met: bool | None
):
    assert row(ours, theirs, bar).is_met is is_met


def test_the_table_shows_median_best_ratio_and_bar():
    lines = rows_table(section().rows)
    assert lines[2] == "| any, tokens/s | 3.00 (4.00) | 1.50 (2.00) | 2.00 | ≥ 1.25 × | met |"
    assert lines[3] == "| alone, tokens/s | 3.00 | – | – | ≤ 2 | **not met** |"


def test_the_report_says_what_was_measured_and_on_what():
    text = to_text([section()])
    assert text.startswith("# This engine beside llama.cpp\n")
    assert "## m.gguf on A" in text
    assert "date today, cpus 2." in text
    assert "### 1 thread\n" in text
    assert "| 1 | 10.0 | 11.5 |" in text
    assert "uint8 chosen; at 1 / 8 / 64 rows int8 1.0 / 2.0 / 3.0 ms (inexact), uint8" in text


def test_a_run_replaces_its_own_section_alone():
    old = [section("A"), section("B"), section("A", "other.gguf")]
    new = merged(old, section("A", date="tomorrow"))
    assert [each.key for each in new] == [("A", "m.gguf"), ("A", "other.gguf"), ("B", "m.gguf")]
    assert [each.conditions["date"] for each in new] == ["tomorrow", "today", "today"]


def test_what_was_written_is_read_again(tmp_path: Path):
    write(tmp_path, section("B"))
    write(tmp_path, section("A"))
    kept = read(tmp_path / JSON_FILE)
    assert [each.key for each in kept] == [("A", "m.gguf"), ("B", "m.gguf")]
    assert kept[0].rows == section("A").rows
    assert (tmp_path / TABLE_FILE).read_text("utf-8") == to_text(kept)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}', '{"format": 1, "sections": [{}]}'])
def test_results_that_cannot_be_read_are_not_overwritten(tmp_path: Path, content: str):
    (tmp_path / JSON_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"llamacpp\.json cannot be read"):
        write(tmp_path, section())
    assert (tmp_path / JSON_FILE).read_text("utf-8") == content


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert comparison.main(["--checkpoint", str(tmp_path / "none.gguf")]) == 1
    assert "none.gguf is not a file. Give a GGUF file" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        comparison.check(tmp_path)  # a folder is none either


def test_a_missing_xllamacpp_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "any.gguf"
    file.touch()
    monkeypatch.setattr(comparison.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install xllamacpp"):
        comparison.check(file)


def test_a_child_that_ends_leaves_its_last_words():
    with pytest.raises(EngineFailure, match=r"any ended: .*no_such_module"):
        Child("any", "engine.lab.bench.no_such_module", [], 60)


def test_a_file_that_llama_cpp_refuses_is_named(tmp_path: Path):
    pytest.importorskip("xllamacpp", reason="xllamacpp has no wheel for this system")
    file = tmp_path / "no.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    words = ["--checkpoint", str(file), "--threads", "1"]
    with pytest.raises(EngineFailure, match=r"llama\.cpp.*no\.gguf"):
        Child("llama.cpp", "engine.lab.bench.llamacpp.theirs", words, 60)


def test_asking_for_our_child_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import engine.lab.bench.llamacpp.ours"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


@pytest.mark.slow  # the real model
def test_a_quick_run_measures_every_row(real_model: Path, tmp_path: Path):
    pytest.importorskip("xllamacpp", reason="xllamacpp has no wheel for this system")
    out = tmp_path / "out"
    given = ["--checkpoint", str(real_model), "--threads", "1", "--quick", "--out", str(out)]
    assert comparison.main(given) == 0
    (kept,) = json.loads((out / JSON_FILE).read_text("utf-8"))["sections"]
    assert kept["model"] == real_model.name
    assert str(real_model.parent) not in (out / TABLE_FILE).read_text("utf-8")
    rows = {each["name"]: each for each in kept["rows"]}
    assert len([each for each in rows.values() if each["bar"]]) == 7
    assert all(value > 0 for each in rows.values() for value in each["ours"] + each["theirs"])
    assert all(each["ours"] and each["theirs"] for each in rows.values())
    assert kept["steps"]["1"]["rows"][0] == 1
    assert kept["products"]["1"]
