"""What is said of one completion, and what of many."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.lab.evaluation.figures import by_kind, by_length, of_replays
from engine.lab.evaluation.metrics import (
    compare,
    count_words,
    edit_distance,
    has_wrong_length,
    length_bucket,
    percentile,
    similarity,
)
from engine.lab.evaluation.plot import draw
from engine.lab.evaluation.records import Record, ReplayRecord
from engine.lab.evaluation.report import to_markdown, to_object

TEXTS = st.text(alphabet="ab\n é", max_size=9)


def recursive_distance(one: str, other: str) -> int:
    """The definition, word for word."""

    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = of(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, replaced)

    return of(len(one), len(other))


@given(TEXTS, TEXTS)
def test_edit_distance_is_levenshteins(one: str, other: str) -> None:
    assert edit_distance(one, other) == recursive_distance(one, other)
    assert 0.0 <= similarity(one, other) <= 1.0
    assert (similarity(one, other) == 1.0) == (one == other)


@given(TEXTS, TEXTS)
def test_a_comparison_agrees_with_itself(one: str, other: str) -> None:
    found = compare(one, other)
    assert found.exact == (one.rstrip() == other.rstrip())
    assert compare(one, one).exact
    assert not has_wrong_length(one, one)
    if found.exact:
        assert found.first_line
        assert found.similarity == 1.0
        assert not found.wrong_length


def test_wrong_length_counts_lines_and_on_one_line_words() -> None:
    assert count_words("self.name = 1") == 5
    for completion, reference, is_wrong in (
        ("return x", "x = y", False),
        ("x = f(1)", "return y", True),
        ("x = f(1, 2)", "y", True),
        ("x", "y", False),
        ("", "y", False),
        ("", "y = f(x)", True),
        ("a\nb", "y", True),
        ("a\n\nb", "x\ny", False),
        ("a\nb\nc", "x\ny", True),
        ("a b c d e f g h i", "a b c d e f", False),
        ("a b c d e f g h i j", "a b c d e f", True),
    ):
        assert has_wrong_length(completion, reference) == is_wrong, (completion, reference)


def test_every_length_has_a_bucket() -> None:
    assert [length_bucket("a " * n) for n in (0, 3, 4, 8, 9, 20, 21, 999)] == [
        *("0-3 words", "0-3 words", "4-8 words", "4-8 words"),
        *("9-20 words", "9-20 words", "21+ words", "21+ words"),
    ]


def test_percentiles_are_values_that_were_there() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.95) == 95


def record(**changes: object) -> Record:
    fields = {
        "suite": "holes",
        "id": "1",
        "mode": "ar",
        "kind": "line",
        "bucket": "0-3 words",
        "text": "x",
        "exact": True,
        "first_line": True,
        "similarity": 1.0,
        "wrong_length": False,
        "ended": True,
        "outcome": None,
        "tokens": 4,
        "forwards": 2,
        "prompt_ms": 5.0,
        "ms": 10.0,
        **changes,
    }
    return Record(**fields)  # type: ignore[arg-type]


RECORDS = [
    record(),
    record(id="2", exact=False, similarity=0.5, ms=30.0, forwards=6, ended=False),
    record(id="3", kind="block", bucket="21+ words", outcome="passed", wrong_length=True),
    record(id="4", kind="block", bucket="21+ words", outcome="timeout"),
    record(mode="previous line", tokens=0, forwards=0, ms=None, prompt_ms=None, exact=False),
    ReplayRecord("replay", "a", "ar", 10, 1, 2, 3, 4, 1, 40, 50, 2, 1, (1.0, 2.0), 3, 2),
    ReplayRecord("replay", "b", "ar", 10, 3, 0, 3, 4, 1, 40, 50, 0, 0, (3.0,), 5, 3),
]


def test_figures_are_shares_and_means_of_the_records() -> None:
    lines, baseline, blocks, all_ar, all_baseline = by_kind(RECORDS)
    assert (lines.group, lines.mode, lines.tasks) == ("line", "ar", 2)
    assert (lines.exact, lines.first_line, lines.similarity) == (0.5, 1.0, 0.75)
    assert (lines.endless, lines.passed, lines.tokens_per_forward) == (0.5, None, 1.0)
    assert lines.tokens_per_second == 200.0  # 4 tokens in each 10 and 30 ms
    assert (lines.ms_p50, lines.ms_p95, lines.prompt_ms_p50) == (10.0, 30.0, 5.0)
    assert (baseline.mode, baseline.ms_p50, baseline.tokens_per_forward) == (
        *("previous line", None),
        None,
    )
    assert (blocks.passed, blocks.wrong_length) == (0.5, 0.5)
    assert (all_ar.group, all_ar.tasks, all_baseline.tasks) == ("all", 4, 1)
    assert [each.group for each in by_length(RECORDS)] == ["0-3 words"] * 2 + ["21+ words"]


def test_replay_figures_weigh_requests_not_files() -> None:
    (figures,) = of_replays(RECORDS)
    assert (figures.files, figures.asks) == (2, 20)
    assert (figures.right, figures.partly, figures.wrong, figures.silent) == (0.2, 0.1, 0.3, 0.4)
    assert figures.unwanted == 0.5
    assert abs(figures.keys_saved - 0.2) < 1e-9
    assert (figures.ms_p50, figures.ms_p95) == (2.0, 3.0)
    assert (figures.new, figures.new_right) == (8, 0.625)


def test_the_report_holds_every_figure() -> None:
    table = re.sub(" +", " ", to_markdown(RECORDS))
    row = "| line | ar | 2 | 50.0% | 100.0% | 0.75 | | 0.0% | 50.0% | 1.00 | 200.0 | 5 | 10 | 30 |"
    assert row in table
    assert (
        "| ar | 2 | 20 | 20.0% | 10.0% | 30.0% | 40.0% | 50.0% | 8 | 62.5% | 20.0% | 2 | 3 |"
        in table
    )
    for word in ("wrong length:", "keys saved:", "pass@1, previous line"):
        assert word in table
    assert "| 0-3 words | 1 | 100.0% |" in re.sub(" +", " ", to_markdown(RECORDS[:1]))
    assert to_markdown([]) == "\n"
    found = to_object({"seed": 7}, RECORDS)
    assert found["arguments"] == {"seed": 7}
    assert [len(found[name]) for name in ("kinds", "lengths", "replays")] == [5, 3, 1]  # type: ignore[arg-type]


def test_the_report_says_what_is_to_be_known_of_a_suite_and_what_auto_took() -> None:
    took = ("ar", "copy_spec", "copy_spec")
    records = [record(id=str(i), mode="auto", took=mode) for i, mode in enumerate(took)]
    records += [record(id=str(i), took="ar") for i in range(3)]
    records += [record(mode="block at 0.5", took="block"), record(mode="previous line")]
    table = to_markdown([*records, RECORDS[-1]], {"holes": "3 of 9 tasks.", "other": "Not here."})
    assert "## holes\n\n3 of 9 tasks.\n\n| kind" in table
    assert "Not here" not in table
    assert [line for line in table.split("\n") if " took " in line] == [
        "auto took copy_spec for 2, ar for 1 of 3 tasks."
    ]
    figures = {each.mode: each.took for each in by_kind(records)}
    assert figures["auto"] == {"copy_spec": 2, "ar": 1}
    assert figures["previous line"] == {}


def test_the_plot_joins_thresholds_and_stays_small(tmp_path: Path) -> None:
    records = [record(mode=f"block at {at}", ms=100 * at, exact=at > 0.6) for at in (0.5, 0.7, 0.9)]
    draw(by_kind([*records, *RECORDS[:1], RECORDS[4]]), tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert all(label in text for label in ("block at 0.5", "previous line", ">ar<"))
    assert len(text) < 200_000
    draw(by_kind([*records, *RECORDS[:1], RECORDS[4]]), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
