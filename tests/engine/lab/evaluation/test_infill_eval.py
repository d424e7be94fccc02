"""Held-out infilling figures: where holes lie, and what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.api import Finished, Usage
from engine.lab.data import examples
from engine.lab.data.corpus import Source
from engine.lab.data.examples import Pieces
from engine.lab.evaluation import infill_eval
from engine.lab.evaluation.infill_eval import KINDS, draw_holes, figures_table, main, measure

CODE = Path(examples.__file__).read_text("utf-8")
SOURCES = [Source("one", "a.py", CODE), Source("two", "b.py", CODE)]


def test_holes_lie_where_their_kind_says():
    for hole in draw_holes(SOURCES, 20):
        pieces = hole.pieces
        assert not (pieces.near + pieces.far)[:1].strip("\n")
        before = pieces.prefix.rsplit("\n", 1)[-1]
        assert bool(before.strip()) == (hole.kind in ("line_tail", "mid_word"))
        if hole.kind in ("whole_line", "multi_line"):
            assert not pieces.middle[:1].isspace()
        if hole.kind == "multi_line":
            assert pieces.middle.count("\n") < 4
        if hole.kind == "mid_word":
            assert (before[-1] + pieces.middle[0]).isidentifier() or before[-1].isdigit()


def test_every_package_gives_as_many_holes():
    from_two = sum(hole.source.startswith("two/") for hole in draw_holes(SOURCES, 10))
    assert from_two == len(KINDS) * 5


def test_figures_are_means_over_the_holes(monkeypatch: pytest.MonkeyPatch):
    answers = {
        "right": Finished("a\nb", "end", 1.0, Usage(tokens=4, forwards=2)),
        "half": Finished("a\nc", "end", 1.0, Usage(tokens=4, forwards=4)),
        "endless": Finished("x", "length", 1.0, Usage(tokens=8, forwards=2)),
        "empty": Finished("", "end", 1.0, Usage(tokens=1, forwards=0)),
    }
    holes = [infill_eval.Hole("multi_line", Pieces("", name, "", "a\nb")) for name in answers]
    monkeypatch.setattr(infill_eval, "to_request", lambda engine, pieces, *_: pieces.prefix)
    engine = SimpleNamespace(generate=answers.__getitem__)
    (figures,) = measure(engine, holes, ["ar"])  # type: ignore[arg-type]
    assert (figures.mode, figures.kind, figures.holes) == ("ar", "multi_line", 4)
    assert figures.exact == 0.25
    assert figures.first_line == 0.5
    assert figures.endless == 0.25
    assert figures.forwards == 2.0
    assert figures.tokens_per_forward == 17 / 8
    assert "| ar | multi line | 4 | 25.0% | 50.0% | 25.0% | 2.0 | 2.12 |" in figures_table(
        [figures]
    )


def test_a_language_without_held_out_files_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "held_out.jsonl").write_text(
        json.dumps({"package": "p", "path": "f.py", "text": "x = 1\n"}) + "\n"
    )
    assert main(["--corpus", str(tmp_path), "--language", "lua"]) == 1
    assert "lua" in capsys.readouterr().err
