"""`:Dlm fill`: a long completion that streams in as a draft, to accept or to drop."""

from __future__ import annotations

from typing import Any

from tests.nvim.plugin import Plugin

EXECUTE = "workspace/executeCommand"


def filling(plugin: Plugin, text: str = "def f():\n    |\nend", **options: Any) -> dict[str, Any]:
    """Runs the command in normal mode; returns its request in the form of a completion's."""
    plugin.fresh(text, **options)
    plugin.nvim.api.command("Dlm fill")
    plugin.wait(lambda: plugin.commands("dlm.fill"), "the server is asked")
    message = next(m for m in plugin.requests(EXECUTE) if m["params"]["command"] == "dlm.fill")
    argument = message["params"]["arguments"][0]
    return {
        "id": message["id"],
        "params": {
            "textDocument": {"uri": argument["uri"]},
            "position": argument["position"],
            "workDoneToken": message["params"]["workDoneToken"],
        },
    }


def finish(plugin: Plugin, request: dict[str, Any], text: str) -> None:
    uri = request["params"]["textDocument"]["uri"]
    place = {"start": request["params"]["position"], "end": request["params"]["position"]}
    edit = {
        "documentChanges": [
            {
                "textDocument": {"uri": uri, "version": plugin.version()},
                "edits": [{"range": place, "newText": text}],
            }
        ]
    }
    plugin.answer_with(request, {"edit": edit, "applied": False, "reason": None})


def test_it_asks_in_long_mode_at_the_cursor(plugin: Plugin):
    request = filling(plugin, fill={"tokens": 300, "mode": "pruned_spec"})
    argument = plugin.commands("dlm.fill")[0]
    assert argument["limits"] == {"tokensMax": 300}
    assert argument["mode"] == "pruned_spec"
    assert request["params"]["position"] == {"line": 1, "character": 4}
    assert plugin.mode() == "i"
    plugin.shows("def f():", "     … filling", "end")


def test_the_draft_grows_but_never_shrinks_and_the_text_waits(plugin: Plugin):
    request = filling(plugin)
    plugin.draft(request, "a = 1", sequence=1)
    plugin.shows("def f():", "    a = 1 … filling", "end")
    plugin.draft(request, "a = 1\n    b = 2\n", "    c", sequence=2)
    plugin.shows("def f():", "    a = 1", "    b = 2", "    c … filling", "end")
    plugin.draft(request, "a = 1\n    b = 2", sequence=3)
    plugin.wait(lambda: "c" not in plugin.ghost(), "the third draft")
    assert len(plugin.lines()) == 5
    assert plugin.text() == "def f():\n    \nend", "nothing is in the buffer"
    finish(plugin, request, "a = 1\n    b = 2\n    return a")
    plugin.shows("def f():", "    a = 1", "    b = 2", "    return a", "end")
    plugin.type("<Tab>")
    plugin.wait(lambda: "return a" in plugin.text(), "accepted")
    assert plugin.text() == "def f():\n    a = 1\n    b = 2\n    return a\nend"
    plugin.type("<Esc>u")
    plugin.wait(lambda: plugin.text() == "def f():\n    \nend", "one undo")


def test_dropping_it_cancels_the_work(plugin: Plugin):
    request = filling(plugin)
    plugin.draft(request, "a = 1")
    plugin.shows("def f():", "    a = 1 … filling", "end")
    plugin.type("<C-]>")
    plugin.shows("def f():", "", "end")
    plugin.wait(lambda: plugin.requests("$/cancelRequest"), "it is cancelled")
    assert plugin.text() == "def f():\n    \nend"


def test_what_has_come_can_be_accepted_while_more_comes(plugin: Plugin):
    request = filling(plugin, "|")
    plugin.draft(request, "a = 1\n", "b░", sequence=1)
    plugin.shows("a = 1", "b░ … filling")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "a = 1\nb", "what is decided is inserted")
    plugin.draft(request, "a = 1\nb = 2", sequence=2)
    plugin.wait(lambda: plugin.ghost() == " = 2", "the rest follows")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "a = 1\nb = 2", "the rest is inserted")


def test_why_nothing_is_filled_is_told(plugin: Plugin):
    request = filling(plugin)
    answer = {"edit": None, "applied": False, "reason": "The model has nothing to add here."}
    plugin.answer_with(request, answer)
    plugin.shows("def f():", "", "end")
    notes = plugin.nvim.lua("return Notes")
    assert any("nothing to add here" in note for note in notes)


def test_a_refused_fill_is_told(plugin: Plugin):
    request = filling(plugin)
    plugin.nvim.lua("Stub.refuse(..., -32801, 'a newer edit came between')", request["id"])
    plugin.shows("def f():", "", "end")
    assert any("came between" in note for note in plugin.nvim.lua("return Notes"))


def test_it_works_at_the_end_of_a_line_and_in_insert_mode(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.insert()
    plugin.asked()
    plugin.nvim.api.command("Dlm fill")
    plugin.wait(lambda: plugin.commands("dlm.fill"), "the server is asked")
    assert plugin.commands("dlm.fill")[0]["position"] == {"line": 0, "character": 4}


def test_in_a_silenced_buffer_it_says_why(plugin: Plugin):
    plugin.fresh("x = |", silence={"filetypes": ["python"]})
    plugin.nvim.api.command("Dlm fill")
    plugin.settle()
    assert not plugin.commands("dlm.fill")
    assert any("silenced" in note for note in plugin.nvim.lua("return Notes"))
