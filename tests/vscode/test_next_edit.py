"""*Suggest the Next Edit*: shown where it is, accepted, rejected, or said why there is none."""

from __future__ import annotations

from typing import Any

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import Bench
from tests.vscode.stub import edit

TEXT = "def mean(numbers):|\n" + "\n" * 80 + "    return sum(values) / len(values)\n"
LINE = 81
CURSOR = """
const { selection: { active }, visibleRanges } = vscode.window.activeTextEditor;
const isSeen = visibleRanges.some((range) => range.contains(new vscode.Position(values[0], 0)));
return [active.line, active.character, isSeen];
"""


def ask(bench: Bench, text: str = TEXT) -> dict[str, Any]:
    """Asks for the next edit by its key; returns the server's request."""
    bench.fresh(text)
    bench.press("Control+Alt+n")
    return bench.stub.commanded("dlm.nextEdit")


def answer(bench: Bench, request: dict[str, Any]) -> None:
    """Answers that the first `values` of the last line is another name."""
    uri = request["params"]["arguments"][0]["textDocument"]["uri"]
    made = edit(uri, bench.stub.version(uri), ((LINE, 15, LINE, 21), "numbers"))
    bench.stub.answer(request, {"edit": made, "applied": False, "reason": None})


def is_proposed(bench: Bench) -> bool:
    return "numbers" in bench.draft() and "accepts" in bench.draft()


def test_the_next_edit_is_shown_where_it_is_and_accepted(bench: Bench):
    request = ask(bench)
    argument = request["params"]["arguments"][0]
    assert argument["position"] == {"line": 0, "character": 18}
    answer(bench, request)
    wait_for(lambda: is_proposed(bench), "the change is seen")
    wait_for(lambda: bench.driver.run(CURSOR, LINE)[2], "it is in view")
    assert bench.driver.run(CURSOR, LINE)[0] == 0, "the cursor stays"
    before = bench.text()
    bench.press("Enter")
    bench.has_text(before.replace("sum(values)", "sum(numbers)"))
    assert bench.driver.run(CURSOR, LINE)[:2] == [LINE, 22], "the cursor is behind it"
    bench.press("Control+z")
    bench.has_text(before)


def test_the_next_edit_is_rejected(bench: Bench):
    request = ask(bench)
    answer(bench, request)
    wait_for(lambda: is_proposed(bench), "the change is seen")
    before = bench.text()
    bench.press("Escape")
    bench.shows_draft("")
    assert bench.text() == before


def test_an_edit_meanwhile_drops_it(bench: Bench):
    request = ask(bench)
    before = bench.text()
    bench.type("x")
    wait_for(lambda: bench.text() != before, "the key has come")
    answer(bench, request)
    bench.notified("The text has changed meanwhile")
    assert not is_proposed(bench)


def test_without_one_it_says_why(bench: Bench):
    request = ask(bench)
    reason = "Change something first; the next edit follows from that."
    bench.stub.answer(request, {"edit": None, "applied": False, "reason": reason})
    assert reason in bench.notified("Change something first")
