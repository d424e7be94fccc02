"""`:Dlm refine`: the change of a selection, shown in place word by word, to accept or to reject."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.nvim.plugin import Plugin

EXECUTE = "workspace/executeCommand"
TEXT = "a = 1\nb = old + two\nc = 3"


def refining(plugin: Plugin, command: str = "2Dlm refine", text: str = TEXT) -> dict[str, Any]:
    plugin.fresh("|" + text)
    plugin.nvim.api.command(command)
    plugin.wait(lambda: plugin.commands("dlm.refine"), "the server is asked")
    return next(m for m in plugin.requests(EXECUTE) if m["params"]["command"] == "dlm.refine")


def state(
    plugin: Plugin,
    request: dict[str, Any],
    text: str,
    sequence: int = 1,
    changes: dict[str, Any] | None = None,
) -> None:
    """Sends a `dlm/refinement` for a request; `changes` replaces fields of it."""
    argument = request["params"]["arguments"][0]
    message = {
        "token": argument["token"],
        "textDocument": {**argument["textDocument"], "version": version(plugin)},
        "range": argument["range"],
        "text": text,
        "spans": [],
        "sequence": sequence,
        "final": False,
        **(changes or {}),
    }
    plugin.notify("dlm/refinement", message)


def version(plugin: Plugin) -> int:
    return plugin.nvim.lua("return vim.lsp.util.buf_versions[vim.api.nvim_get_current_buf()] or 0")


def finish(plugin: Plugin, request: dict[str, Any], text: str) -> None:
    argument = request["params"]["arguments"][0]
    edit = {
        "documentChanges": [
            {
                "textDocument": {**argument["textDocument"], "version": version(plugin)},
                "edits": [{"range": argument["range"], "newText": text}],
            }
        ]
    }
    plugin.answer_with(request, {"edit": edit, "applied": False, "reason": None})


def test_it_asks_about_the_lines(plugin: Plugin):
    request = refining(plugin)
    argument = request["params"]["arguments"][0]
    assert argument["range"] == {
        "start": {"line": 1, "character": 0},
        "end": {"line": 1, "character": 13},
    }
    assert argument["token"] == request["params"]["workDoneToken"]
    plugin.shows("a = 1", "b = old + two … refining", "c = 3")
    plugin.nvim.lua("vim.cmd('Dlm reject')")


def test_it_asks_about_a_selection_within_lines(plugin: Plugin):
    plugin.fresh("|a = 'ö' + old\nb = 'ü' + 2")
    plugin.type("fov$jF'")
    plugin.type(":Dlm refine<CR>")
    plugin.wait(lambda: plugin.commands("dlm.refine"), "the server is asked")
    found = plugin.commands("dlm.refine")[0]["range"]
    assert found == {
        "start": {"line": 0, "character": 11},
        "end": {"line": 1, "character": 8},
    }
    plugin.nvim.lua("vim.cmd('Dlm reject')")


def test_the_change_is_shown_word_by_word_and_refines(plugin: Plugin):
    request = refining(plugin)
    spans = [{"start": 11, "end": 14, "confidence": 0.1}]
    state(plugin, request, "b = new + t░o", 1, {"spans": spans})
    plugin.wait(lambda: "new" in plugin.in_group("DiffAdd"), "the new word")
    assert "old" in plugin.in_group("DiffDelete")
    assert "░" in plugin.in_group("DlmUndecided")
    assert plugin.text() == TEXT
    state(plugin, request, "b = new + two", 2)
    plugin.shows("a = 1", "b = oldnew + two … refining", "c = 3")


def test_accepting_is_one_step_of_undo(plugin: Plugin):
    request = refining(plugin)
    finish(plugin, request, "b = new + two\nb2 = 2")
    plugin.wait(lambda: "accepts" in plugin.in_group("DlmMore"), "it can be accepted")
    plugin.shows("a = 1", "b = oldnew + two <CR> accepts, <Esc> rejects", "b2 = 2", "c = 3")
    plugin.type("<CR>")
    plugin.wait(lambda: "b2" in plugin.text(), "accepted")
    assert plugin.text() == "a = 1\nb = new + two\nb2 = 2\nc = 3"
    plugin.shows("a = 1", "b = new + two", "b2 = 2", "c = 3")
    plugin.type("u")
    plugin.wait(lambda: plugin.text() == TEXT, "undone")


def test_rejecting_leaves_everything_as_it_was(plugin: Plugin):
    request = refining(plugin)
    finish(plugin, request, "b = new")
    plugin.wait(lambda: "accepts" in plugin.in_group("DlmMore"), "it can be rejected")
    plugin.type("<Esc>")
    plugin.shows(*TEXT.split("\n"))
    assert plugin.text() == TEXT
    plugin.type("j<CR>")
    plugin.settle()
    assert plugin.text() == TEXT, "the keys have their own meaning again"


def test_rejecting_early_cancels_the_work(plugin: Plugin):
    request = refining(plugin)
    plugin.nvim.lua("vim.cmd('Dlm reject')")
    plugin.wait(lambda: plugin.requests("$/cancelRequest"), "it is cancelled")
    assert plugin.requests("$/cancelRequest")[0]["params"] == {"id": request["id"]}
    state(plugin, request, "late")
    plugin.settle()
    assert plugin.lines() == TEXT.split("\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "other"},
        {"sequence": 1},
        {"textDocument": {"uri": "file:///other", "version": 1}},
        {"range": {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 1}}},
        {"text": None},
        {"text": 5},
    ],
)
def test_a_state_that_is_about_something_else_changes_nothing(
    plugin: Plugin, changes: dict[str, Any]
):
    request = refining(plugin)
    state(plugin, request, "b = good + two", 1)
    plugin.wait(lambda: "good" in plugin.in_group("DiffAdd"), "the first state")
    state(plugin, request, "b = bad + two", 2, changes)
    plugin.settle()
    assert "good" in plugin.in_group("DiffAdd")
    assert "bad" not in plugin.in_group("DiffAdd")
    plugin.nvim.lua("vim.cmd('Dlm reject')")


def test_an_edit_meanwhile_drops_it(plugin: Plugin):
    request = refining(plugin)
    state(plugin, request, "b = new + two")
    plugin.wait(lambda: "new" in plugin.in_group("DiffAdd"), "the first state")
    plugin.nvim.lua("vim.api.nvim_buf_set_lines(0, 0, 1, false, { 'a = 2' })")
    plugin.shows("a = 2", "b = old + two", "c = 3")
    assert any("has changed" in note for note in plugin.nvim.lua("return Notes"))


def test_why_nothing_is_refined_is_told(plugin: Plugin):
    request = refining(plugin)
    plugin.answer_with(request, {"edit": None, "applied": False, "reason": "All is probable."})
    plugin.shows(*TEXT.split("\n"))
    assert any("All is probable" in note for note in plugin.nvim.lua("return Notes"))


def test_a_server_that_ends_drops_it(plugin: Plugin):
    refining(plugin)
    plugin.nvim.lua("require('dlm.client').forgive(); Stub.crash()")
    plugin.shows(*TEXT.split("\n"))
    plugin.wait(plugin.is_attached, "the server is started again")


TEXTS = st.text(alphabet="ab é日\n\\ +(\t", max_size=30)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(old=TEXTS, new=TEXTS)
def test_the_changes_of_a_diff_make_the_new_text(plugin: Plugin, old: str, new: str):
    made = plugin.nvim.lua(
        "local old, new = ... local diff = require('dlm.diff')"
        " local changes = diff.changes(old, new)"
        " for _, change in ipairs(changes) do"
        "   assert(new:sub(change.new_start + 1, change.new_start + #change.text) == change.text)"
        " end return diff.apply(old, changes)",
        old,
        new,
    )
    assert made == new


def test_code_actions_run_what_the_plugin_shows(plugin: Plugin):
    plugin.fresh("|" + TEXT)
    execute = (
        "local client = vim.lsp.get_clients({ name = 'dlm_lsp' })[1]"
        " client:exec_cmd(..., { bufnr = 0, client_id = client.id })"
    )
    area = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 7}}
    arguments = [{"textDocument": {"uri": "file:///x"}, "range": area}]
    command = {"title": "Refine", "command": "dlm.refine", "arguments": arguments}
    plugin.nvim.lua(execute, command)
    plugin.wait(lambda: plugin.commands("dlm.refine"), "the server is asked")
    assert plugin.commands("dlm.refine")[0]["range"] == area
    plugin.shows("a = 1", "b = old + two … refining", "c = 3")
    plugin.nvim.lua("vim.cmd('Dlm reject')")
    plugin.nvim.lua(execute, {"title": "Fill here", "command": "dlm.fill", "arguments": [{}]})
    plugin.wait(lambda: plugin.commands("dlm.fill"), "the server is asked")
    plugin.wait(lambda: "… filling" in "".join(plugin.lines()), "it is shown")


def asked_about(plugin: Plugin) -> dict[str, Any]:
    plugin.wait(lambda: plugin.commands("dlm.refine"), "the server is asked")
    return plugin.commands("dlm.refine")[-1]["range"]


def test_an_exclusive_selection_ends_before_its_last_character(plugin: Plugin):
    plugin.fresh("|a = old + b")
    plugin.nvim.lua("vim.o.selection = 'exclusive'")
    try:
        plugin.type("wwve:Dlm refine<CR>")
        assert asked_about(plugin)["end"] == {"line": 0, "character": 7}
    finally:
        plugin.nvim.lua("vim.o.selection = 'inclusive' vim.cmd('Dlm reject')")


def test_lines_by_number_are_lines_whatever_was_selected_there_before(plugin: Plugin):
    plugin.fresh("|a = old\nb = two")
    plugin.type("wvj<Esc>:1,2Dlm refine<CR>")
    assert asked_about(plugin) == {
        "start": {"line": 0, "character": 0},
        "end": {"line": 1, "character": 7},
    }
    plugin.type("<Esc>")
    plugin.fresh("|a = old\nb = two")
    plugin.type("wvj<Esc>:'<lt>,'>Dlm refine<CR>")
    assert asked_about(plugin)["start"] == {"line": 0, "character": 2}
    plugin.type("<Esc>")


def test_an_empty_line_can_be_selected(plugin: Plugin):
    plugin.fresh("|\nabc")
    plugin.type("v:Dlm refine<CR>")
    assert asked_about(plugin)["end"] == {"line": 0, "character": 0}
    plugin.nvim.lua("vim.cmd('Dlm reject')")


def test_a_mapping_refines_the_selection_and_leaves_visual_mode(plugin: Plugin):
    plugin.fresh("|abc def\nb")
    plugin.nvim.lua("vim.keymap.set('x', 'gr', '<Cmd>Dlm refine<CR>', { buffer = 0 })")
    plugin.type("wvegr")
    assert asked_about(plugin) == {
        "start": {"line": 0, "character": 4},
        "end": {"line": 0, "character": 7},
    }
    plugin.wait(lambda: plugin.mode() == "n", "normal mode, whose keys accept and reject")
    plugin.type("<Esc>")
    plugin.shows("abc def", "b")


def test_line_ends_that_are_shown_as_text_stay(plugin: Plugin):
    plugin.fresh("|a\r\nb old\r\nc\r")
    plugin.nvim.api.command("1,2Dlm refine")
    assert asked_about(plugin)["end"] == {"line": 1, "character": 5}
    request = plugin.requests(EXECUTE)[-1]
    finish(plugin, request, "a\r\nb new\r\nb2")
    plugin.wait(lambda: "accepts" in plugin.in_group("DlmMore"), "it can be accepted")
    plugin.type("<CR>")
    plugin.wait(lambda: "new" in plugin.text(), "accepted")
    assert plugin.text() == "a\r\nb new\r\nb2\r\nc\r"


@pytest.mark.parametrize("command", ["e!", "bwipeout!"])
def test_it_ends_with_the_text_that_it_is_about(plugin: Plugin, command: str):
    plugin.fresh("|a old\nb")
    plugin.nvim.lua("vim.cmd('silent write')")
    plugin.nvim.api.command("1Dlm refine")
    asked_about(plugin)
    plugin.nvim.api.command(command)
    plugin.asked(1, "$/cancelRequest")
    assert plugin.nvim.lua("return vim.fn.maparg('<Esc>', 'n')") == ""
    assert plugin.nvim.lua("return require('dlm.proposal').current() == nil")


def test_a_whole_file_is_not_compared_before_anything_has_changed(plugin: Plugin):
    plugin.fresh("|a\nb")
    plugin.nvim.lua(
        "Compared = 0; local module = vim.text.diff and vim.text or vim; Diff = module.diff"
        " module.diff = function(...) Compared = Compared + 1 return Diff(...) end"
    )
    try:
        plugin.nvim.api.command("%Dlm refine")
        asked_about(plugin)
        plugin.shows("a … refining", "b")
        assert plugin.nvim.lua("return Compared") == 0
    finally:
        plugin.nvim.lua("(vim.text.diff and vim.text or vim).diff = Diff vim.cmd('Dlm reject')")
