"""*Fill Here* and *Refine Selection*: growing, accepted, rejected, cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import Bench
from tests.vscode.stub import edit

BODY = "total = 0\nfor value in values:\n    total += value\nreturn total"
WRONG = "def mean(values):\n    total = 0\n    for value in values:\n        total -= value\n"
SELECT = """
const [a, b, c, d] = values;
vscode.window.activeTextEditor.selection = new vscode.Selection(a, b, c, d);
"""


def begin_fill(bench: Bench, text: str = "|") -> dict[str, Any]:
    """Asks for a fill by its key; returns the server's request."""
    bench.fresh(text)
    bench.press("Control+Alt+Space")
    return bench.stub.commanded("dlm.fill")


def place_of(request: dict[str, Any]) -> dict[str, Any]:
    return {"params": {"position": request["params"]["arguments"][0]["position"]}}


def grow(bench: Bench, request: dict[str, Any], committed: str, draft: str, sequence: int) -> None:
    """Sends a draft of a fill."""
    position = request["params"]["arguments"][0]["position"]
    message = {
        **bench.stub.about(request, sequence),
        "position": position,
        "range": {"start": position, "end": position},
        "committed": committed,
        "draft": draft,
        "spans": [],
        "final": False,
    }
    bench.stub.notify("dlm/draft", message)


def filled(bench: Bench, request: dict[str, Any], text: str) -> None:
    """Answers a fill."""
    argument = request["params"]["arguments"][0]
    at = argument["position"]
    place = (at["line"], at["character"], at["line"], at["character"])
    answer = edit(argument["uri"], bench.stub.version(argument["uri"]), (place, text))
    bench.stub.answer(request, {"edit": answer, "applied": False, "reason": None})


def test_a_fill_grows_and_tab_inserts_it(bench: Bench):
    request = begin_fill(bench)
    assert request["params"]["arguments"][0]["limits"] == {"tokensMax": 512}
    grow(bench, request, "tot", "al = ░", 1)
    bench.shows_draft("total = ░")
    grow(bench, request, "total = 0\nfor", " ░░", 2)
    bench.shows_ghost("total = 0")
    grow(bench, request, BODY[:-6], "░", 3)
    wait_for(lambda: "total += value" in bench.ghost(), "more lines")
    filled(bench, request, BODY)
    bench.shows_ghost(BODY)
    assert bench.text() == ""
    bench.press("Tab")
    bench.has_text(BODY)
    bench.press("Control+z")
    bench.has_text("")


def test_a_fill_is_rejected_by_escape_and_cancelled(bench: Bench):
    request = begin_fill(bench, "x = 1\n|")
    grow(bench, request, "total = 0\nfor", " ░░", 1)
    bench.shows_ghost("total = 0")
    bench.press("Escape")
    bench.shows_ghost("")
    wait_for(lambda: bench.stub.is_cancelled(request), "the server is told")
    bench.settle()
    assert bench.text() == "x = 1\n"
    assert (bench.ghost(), bench.draft()) == ("", "")


def test_a_final_fill_is_rejected_by_escape(bench: Bench):
    request = begin_fill(bench)
    filled(bench, request, BODY)
    bench.shows_ghost(BODY)
    bench.press("Escape")
    bench.shows_ghost("")
    assert bench.text() == ""


def test_a_fill_that_gives_nothing_says_why(bench: Bench):
    request = begin_fill(bench)
    bench.stub.answer(
        request, {"edit": None, "applied": False, "reason": "the model wrote nothing"}
    )
    assert "the model wrote nothing" in bench.notified("Nothing to fill here")


def test_a_fill_ends_when_the_cursor_moves_away(bench: Bench):
    request = begin_fill(bench, "x = 1\n|")
    grow(bench, request, "", "total ░", 1)
    bench.shows_draft("total ░")
    bench.press("ArrowUp")
    bench.shows_draft("")
    wait_for(lambda: bench.stub.is_cancelled(request), "the server is told")


def test_a_crash_in_the_middle_of_a_fill_leaves_nothing(bench: Bench):
    request = begin_fill(bench)
    grow(bench, request, "", "total ░", 1)
    bench.shows_draft("total ░")
    starts = bench.stub.starts
    bench.stub.crash()
    bench.shows_draft("")
    bench.notified("language server has gone")
    wait_for(lambda: bench.stub.starts > starts, "it is started again")
    wait_for(lambda: "Model: scripted" in bench.status()[1], "it runs")
    assert bench.text() == ""


def begin_refine(
    bench: Bench, text: str = WRONG, selection: Sequence[int] = (3, 0, 3, 22)
) -> dict[str, Any]:
    """Selects and asks for a refinement by its key; returns the server's request."""
    bench.fresh(text)
    bench.driver.run(SELECT, *selection)
    wait_for(lambda: bench.texts(".statusbar-item") and _is_selected(bench), "a selection")
    bench.press("Control+Alt+r")
    return bench.stub.commanded("dlm.refine")


def _is_selected(bench: Bench) -> bool:
    return any("selected" in one for one in bench.texts(".statusbar-item"))


