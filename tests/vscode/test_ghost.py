"""Ghost text: what Tab inserts, typing on it, parts of it, undo, and what else may be open."""

from __future__ import annotations

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import Bench
from tests.vscode.stub import items

LINES = " = first + second\nprint(total)"


@pytest.mark.parametrize(
    ("before", "typed", "text"),
    [
        ("|", "total", " = first"),
        ("|", "total", LINES),
        ("    |", "x", " = 1\n    y = 2\n\n    return x + y"),
        ("\t|", "x", " = [\n\t\t1,\n\t]"),
        ("name = '|", "é", " — ünïcode ✓'"),
        ("# 漢字 |", "漢", "字かな 한글"),
        ("# 🙂🙂 |", "x", " 👩‍👩‍👧 🇩🇪 done 🙂"),
        ("x = 1\r\n|\r\nz = 3\r\n", "y", " = 2"),
        ("x = 1\r\n|\r\nz = 3\r\n", "y", " = 2\nw = 4"),
    ],
)
def test_tab_inserts_exactly_what_is_shown(bench: Bench, before: str, typed: str, text: str):
    request = bench.begin(before, typed)
    bench.stub.suggest(request, text)
    # A tabulator is drawn as blanks.
    wait_for(lambda: bench.ghost().split() == text.split(), f"{text!r} is shown")
    assert len(bench.ghost().split("\n")) == len(text.split("\n"))
    bench.press("Tab")
    line_end = "\r\n" if "\r\n" in before else "\n"
    inserted = (typed + text).replace("\n", line_end)
    bench.has_text(before.replace("|", inserted))
    accepted = bench.stub.commanded("dlm.accepted")["params"]["arguments"]
    assert accepted == [{"id": "1", "kind": "full"}]


def test_escape_takes_it_away_and_inserts_nothing(bench: Bench):
    bench.stub.suggest(bench.begin(), " = 1")
    bench.shows_ghost(" = 1")
    bench.press("Escape")
    bench.shows_ghost("")
    assert bench.text() == "x"


def test_a_word_is_accepted_and_the_rest_stays(bench: Bench):
    bench.stub.suggest(bench.begin("|", "total"), LINES)
    bench.shows_ghost(LINES)
    asked = len(bench.stub.requests())
    while bench.text() != "total = first":
        before = bench.text()
        bench.press("Control+ArrowRight")
        wait_for(lambda before=before: bench.text() != before, "a word is accepted")
        taken = bench.text()
        assert ("total" + LINES).startswith(taken)
        bench.shows_ghost(("total" + LINES).removeprefix(taken))
    told = [one["params"]["arguments"][0] for one in bench.stub.commands("dlm.accepted")]
    assert told[-1] == {"id": "1", "kind": "word", "length": len(" = first")}
    assert len(bench.stub.requests()) == asked
    bench.press("Tab")
    bench.has_text("total" + LINES)


def test_a_line_is_accepted_and_the_rest_stays(bench: Bench):
    bench.stub.suggest(bench.begin("|", "total"), LINES)
    bench.shows_ghost(LINES)
    bench.press("Control+Alt+ArrowRight")
    wait_for(lambda: bench.text().startswith("total = first + second"), "a line is accepted")
    bench.settle()
    rest = ("total" + LINES).removeprefix(bench.text())
    assert rest
    bench.shows_ghost(rest)
    bench.press("Tab")
    bench.has_text("total" + LINES)


def test_typing_what_is_shown_asks_nothing_and_never_blanks(bench: Bench):
    bench.stub.suggest(bench.begin("|", "total"), " = first + second")
    bench.shows_ghost(" = first + second")
    asked = len(bench.stub.requests())
    bench.record()
    for typed in range(1, len(" = first") + 1):
        bench.type(" = first"[typed - 1])
        bench.shows_ghost(" = first + second"[typed:])
    bench.settle()
    frames = bench.recorded()
    assert not any(frame.is_blank for frame in frames)
    assert len(bench.stub.requests()) == asked
    bench.press("Tab")
    bench.has_text("total = first + second")


def test_removing_what_was_typed_on_it_brings_it_back(bench: Bench):
    bench.stub.suggest(bench.begin("|", "total"), " = first")
    bench.shows_ghost(" = first")
    bench.type(" =")
    bench.shows_ghost(" first")
    bench.press("Backspace")
    bench.shows_ghost("= first")


def test_typing_something_else_takes_it_away_at_once(bench: Bench):
    bench.stub.suggest(bench.begin("|", "total"), " = first")
    bench.shows_ghost(" = first")
    bench.record()
    second = bench.asked_after(";")
    bench.shows_ghost("")
    bench.stub.suggest(second, " done")
    bench.shows_ghost(" done")
    assert {frame.ghost for frame in bench.recorded()} <= {" = first", "", " done"}


def test_one_undo_takes_back_what_was_accepted(bench: Bench):
    bench.stub.suggest(bench.begin("x = 1\n|", "y"), " = 2\nz = 3")
    bench.shows_ghost(" = 2\nz = 3")
    bench.press("Tab")
    bench.has_text("x = 1\ny = 2\nz = 3")
    bench.press("Control+z")
    bench.has_text("x = 1\ny")


