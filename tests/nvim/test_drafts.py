"""Drafts in place: how they look, and messages that come late, twice, out of order or broken."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from tests.nvim.plugin import Plugin


def begun(plugin: Plugin, text: str = "x = |", **options: Any) -> dict[str, Any]:
    plugin.fresh(text, **options)
    plugin.insert()
    return plugin.asked()


def test_committed_draft_and_undecided_text_look_different(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "one ", "two ░ four", spans=[(8, 12, 0.2)])
    plugin.shows("x = one two ░ four")
    assert plugin.in_group("DlmCommitted") == "one "
    assert plugin.in_group("DlmDraft").strip() == "two"
    assert plugin.in_group("DlmUndecided").replace(" ", "") == "░four"


def test_a_draft_is_replaced_by_the_next_and_the_answer(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "", "a░", sequence=1)
    plugin.shows("x = a░")
    plugin.draft(request, "ab", "c", sequence=2)
    plugin.shows("x = abc")
    plugin.answer(request, "abd")
    plugin.shows("x = abd")
    assert plugin.in_group("DlmCommitted") == "abd"


def test_there_is_one_mark_whatever_is_drawn(plugin: Plugin):
    request = begun(plugin)
    count = "return #vim.api.nvim_buf_get_extmarks(0, require('dlm.ghost').namespace, 0, -1, {})"
    for sequence, text in enumerate(["a", "ab\nc", "abc", "abcd\ne\nf"], 1):
        plugin.draft(request, text, sequence=sequence)
        plugin.wait(lambda text=text: text[:2] in plugin.ghost(), "it is drawn")
        assert plugin.nvim.lua(count) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token": "other"}, "request"),
        ({"token": None}, "request"),
        ({"textDocument": {"uri": "file:///other.py", "version": 1}}, "document"),
        ({"textDocument": None}, "document"),
        ({"textDocument": "file"}, "document"),
        ({"sequence": 1}, "late"),
        ({"sequence": 0}, "late"),
        ({"sequence": "2"}, "late"),
        ({"committed": None}, "read"),
        ({"draft": 3}, "read"),
        ({"range": None}, "read"),
        ({"range": {"start": {"line": 5, "character": 0}, "end": {}}}, "read"),
    ],
)
def test_a_draft_that_is_not_for_this_place_changes_nothing(
    plugin: Plugin, changes: dict[str, Any], reason: str
):
    request = begun(plugin)
    plugin.draft(request, "good", sequence=1)
    plugin.shows("x = good")
    plugin.draft(request, "good bad", sequence=2, changes=changes)
    plugin.settle()
    assert plugin.lines() == ["x = good"]
    assert reason in plugin.nvim.lua("return require('dlm.suggestion').dropped")


def test_a_draft_of_another_version_changes_nothing(plugin: Plugin):
    request = begun(plugin)
    document = {"uri": request["params"]["textDocument"]["uri"], "version": plugin.version() - 1}
    plugin.draft(request, "bad", changes={"textDocument": document})
    plugin.settle()
    assert plugin.lines() == ["x ="]


def test_late_and_reordered_drafts_never_take_back_a_newer_one(plugin: Plugin):
    request = begun(plugin)
    for sequence in (3, 1, 2, 3):
        plugin.draft(request, f"draft {sequence}", sequence=sequence)
    plugin.shows("x = draft 3")
    plugin.settle()
    assert plugin.lines() == ["x = draft 3"]


def test_a_draft_after_the_answer_changes_nothing(plugin: Plugin):
    request = begun(plugin)
    plugin.answer(request, "final")
    plugin.shows("x = final")
    plugin.draft(request, "late", sequence=9)
    plugin.settle()
    assert plugin.lines() == ["x = final"]


def test_the_answer_to_a_superseded_request_changes_nothing(plugin: Plugin):
    first = begun(plugin)
    plugin.type("y")
    second = plugin.asked(2)
    plugin.answer(second, " + 1")
    plugin.shows("x = y + 1")
    plugin.answer(first, "late")
    plugin.draft(first, "late", sequence=9)
    plugin.settle()
    assert plugin.lines() == ["x = y + 1"]


def test_answers_in_the_wrong_order(plugin: Plugin):
    first = begun(plugin)
    plugin.type("y")
    second = plugin.asked(2)
    plugin.answer(first, "early")
    plugin.settle()
    assert plugin.lines() == ["x = y"]
    plugin.answer(second, "z")
    plugin.shows("x = yz")


@pytest.mark.parametrize(
    "result",
    [
        [],
        [{}],
        [{"insertText": 5}],
        [{"insertText": ""}],
        ["text"],
        {"items": "none"},
        [{"insertText": "a", "range": {"start": {"line": 99, "character": 0}, "end": None}}],
        [
            {
                "insertText": "a",
                "range": {
                    "start": {"line": 99, "character": 0},
                    "end": {"line": 99, "character": 1},
                },
            }
        ],
        [
            {
                "insertText": "a",
                "range": {
                    "start": {"line": 0, "character": 0},
                    "end": {"line": 0, "character": 2},
                },
            }
        ],
        "text",
        7,
    ],
)
def test_an_answer_that_makes_no_sense_shows_nothing(plugin: Plugin, result: object):
    request = begun(plugin)
    plugin.answer_with(request, result)
    plugin.settle()
    assert plugin.lines() == ["x ="]
    plugin.type("1")
    plugin.answer(plugin.asked(2), "2")
    plugin.shows("x = 12")


def test_a_refused_request_shows_nothing_and_typing_goes_on(plugin: Plugin):
    request = begun(plugin)
    plugin.nvim.lua("Stub.refuse(..., -32603, 'broken')", request["id"])
    plugin.settle()
    assert plugin.lines() == ["x ="]
    plugin.type("1")
    plugin.answer(plugin.asked(2), "2")
    plugin.shows("x = 12")


def test_null_after_typing_asks_about_what_is_there_now(plugin: Plugin):
    request = begun(plugin)
    plugin.nvim.lua("require('dlm.config').set({ delay = 10000 })")
    plugin.type("y")
    plugin.wait(lambda: plugin.text() == "x = y", "it is typed")
    plugin.nvim.lua("require('dlm.config').set({ delay = 0 })")
    plugin.answer_with(request, None)
    plugin.answer(plugin.asked(2), "z")
    plugin.shows("x = yz")


def test_an_edit_of_another_line_under_a_draft_drops_it(plugin: Plugin):
    request = begun(plugin, "x = |\ny = 2")
    plugin.draft(request, "1")
    plugin.shows("x = 1", "y = 2")
    plugin.nvim.lua("vim.api.nvim_buf_set_lines(0, 1, 2, false, { 'y = 3' })")
    plugin.draft(request, "12", sequence=2)
    plugin.shows("x =", "y = 3")
    assert plugin.text() == "x = \ny = 3"


def test_lines_added_above_under_a_draft_drop_it(plugin: Plugin):
    request = begun(plugin, "a = 0\nx = |")
    plugin.draft(request, "1")
    plugin.shows("a = 0", "x = 1")
    plugin.nvim.lua("vim.api.nvim_buf_set_lines(0, 0, 0, false, { 'import a' })")
    plugin.draft(request, "12", sequence=2)
    plugin.shows("import a", "a = 0", "x =")


def test_undo_under_a_draft_drops_it(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.insert()
    plugin.type("1")
    plugin.wait(lambda: plugin.text() == "x = 1", "it is typed")
    request = plugin.wait(
        lambda: next(
            (r for r in plugin.requests() if r["params"]["position"]["character"] == 5), None
        ),
        "asked",
    )
    plugin.draft(request, "2")
    plugin.shows("x = 12")
    plugin.type("<Cmd>silent undo<CR>")
    plugin.wait(lambda: plugin.text() == "x = ", "undone")
    plugin.wait(lambda: plugin.lines() == ["x ="], "nothing is shown")


def test_the_buffer_is_wiped_under_a_draft(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "1")
    plugin.shows("x = 1")
    plugin.nvim.lua("vim.cmd('bwipeout!')")
    plugin.draft(request, "12", sequence=2)
    plugin.settle()
    assert not plugin.ghost()
    assert "Error" not in plugin.nvim.lua("return vim.fn.execute('messages')")


def test_the_server_crashes_while_it_drafts(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "1")
    plugin.shows("x = 1")
    starts = plugin.nvim.lua("return Stub.starts")
    plugin.nvim.lua("Stub.crash()")
    plugin.wait(lambda: not plugin.ghost(), "the draft is gone")
    plugin.wait(lambda: plugin.nvim.lua("return Stub.starts") > starts, "it is started again")
    plugin.wait(plugin.is_attached, "it is attached again")
    plugin.type("2")
    plugin.wait(lambda: plugin.text() == "x = 2", "typing goes on")
    request = plugin.wait(
        lambda: next(
            (r for r in plugin.requests() if r["params"]["position"]["character"] == 5), None
        ),
        "the new server is asked",
    )
    plugin.answer(request, "3")
    plugin.shows("x = 23")


def test_the_number_of_lines_is_stable_until_the_text_is_final(plugin: Plugin):
    request = begun(plugin, "|\nbelow")
    plugin.draft(request, "", "a\nb\nc", sequence=1)
    plugin.shows("a", "b", "c", "below")
    plugin.draft(request, "a", "\nb\nc\nd\ne", sequence=2)
    plugin.draft(request, "a2", "\nb", sequence=3)
    plugin.shows("a2", "b", "", "below")
    plugin.draft(request, "a2\nb\nc\nd", sequence=4)
    plugin.shows("a2", "b", "c", "below")
    plugin.answer(request, "a2\nb\nc\nd")
    plugin.shows("a2", "b", "c", "d", "below")


def test_no_more_than_one_visible_update_in_40_ms(plugin: Plugin):
    request = begun(plugin)
    plugin.nvim.lua(
        """
        local uri, position, version, token = ...
        Drawn = {}
        local ghost = require('dlm.ghost')
        local draw = ghost.draw
        ghost.draw = function(view)
          table.insert(Drawn, { vim.uv.hrtime() / 1e6, view.text })
          draw(view)
        end
        local number = 0
        local timer = vim.uv.new_timer()
        timer:start(0, 4, vim.schedule_wrap(function()
          number = number + 1
          if number > 60 then
            if not timer:is_closing() then timer:close() end
            ghost.draw = draw
            return
          end
          Stub.notify('dlm/draft', {
            token = token, textDocument = { uri = uri, version = version }, position = position,
            range = { start = position, ['end'] = position }, committed = tostring(number),
            draft = '', spans = {}, sequence = number, final = false,
          })
        end))
        """,
        request["params"]["textDocument"]["uri"],
        request["params"]["position"],
        plugin.version(),
        request["params"]["workDoneToken"],
    )
    plugin.shows("x = 60")
    drawn = plugin.nvim.lua("return Drawn")
    gaps = [after[0] - before[0] for before, after in pairwise(drawn)]
    assert gaps
    assert min(gaps) >= 39.0, "a timer of Neovim counts whole milliseconds"


def test_drafts_can_be_limited_to_the_first_line(plugin: Plugin):
    request = begun(plugin, "|\nbelow", draft="first-line")
    plugin.draft(request, "a\nb", "\nc")
    plugin.shows("a", "below")
    plugin.answer(request, "a\nb\nc")
    plugin.shows("a", "b", "c", "below")


def test_drafts_can_be_left_out(plugin: Plugin):
    request = begun(plugin, draft="final")
    assert "workDoneToken" not in request["params"]
    plugin.draft(request, "1", changes={"token": "dlm"})
    plugin.settle()
    assert plugin.lines() == ["x ="]
    plugin.answer(request, "12")
    plugin.shows("x = 12")


def test_the_server_is_asked_for_drafts_only_where_they_are_wanted(plugin: Plugin):
    for draft, wanted in (("live", True), ("first-line", True), ("final", False)):
        sent = plugin.nvim.lua(
            "require('dlm.config').set({ draft = ... }); local p = { capabilities = {} }"
            " require('dlm.client').before_init(p); return p.initializationOptions.dlm.drafts",
            draft,
        )
        assert sent is wanted


def test_accepting_a_draft_takes_what_is_decided_and_no_mask(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "one ", "two ░ four")
    plugin.shows("x = one two ░ four")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = one two ", "the decided text is inserted")
    plugin.answer(request, "one two three four")
    plugin.shows("x = one two three four")


def test_a_draft_of_which_nothing_is_decided_types_no_tab(plugin: Plugin):
    request = begun(plugin)
    plugin.draft(request, "", "░░░")
    plugin.shows("x = ░░░")
    plugin.type("<Tab>")
    plugin.settle()
    assert plugin.text() == "x = "


def test_a_final_draft_replaces_what_the_range_says(plugin: Plugin):
    request = begun(plugin, "f(|)")
    position = request["params"]["position"]
    end = {**position, "character": position["character"] + 1}
    place = {"range": {"start": position, "end": end}}
    plugin.draft(request, "a, b)", final=True, changes=place)
    plugin.shows("f(a, b)")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "f(a, b)", "it is inserted")


def test_drafts_cost_no_time_to_type(plugin: Plugin):
    """A storm of drafts does not keep keys from arriving in order."""
    request = begun(plugin)
    for sequence in range(1, 40):
        plugin.draft(request, "abc", "d" * sequence, sequence=sequence)
        if sequence % 10 == 0:
            plugin.type("abcd"[sequence // 10 - 1])
    plugin.wait(lambda: plugin.text() == "x = abc", "the keys arrive")
    time.sleep(0.05)
    plugin.settle()
    assert plugin.lines()[0].startswith("x = abcd")
