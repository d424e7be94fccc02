"""Drafts in place: how they are handed over, and messages that come late, twice or broken."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.vscode.conftest import Bench
from tests.vscode.editor import Frame

WHOLE = " = first + second"


def refined(bench: Bench, request: dict[str, Any], texts: Sequence[tuple[str, str]]) -> None:
    """Sends drafts one after another, each when the one before is on the screen."""
    for sequence, (committed, draft) in enumerate(texts, 1):
        bench.stub.draft(request, committed, draft, sequence=sequence)
        bench.shows_draft((committed + draft).split("\n")[0])


def while_visible(frames: list[Frame]) -> list[Frame]:
    """The frames from the first with something visible on."""
    first = next(index for index, frame in enumerate(frames) if not frame.is_blank)
    return frames[first:]


def longest_blank(frames: list[Frame]) -> int:
    """For how many painted frames at a stretch nothing was visible, after something was."""
    seen = while_visible(frames)
    return max(
        (after.number - frame.number for frame, after in pairwise(seen) if frame.is_blank),
        default=0,
    )


def test_a_draft_refines_and_becomes_ghost_text_without_a_blank(bench: Bench):
    request = bench.begin("|", "total")
    bench.record()
    states = [("", " ░░░"), (" =", " fi░░"), (" = first", " + ░░"), (WHOLE, "")]
    refined(bench, request, states)
    bench.stub.suggest(request, WHOLE + "\nprint(total)")
    bench.shows_ghost(WHOLE + "\nprint(total)")
    bench.shows_draft("")
    frames = bench.recorded()
    shown = [frame.draft for frame in frames if frame.draft]
    assert [
        text for text, after in zip(shown, [*shown[1:], None], strict=True) if text != after
    ] == [committed + draft for committed, draft in states]
    assert longest_blank(frames) <= 2
    assert not while_visible(frames)[-1].is_blank


@pytest.mark.parametrize(
    ("committed", "draft"), [(WHOLE, ""), ("", WHOLE), (" = first", " + second"), (" = ", "汉字")]
)
def test_a_draft_stands_exactly_where_the_ghost_text_comes_to_stand(
    bench: Bench, committed: str, draft: str
):
    request = bench.begin("|", "total")
    bench.stub.draft(request, committed, draft)
    bench.shows_draft(committed + draft)
    drawn = bench.call("placesOfDraft")
    assert len(drawn) == (2 if committed and draft else 1)
    bench.stub.suggest(request, committed + draft)
    bench.shows_ghost(committed + draft)
    bench.shows_draft("")
    for place, offset in zip(drawn, (0, len(committed)), strict=False):
        ghost = bench.call("placeOfGhost", offset)
        assert place["left"] == pytest.approx(ghost["left"], abs=0.6)
        assert place["middle"] == pytest.approx(ghost["middle"], abs=0.6)


def test_a_draft_that_begins_with_wide_characters_is_one_part(bench: Bench):
    """How wide they are, only the editor knows."""
    request = bench.begin("# |", "x")
    bench.stub.draft(request, "汉字", "漢字░")
    bench.shows_draft("汉字漢字░")
    assert len(bench.call("placesOfDraft")) == 1


def test_decided_and_undecided_text_look_different(bench: Bench):
    request = bench.begin("|", "total")
    bench.stub.draft(request, " = first", " + ░░")
    bench.shows_draft(" = first + ░░")
    first, rest = bench.call("decorations")
    assert (first["text"], rest["text"]) == (" = first", " + ░░")
    assert first["color"] != rest["color"]


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "other"},
        {"token": None},
        {"textDocument": {"uri": "file:///other.py", "version": 1}},
        {"textDocument": None},
        {"textDocument": "file"},
        {"sequence": 1},
        {"sequence": 0},
        {"sequence": "2"},
        {"committed": None},
        {"draft": 3},
        {"range": None},
        {"range": {"start": {"line": 5, "character": 0}, "end": {}}},
        {"range": {"start": {"line": 0, "character": 9}, "end": {"line": 0, "character": 9}}},
    ],
    ids=str,
)
def test_a_draft_that_is_not_for_this_place_changes_nothing(bench: Bench, changes: dict[str, Any]):
    request = bench.begin()
    bench.stub.draft(request, " good", sequence=1)
    bench.shows_draft(" good")
    bench.stub.draft(request, " good bad", sequence=2, changes=changes)
    bench.settle()
    assert bench.draft() == " good"


def test_a_draft_of_another_version_is_not_shown(bench: Bench):
    request = bench.begin()
    about = bench.stub.about(request, 1)["textDocument"]
    about["version"] -= 1
    bench.stub.draft(request, " bad", changes={"textDocument": about})
    bench.settle()
    assert bench.draft() == ""


def test_late_and_reordered_drafts_never_take_back_a_newer_one(bench: Bench):
    request = bench.begin()
    bench.record()
    for sequence in (3, 1, 2, 3):
        bench.stub.draft(request, f" draft {sequence}", sequence=sequence)
    bench.shows_draft(" draft 3")
    bench.settle()
    assert {frame.draft for frame in bench.recorded()} == {"", " draft 3"}


def test_a_draft_after_the_answer_changes_nothing(bench: Bench):
    request = bench.begin()
    bench.stub.suggest(request, " = final")
    bench.shows_ghost(" = final")
    bench.stub.draft(request, " = late", sequence=9)
    bench.settle()
    assert (bench.ghost(), bench.draft()) == (" = final", "")


def test_what_belongs_to_a_superseded_request_is_not_shown(bench: Bench):
    bench.stub.answers_cancelled = False
    first = bench.begin(typed="x")
    bench.stub.answers_cancelled = False
    second = bench.asked_after("y")
    bench.record()
    bench.stub.draft(first, " = late", sequence=9)
    bench.stub.suggest(first, " = late")
    bench.stub.suggest(second, " = 1")
    bench.shows_ghost(" = 1")
    bench.stub.draft(first, " = late", sequence=10)
    bench.settle()
    frames = bench.recorded()
    assert not any("late" in frame.ghost + frame.draft for frame in frames)


def test_answers_in_the_wrong_order(bench: Bench):
    first = bench.begin(typed="x")
    bench.stub.answers_cancelled = False
    second = bench.asked_after("y")
    bench.record()
    bench.stub.suggest(second, " = new")
    bench.stub.suggest(first, " = old")
    bench.shows_ghost(" = new")
    bench.settle()
    assert {frame.ghost for frame in bench.recorded()} <= {"", " = new"}


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        [{}],
        [{"insertText": 5}],
        [{"insertText": ""}],
        ["text"],
        {"items": "none"},
        [{"insertText": "a", "range": {"start": {"line": 99, "character": 0}, "end": None}}],
    ],
    ids=str,
)
def test_an_answer_that_makes_no_sense_shows_nothing_and_breaks_nothing(
    bench: Bench, result: object
):
    request = bench.begin()
    bench.stub.draft(request, " draft")
    bench.shows_draft(" draft")
    bench.stub.answer(request, result)
    bench.shows_draft("")
    bench.settle()
    assert bench.ghost() == ""
    bench.stub.suggest(bench.asked_after("y"), " = 1")
    bench.shows_ghost(" = 1")


def test_an_error_of_the_server_takes_the_draft_away(bench: Bench):
    request = bench.begin()
    bench.stub.draft(request, " draft")
    bench.shows_draft(" draft")
    bench.stub.refuse(request["id"], -32603, "it has failed")
    bench.shows_draft("")


def test_typing_what_a_draft_says_keeps_the_rest_of_it_visible(bench: Bench):
    request = bench.begin(typed="total")
    bench.stub.answers_cancelled = False
    bench.stub.draft(request, " = first", "░░")
    bench.shows_draft(" = first░░")
    bench.record()
    bench.type(" = ")
    bench.shows_draft("first░░")
    second = bench.stub.asked(2)
    bench.stub.draft(second, "first", " + sec░", sequence=1)
    bench.shows_draft("first + sec░")
    bench.stub.suggest(second, "first + second")
    bench.shows_ghost("first + second")
    bench.shows_draft("")
    frames = bench.recorded()
    assert longest_blank(frames) <= 2
    assert not any(frame.ghost.startswith(" =") for frame in frames)


def test_typing_something_else_takes_the_draft_away(bench: Bench):
    request = bench.begin(typed="total")
    bench.stub.draft(request, " = first")
    bench.shows_draft(" = first")
    bench.type(";")
    bench.shows_draft("")


def test_moving_away_takes_the_draft_away_and_its_answer_is_not_shown(bench: Bench):
    request = bench.begin("first\n|", "total")
    bench.stub.answers_cancelled = False
    bench.stub.draft(request, " = first")
    bench.shows_draft(" = first")
    bench.press("ArrowUp")
    bench.shows_draft("")
    bench.stub.suggest(request, " = first")
    bench.settle()
    assert (bench.ghost(), bench.draft()) == ("", "")


def test_only_the_first_line_of_a_draft_is_drawn(bench: Bench):
    request = bench.begin("|", "if x:")
    bench.stub.draft(request, "\n    return", " 1")
    bench.settle()
    assert bench.draft() == ""
    bench.stub.draft(request, "  # why\n    return", " 1", sequence=2)
    bench.shows_draft("  # why")


def test_a_draft_in_the_middle_of_a_line_moves_the_rest_of_it(bench: Bench):
    request = bench.begin("print(|)", "x")
    bench.stub.draft(request, ", ", "y░")
    bench.shows_draft(", y░")
    parts = bench.call("decorations")
    assert [part["text"] for part in parts] == [", ", "y░"]
    assert parts[0]["color"] != parts[1]["color"]
    bench.stub.suggest(request, ", y", replaced=0)
    bench.shows_ghost(", y")