def test_a_bracket_that_the_editor_has_closed_is_replaced(bench: Bench):
    bench.fresh("|")
    request = bench.asked_after("print(")
    wait_for(lambda: bench.text() == "print()", "the bracket is closed")
    bench.stub.suggest(request, "x, y)", replaced=1)
    wait_for(lambda: bench.ghost().startswith("x, y"), "it is shown")
    bench.press("Tab")
    bench.has_text("print(x, y)")


def test_alternatives_are_cycled_through(bench: Bench):
    request = bench.begin()
    bench.stub.suggest(request, " = 1")
    bench.shows_ghost(" = 1")
    bench.start("editor.action.inlineSuggest.trigger")
    invoked = bench.stub.asked(2)
    assert invoked["params"]["context"]["triggerKind"] == 1
    bench.stub.suggest(invoked, " = 1", " = 2", " = 3")
    bench.settle()
    bench.press("Alt+]")
    bench.shows_ghost(" = 2")
    bench.press("Alt+[")
    bench.shows_ghost(" = 1")
    bench.press("Alt+]", "Tab")
    bench.has_text("x = 2")
    told = bench.stub.commanded("dlm.accepted")["params"]["arguments"]
    assert told[0]["id"] == "2"


def test_the_entry_that_the_menu_has_selected_is_asked_about(bench: Bench):
    bench.fresh("first_name = 1\n|", editor__wordBasedSuggestions="currentDocument")
    bench.type("fir")
    bench.command("editor.action.triggerSuggest")
    bench.page.wait_for_selector(".suggest-widget.visible .monaco-list-row")

    def with_entry() -> object:
        found = [
            one
            for one in bench.stub.requests()
            if one["params"]["context"].get("selectedCompletionInfo")
        ]
        return found[-1] if found else None

    request = wait_for(with_entry, "a request with the menu's entry")
    selected = request["params"]["context"]["selectedCompletionInfo"]
    assert selected["text"] == "first_name"
    assert "workDoneToken" not in request["params"]
    bench.stub.suggest(request, "first_name + 1", at=0)
    bench.shows_ghost("st_name + 1")
    bench.press("Tab")
    wait_for(lambda: bench.text().endswith("\nfirst_name"), "the menu's entry is taken")


def test_in_a_snippet_tab_goes_to_the_next_place(bench: Bench):
    """As VS Code wants it: `editor.inlineSuggest.suppressInSnippetMode` is on by default."""
    bench.fresh("|")
    bench.command("editor.action.insertSnippet", {"snippet": "call(${1:a}, ${2:b})$0"})
    wait_for(lambda: bench.text() == "call(a, b)", "the snippet is there")
    bench.type("q")
    request = bench.stub.asked()
    bench.stub.draft(request, "ui", "ck")
    bench.stub.suggest(request, "uick")
    bench.settle()
    assert bench.ghost() == ""
    assert bench.draft() == ""
    bench.press("Tab")
    bench.type("z")
    bench.has_text("call(q, z)")
    bench.press("Tab")
    bench.stub.suggest(bench.asked_after(";"), " done()")
    bench.shows_ghost(" done()")
    bench.press("Tab")
    bench.has_text("call(q, z); done()")


def test_several_cursors_each_get_what_is_shown_or_nothing(bench: Bench):
    bench.fresh("a = 1\na = 1\na = 1|")
    bench.command("editor.action.insertCursorAbove")
    bench.type("2")
    bench.has_text("a = 1\na = 12\na = 12")
    request = wait_for(lambda: (bench.stub.requests() or [None])[-1], "a request")
    bench.stub.draft(request, "3")
    bench.settle()
    assert bench.draft() == ""
    bench.stub.suggest(request, "34")
    bench.settle()
    shown = bench.ghost()
    bench.press("Tab")
    bench.settle()
    lines = bench.text().split("\n")
    assert lines[0] == "a = 1"
    assert lines[1] == lines[2]
    if shown:
        assert lines[2] == "a = 1234"


def test_a_file_of_many_lines(bench: Bench):
    many = "".join(
        f"value_{number} = {number}  # a line of a long file\n" for number in range(20_000)
    )
    request = bench.begin(many + "|", "total")
    assert request["params"]["position"]["line"] == 20_000
    bench.stub.draft(request, " = su")
    bench.shows_draft(" = su")
    bench.stub.suggest(request, " = sum()")
    bench.shows_ghost(" = sum()")
    bench.press("Tab")
    wait_for(lambda: bench.text().endswith("\ntotal = sum()"), "it is inserted")


def test_a_suggestion_that_is_not_for_this_place_is_not_shown(bench: Bench):
    request = bench.begin("first = 1\n|", "x")
    elsewhere = items(request, "elsewhere")
    elsewhere[0]["range"] = {
        "start": {"line": 0, "character": 0},
        "end": {"line": 0, "character": 0},
    }
    bench.stub.answer(request, elsewhere)
    bench.settle()
    assert bench.ghost() == ""


def test_too_short_a_suggestion_is_not_shown_by_setting(bench: Bench):
    request = bench.begin("|", "x", dlm__minimumLength=4)
    bench.stub.suggest(request, " = 1")
    bench.settle()
    assert bench.ghost() == ""
    bench.stub.suggest(bench.asked_after("y"), " = 12")
    bench.shows_ghost(" = 12")