def refine_state(
    bench: Bench,
    request: dict[str, Any],
    text: str,
    sequence: int,
    changes: dict[str, Any] | None = None,
) -> None:
    """Sends a state of a refinement; `changes` replaces fields of it."""
    argument = request["params"]["arguments"][0]
    message = {
        **bench.stub.about(request, sequence),
        "token": argument["token"],
        "range": argument["range"],
        "text": text,
        "spans": [{"start": 14, "end": 16, "confidence": 0.1}],
        "final": False,
        **(changes or {}),
    }
    bench.stub.notify("dlm/refinement", message)


def refined(
    bench: Bench, request: dict[str, Any], text: str | None, reason: str | None = None
) -> None:
    """Answers a refinement."""
    argument = request["params"]["arguments"][0]
    start, end = argument["range"]["start"], argument["range"]["end"]
    place = (start["line"], start["character"], end["line"], end["character"])
    uri = argument["textDocument"]["uri"]
    made = None if text is None else edit(uri, bench.stub.version(uri), (place, text))
    bench.stub.answer(request, {"edit": made, "applied": False, "reason": reason})


def shows_change(bench: Bench, part: str) -> None:
    wait_for(lambda: part in bench.draft(), f"{part} is drawn")


def test_a_refinement_is_shown_and_accepted_in_one_step(bench: Bench):
    request = begin_refine(bench)
    shows_change(bench, "refining")
    refine_state(bench, request, "        total ░░ value", 1)
    shows_change(bench, "░░")
    refined(bench, request, "        total += value")
    shows_change(bench, "accepts")
    assert "+=" in bench.draft()
    assert bench.text() == WRONG
    removed = bench.page.query_selector_all('.view-line [class*="TextEditorDecorationType"]')
    assert any(
        "line-through" in one.evaluate("e => getComputedStyle(e).textDecoration") for one in removed
    )
    bench.press("Enter")
    bench.has_text(WRONG.replace("-=", "+="))
    bench.shows_draft("")
    bench.press("Control+z")
    bench.has_text(WRONG)


def test_a_refinement_is_rejected(bench: Bench):
    request = begin_refine(bench)
    refined(bench, request, "        total += value")
    shows_change(bench, "accepts")
    bench.press("Escape")
    bench.shows_draft("")
    assert bench.text() == WRONG


def test_a_running_refinement_is_cancelled(bench: Bench):
    request = begin_refine(bench)
    refine_state(bench, request, "        total ░░ value", 1)
    shows_change(bench, "░░")
    bench.press("Escape")
    bench.shows_draft("")
    wait_for(lambda: bench.stub.is_cancelled(request), "the server is told")
    assert bench.text() == WRONG


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "other"},
        {"sequence": 1},
        {"text": None},
        {"textDocument": {"uri": "file:///other.py", "version": 1}},
        {"range": {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 3}}},
    ],
    ids=str,
)
def test_a_state_that_is_not_of_the_refinement_changes_nothing(
    bench: Bench, changes: dict[str, Any]
):
    request = begin_refine(bench)
    refine_state(bench, request, "        total ░░ value", 1)
    shows_change(bench, "░░")
    shown = bench.draft()
    refine_state(bench, request, "        bad value", 2, changes)
    bench.settle()
    assert bench.draft() == shown
    bench.press("Escape")


def test_an_edit_drops_the_refinement_and_it_is_never_applied(bench: Bench):
    request = begin_refine(bench)
    bench.stub.answers_cancelled = False
    refine_state(bench, request, "        total ░░ value", 1)
    shows_change(bench, "░░")
    bench.driver.run(
        "await vscode.window.activeTextEditor.edit((edit) =>"
        " edit.insert(new vscode.Position(0, 0), '# above\\n'))"
    )
    bench.shows_draft("")
    bench.notified("The text has changed")
    refined(bench, request, "        total += value")
    bench.settle()
    assert bench.text() == "# above\n" + WRONG


def test_a_refinement_that_finds_nothing_says_why(bench: Bench):
    request = begin_refine(bench)
    refined(bench, request, None, "the model finds nothing to change")
    assert "the model finds nothing to change" in bench.notified("Nothing is refined")
    bench.shows_draft("")


def test_a_crash_in_the_middle_of_a_refinement_is_said(bench: Bench):
    request = begin_refine(bench)
    refine_state(bench, request, "        total ░░ value", 1)
    shows_change(bench, "░░")
    starts = bench.stub.starts
    bench.stub.crash()
    bench.shows_draft("")
    bench.notified("language server has gone")
    wait_for(lambda: bench.stub.starts > starts, "it is started again")
    wait_for(lambda: "Model: scripted" in bench.status()[1], "it runs")
    assert bench.text() == WRONG


def test_several_lines_are_refined(bench: Bench):
    text = "def f(a):\r\n    b = a - 1\r\n    return b - 1\r\n"
    request = begin_refine(bench, text, (1, 0, 2, 16))
    refined(bench, request, "    b = a + 1\n    return b + 1")
    shows_change(bench, "accepts")
    bench.press("Enter")
    bench.has_text(text.replace("- 1", "+ 1"))
