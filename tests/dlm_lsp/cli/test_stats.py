"""`dlm-lsp stats`: the figures of a known file, as a table and as an object, and their removal."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_lsp.cli.doctor import DoctorReport, _add_statistics
from dlm_lsp.cli.main import main
from dlm_lsp.settings.schema import load_settings
from dlm_lsp.statistics.file import StatisticsFile, read
from dlm_lsp.statistics.recorder import default_path
from dlm_lsp.statistics.rows import Change, Row
from tests.dlm_lsp.statistics.made import row


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file lies, which is not there yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return default_path()


def write(path: Path, *items: tuple[Row, Change | None]) -> None:
    file = StatisticsFile(path)
    file.write([one for one, _ in items], [change for _, change in items if change is not None])
    file.close()


def some() -> list[tuple[Row, Change | None]]:
    """Four suggestions of two languages and models: accepted, partly, dismissed, and unknown."""
    rows = [
        row(answer_ms=100.0, first_ms=50.0),
        row(answer_ms=300.0, first_ms=60.0, automatic=False),
        row(language="lua", answer_ms=200.0, first_ms=70.0, model="other-2b"),
        row(answer_ms=1.0, first_ms=1.0, source="cache"),
    ]
    return [
        (rows[0], Change(id=rows[0].id, fate="accepted", fate_ms=5.0, accepted=10, kept=8)),
        (rows[1], Change(id=rows[1].id, fate="partly", fate_ms=5.0, accepted=10, kept=2)),
        (rows[2], Change(id=rows[2].id, fate="dismissed", fate_ms=5.0)),
        (rows[3], None),
    ]


def taken(count: int, probability: float) -> list[tuple[Row, Change | None]]:
    rows = [row(line_probability=probability) for _ in range(count)]
    return [(one, Change(id=one.id, fate="accepted", fate_ms=9e2, accepted=9)) for one in rows]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["stats", *arguments]) == 0
    return capsys.readouterr().out


def test_without_a_file_it_says_so_and_makes_none(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys)
    assert "Nothing was shown" in text
    assert f"{path}, which is not there yet" in text
    found = json.loads(shown(capsys, "--json", "--days", "3"))
    assert (found["file"], found["days"], found["all"]["shown"]) == (str(path), 3, 0)
    assert not path.parent.exists()


def test_the_figures_are_those_of_the_rows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, *some())
    found = json.loads(shown(capsys, "--json"))
    assert found["all"] == {
        "shown": 4,
        "accepted": 1,
        "partly": 1,
        "typed": 0,
        "dismissed": 1,
        "keptShare": 0.5,
        "firstMs": [60.0, 70.0],
        "answerMs": [200.0, 300.0],
    }
    assert {name: one["shown"] for name, one in found["languages"].items()} == {
        "python": 3,
        "lua": 1,
    }
    assert set(found["models"]) == {"real-1b, ar", "other-2b, ar"}
    assert {name: one["shown"] for name, one in found["kinds"].items()} == {
        "while typing": 3,
        "on request": 1,
    }
    assert (found["recorded"], found["tunes"]) == (True, True)


def test_the_table_is_for_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, *some())
    lines = shown(capsys).splitlines()
    assert lines[0].split() == [
        *("shown", "accepted", "partly", "kept", "typed", "dismissed", "first", "text", "answer")
    ]
    assert lines[1].split()[:9] == [
        *("all", "4", "1", "(25%)", "1", "(25%)", "50%", "0", "1"),
    ]
    assert any(line.lstrip().startswith("real-1b, ar") for line in lines)
    known = "real-1b: silence.confidence auto is 0.4: Suggestions known here: 1;"
    assert any(line.startswith(known) for line in lines)
    assert lines[-1].endswith(f"are in {path}.")


def test_days_leave_out_what_is_older(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = replace(row(), time=row().time - 5 * 86_400)
    write(path, (old, None), (row(), None))
    assert json.loads(shown(capsys, "--json"))["all"]["shown"] == 2
    assert json.loads(shown(capsys, "--json", "--days", "2"))["all"]["shown"] == 1


def test_what_was_tuned_and_why_is_told_here_and_by_the_doctor(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(path, *taken(250, 0.41))
    tuned = json.loads(shown(capsys, "--json"))["tuned"]["real-1b"]
    assert (tuned["shown"], tuned["confidence"], tuned["stretch"]) == (250, 0.35, 1.0)
    reason = "Instead of 0.4: of 250 suggestions from 0.40 to 0.45 250 were taken, at least 25%."
    assert tuned["why"] == reason
    assert f"silence.confidence auto is 0.35: {reason}" in shown(capsys)
    for options, facts in (
        ({}, {"file", "confidence", "delay"}),
        ({"statistics": {"tune": False}}, {"file", "tuned"}),
    ):
        report = DoctorReport()
        options = {"engine": {"url": "http://127.0.0.1:9"}, **options}
        write(path, *((replaced(one), change) for one, change in taken(250, 0.41)))
        _add_statistics(report, load_settings(options))
        found = {fact.name: fact for fact in report.sections["statistics"]}
        assert set(found) == facts
        assert found["file"].value == str(path)
        if "confidence" in facts:
            assert (found["confidence"].value, found["confidence"].why) == ("0.35", reason)


def replaced(one: Row) -> Row:
    """The row of a host at a URL, the only model of which no store is asked."""
    return replace(one, model="remote")


def test_settings_that_switch_it_off_are_told(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config" / "dlm-lsp"
    config.mkdir(parents=True)
    (config / "dlm-lsp.toml").write_text("[statistics]\nenabled = false\ntune = false\n")
    write(path, *some())
    text = shown(capsys)
    assert "statistics.enabled is false" in text
    assert "These are not used: statistics.tune is false" in text


def test_the_file_is_removed_only_if_that_is_confirmed(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, *some())
    assert main(["stats", "--delete"]) == 2, "nobody is there to be asked"
    assert "Add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, code in (("n", 1), ("", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert len(read(path)) == 4
        assert main(["stats", "--delete"]) == code
    assert not path.exists()
    assert "is removed" in capsys.readouterr().out
    write(path, *some())
    path.with_name("statistics.sqlite3.damaged").write_text("old")
    assert json.loads(shown(capsys, "--delete", "--yes", "--json")) == {
        "file": str(path),
        "deleted": True,
    }
    assert list(path.parent.iterdir()) == []
    assert "There is no" in shown(capsys, "--delete")


def test_a_python_without_sqlite_has_no_statistics_and_all_else(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dlm_lsp.cli.stats", "dlm_lsp.statistics.file"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("dlm_lsp.cli.stats", raising=False)
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    assert main(["stats"]) == 2
    assert "There are no statistics" in capsys.readouterr().err
    report = DoctorReport()
    _add_statistics(report, load_settings({}))
    assert report.sections["statistics"][0].value == "none"
    assert report.problems == []


def test_a_damaged_file_is_named_with_its_remedy(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database " * 1000)
    assert main(["stats"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert "dlm-lsp stats --delete" in error
    report = DoctorReport()
    _add_statistics(report, load_settings({}))
    assert any(str(path) in problem for problem in report.problems)
