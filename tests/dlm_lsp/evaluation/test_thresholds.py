"""The table of silence's thresholds, from logs to rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.evaluation.shown import (
    PLACE_KINDS,
    PlaceKind,
    Shown,
    ShownInFile,
    Verdict,
    place_kind,
    write,
)
from dlm_lsp.evaluation.thresholds import (
    THRESHOLDS,
    fresh_suggestions,
    half_of,
    main,
    rows_of,
    separation,
)

VERDICTS: tuple[Verdict, ...] = ("right", "partly", "wrong", "unwanted")


def shown(
    verdict: Verdict,
    *lines: tuple[str, float],
    same: int = 0,
    kind: PlaceKind = "behind",
    is_cached: bool = False,
) -> Shown:
    text, logprobs = "", list[tuple[int, float]]()
    for line, probability in lines:
        text += ("\n" if text else "") + line
        logprobs.append((len(text), math.log(probability)))
    return Shown(verdict, kind, text, tuple(logprobs), same, True, is_cached)


suggestions = st.builds(
    shown,
    st.sampled_from(VERDICTS),
    st.tuples(st.sampled_from(["a", "bc = d"]), st.floats(0.01, 1)),
    st.tuples(st.sampled_from(["e", "    f"]), st.floats(0.01, 1)),
    same=st.integers(0, 8),
    kind=st.sampled_from(PLACE_KINDS),
)


@given(st.lists(suggestions, min_size=1, max_size=12))
def test_a_higher_threshold_shows_less_and_every_suggestion_counts_once(
    found: list[Shown],
) -> None:
    rows = rows_of(found, THRESHOLDS)
    for kind in {row.kind for row in rows}:
        of_kind = [row for row in rows if row.kind == kind]
        size = len(found) if kind is None else sum(one.kind == kind for one in found)
        assert {row.shown + row.silent for row in of_kind} == {size}
        assert len({row.line + row.silent_line for row in of_kind}) == 1
        numbers = [row.shown for row in of_kind]
        assert numbers == sorted(numbers, reverse=True)
        assert all(row.right <= row.shown and row.line <= row.shown for row in of_kind)


def test_rows_of_an_example() -> None:
    found = [
        shown("right", ("a = 1", 0.9)),
        shown("partly", ("b = 2", 0.6), ("no", 0.5), same=6),
        shown("wrong", ("c = 3", 0.4)),
        shown("partly", ("d = 4", 0.1), same=5),
    ]
    everything, some, few = rows_of(found, (0, 0.5, 0.95))[-3:]
    assert (everything.shown, everything.right, everything.line, everything.wrong) == (4, 1, 3, 1)
    # The second line of the second one is not shown, so that all of it is right.
    assert (some.shown, some.right, some.line, some.wrong) == (2, 2, 2, 0)
    assert (some.silent, some.silent_line, some.characters) == (2, 1, 8)
    assert (few.shown, few.silent, few.silent_line) == (0, 4, 3)
    assert separation(found)["probability of the first line"] == pytest.approx(2 / 3, abs=1e-3)
    assert separation(found[:1]) == {}


def test_the_command_reads_logs_and_splits_them_by_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        ShownInFile(f"own/{number}.py", "ar", 1, 0, (shown("right", ("a", 0.5)),))
        for number in range(20)
    ]
    cached = shown("right", ("a", 0.5), is_cached=True)
    for file in [*files, ShownInFile("own/typed.py", "ar", 1, 0, (cached,))]:
        write(tmp_path, file)
    totals: dict[str, int] = {}
    for half in ("calibration", "test", "all"):
        assert main([str(tmp_path), "--half", half, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        totals[half] = rows[-1]["shown"] + rows[-1]["silent"]
    assert totals["test"] == sum(half_of(file.id) == "test" for file in files) > 0
    assert totals["calibration"] + totals["test"] == totals["all"] == 20
    assert len(fresh_suggestions(files, "all")) == 20
    assert main([str(tmp_path)]) == 0
    assert "| 0.5 | 20 | 20 | 20 (100%) | 0 | 0 | 0 | 0 |" in capsys.readouterr().out
    assert main([str(tmp_path), "--mode", "block"]) == 0
    assert capsys.readouterr().out.startswith("0 suggestions in 0 files (all).")
    assert main([str(tmp_path / "none")]) == 2
    assert "suggestions.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "behind", "kind"),
    [("    ", "", "blank"), ("    y", "", "behind"), ("f(", ")", "inside"), ("", "a)", "inside")],
)
def test_kinds_of_places(before: str, behind: str, kind: str) -> None:
    assert place_kind(before, behind) == kind
