"""A suggestion at the cursor: how it is drawn, and that what is shown is what is inserted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nvim.plugin import Plugin


def test_a_suggestion_is_drawn_and_inserted_as_shown(plugin: Plugin):
    plugin.fresh("def f(a, b):\n    return |\n")
    plugin.suggest("a + b\n\nx = f(1, 2)")
    plugin.shows("def f(a, b):", "    return a + b", "", "x = f(1, 2)", "")
    plugin.type("<Tab>")
    plugin.wait(lambda: "x = f" in plugin.text(), "the text is inserted")
    assert plugin.text() == "def f(a, b):\n    return a + b\n\nx = f(1, 2)\n"
    assert plugin.cursor() == (4, 11)


def test_the_server_hears_of_an_accepted_suggestion(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.commands("dlm.accepted"), "the command")
    assert plugin.commands("dlm.accepted") == [{"id": "1", "kind": "full"}]


def test_text_right_of_the_cursor_is_never_covered(plugin: Plugin):
    plugin.fresh("call(|, last)")
    plugin.suggest("first")
    plugin.shows("call(first, last)")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "call(first, last)", "the text is inserted")


def test_several_lines_before_text_show_where_that_text_will_stand(plugin: Plugin):
    plugin.fresh("a = |b")
    plugin.suggest("1\nc = ")
    plugin.shows("a = 1b", "c = b")
    assert plugin.in_group("DlmReplaced") == "b", "struck through where it stands now"
    assert plugin.in_group("DlmMoved") == "b"
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "a = 1\nc = b", "the text is inserted")


def test_a_closing_bracket_that_stays_is_not_shown_twice(plugin: Plugin):
    plugin.fresh("def f(|)")
    plugin.suggest("self, x):\n    return x", replaced=1)
    plugin.shows("def f(self, x):", "    return x")
    assert ")" not in plugin.ghost()
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "def f(self, x):\n    return x", "it is inserted")


def test_a_bracket_at_the_end_of_the_suggestion_needs_no_second_mark(plugin: Plugin):
    plugin.fresh("f(|)")
    plugin.suggest("a, b)", replaced=1)
    plugin.shows("f(a, b)")
    marks = plugin.nvim.lua(
        "return #vim.api.nvim_buf_get_extmarks(0, require('dlm.ghost').namespace, 0, -1, {})"
    )
    assert marks == 1
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "f(a, b)", "it is inserted")


def test_replaced_text_that_does_not_stay_is_struck_through(plugin: Plugin):
    plugin.fresh("x = |old")
    plugin.suggest("new", replaced=3)
    plugin.shows("x = newold")
    assert plugin.in_group("DlmReplaced") == "old"
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = new", "it is replaced")


def test_one_undo_takes_back_an_accepted_suggestion_and_nothing_else(plugin: Plugin):
    plugin.fresh("|")
    plugin.insert()
    plugin.asked()
    plugin.type("x = ")
    plugin.wait(lambda: plugin.text() == "x = ", "it is typed")
    request = plugin.asked(2)
    plugin.wait(lambda: plugin.requests()[-1]["params"]["position"]["character"] == 4, "asked")
    request = plugin.requests()[-1]
    plugin.answer(request, "1\ny = 2")
    plugin.wait(plugin.ghost, "a suggestion")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = 1\ny = 2", "it is inserted")
    plugin.type("0<Esc>")
    plugin.wait(lambda: plugin.text() == "x = 1\ny = 20", "typing goes on")
    steps = []
    for _ in range(3):
        plugin.type("u")
        plugin.settle()
        steps.append(plugin.text())
    assert steps == ["x = 1\ny = 2", "x = ", ""]


def test_redo_brings_an_accepted_suggestion_back(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1\ny = 2")
    plugin.type("<Tab><Esc>u")
    plugin.wait(lambda: plugin.text() == "x = ", "undone")
    plugin.type("<C-r>")
    plugin.wait(lambda: plugin.text() == "x = 1\ny = 2", "redone")


def test_a_suggestion_of_a_thousand_lines_stays_usable(plugin: Plugin):
    text = "\n".join(f"line {number}" for number in range(1000))
    plugin.fresh("|\nafter")
    plugin.suggest(text)
    shown = plugin.lines()
    assert shown[:2] == ["line 0", "line 1"]
    assert "more lines" in plugin.in_group("DlmMore")
    plugin.type("<Tab>")
    plugin.wait(lambda: len(plugin.text().split("\n")) == 1001, "all of it is inserted")
    assert plugin.text() == f"{text}\nafter"


def test_only_the_window_with_the_cursor_shows_it(plugin: Plugin):
    plugin.fresh("x = |\ny = 2")
    plugin.nvim.lua("vim.cmd('vsplit'); vim.wo.wrap = false")
    plugin.suggest("1\nz = 3")
    rows = plugin.nvim.refresh().lines()
    assert sum(row.count("x = 1") for row in rows) == 1
    assert sum(row.count("z = 3") for row in rows) == 1
    assert sum(row.count("y = 2") for row in rows) == 2


def test_going_to_the_other_window_of_the_buffer_drops_it(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.cmd('vsplit')")
    plugin.suggest("1")
    plugin.nvim.lua("vim.cmd('wincmd w')")
    plugin.wait(lambda: not plugin.ghost(), "nothing is shown")
    assert plugin.text() == "x = "


def test_leaving_insert_mode_drops_it_and_cancels_what_is_asked(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.insert()
    request = plugin.asked()
    plugin.draft(request, "1")
    plugin.wait(plugin.ghost, "a draft")
    plugin.type("<Esc>")
    plugin.wait(lambda: not plugin.ghost(), "nothing is shown")
    plugin.wait(lambda: plugin.requests("$/cancelRequest"), "it is cancelled")
    assert plugin.requests("$/cancelRequest")[0]["params"] == {"id": request["id"]}


def test_two_buffers_without_a_name_get_nothing(plugin: Plugin):
    """They would be one document to the server."""
    plugin.fresh("x = |")
    for text in ("first", "second"):
        plugin.nvim.lua("vim.cmd('enew'); vim.bo.filetype = 'python'")
        plugin.nvim.type("i" + text)
        plugin.wait(lambda text=text: plugin.text() == text, "it is typed")
        plugin.settle()
        plugin.nvim.type("<Esc>")
        assert not plugin.is_attached()
    opened = plugin.requests("textDocument/didOpen")
    assert not [one for one in opened if one["params"]["textDocument"]["text"] != "x = \n"]
    assert not plugin.requests()


def test_a_buffer_is_served_once_it_has_a_name(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.cmd('enew'); vim.bo.filetype = 'python'")
    assert not plugin.is_attached()
    plugin.nvim.lua("vim.cmd.file(...)", str(plugin.folder / "named.py"))
    plugin.wait(plugin.is_attached, "the server is attached")


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("s = 'żółć ", "ąę'\nt = 'ö'"),
        ("s = '日本", "語'"),
        ("s = '👩‍👩‍👧 ", "🎉'"),
        ("e = 'e\u0301", "e\u0301'"),
    ],
)
def test_multibyte_wide_and_combining_text_stands_at_the_cursor(
    plugin: Plugin, before: str, text: str
):
    plugin.fresh(before + "|")
    plugin.suggest(text)
    plugin.shows(*(before + text).split("\n"))
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == before + text, "it is inserted")


def test_tabs_are_drawn_as_wide_as_they_will_be(plugin: Plugin):
    plugin.fresh("if x:\n\treturn |", filetype="make")
    plugin.nvim.lua("vim.bo.tabstop = 8; vim.bo.expandtab = false")
    plugin.suggest("1\t# one\n\telse\t2")
    before = plugin.lines()
    plugin.type("<Tab>")
    plugin.wait(lambda: "else" in plugin.text(), "it is inserted")
    assert plugin.text() == "if x:\n\treturn 1\t# one\n\telse\t2"
    plugin.wait(lambda: plugin.lines() == before, "the screen does not change by accepting")


def test_a_file_with_windows_line_ends_keeps_them(plugin: Plugin):
    plugin.fresh("x = |\ny = 2")
    plugin.nvim.lua("vim.bo.fileformat = 'dos'")
    plugin.suggest("1\r\nz = 3")
    plugin.shows("x = 1", "z = 3", "y = 2")
    plugin.type("<Tab><Esc>")
    plugin.wait(lambda: plugin.text() == "x = 1\nz = 3\ny = 2", "it is inserted")
    plugin.nvim.lua("vim.cmd('silent write!')")
    written = (plugin.folder / plugin.nvim.api.current.buffer.name).read_bytes()
    assert written == b"x = 1\r\nz = 3\r\ny = 2\r\n"


def test_windows_line_ends_that_the_buffer_holds_as_text_are_kept_too(plugin: Plugin):
    plugin.fresh("x = |\r\ny = 2\r")
    plugin.suggest("1\nz = 3")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = 1\r\nz = 3\r\ny = 2\r", "it is inserted")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_are_read_in_the_servers_unit(plugin: Plugin, encoding: str):
    units = {"utf-8": 11, "utf-16": 8, "utf-32": 7}[encoding]
    plugin.nvim.lua(
        "Stub.encoding = ...; vim.lsp.get_clients({ name = 'dlm_lsp' })[1].offset_encoding = ...",
        encoding,
    )
    try:
        plugin.fresh("s = '🎉ö|)'")
        plugin.insert()
        request = plugin.asked()
        assert request["params"]["position"]["character"] == units
        end = {"utf-8": 3, "utf-16": 2, "utf-32": 2}[encoding]
        plugin.draft(request, "ä", "bü░", spans=[(0, 1, 0.9), (1, end, 0.1)])
        plugin.wait(lambda: plugin.in_group("DlmUndecided"), "a draft")
        assert plugin.in_group("DlmUndecided") == "ü░"
        assert plugin.in_group("DlmDraft") == "b"
        assert plugin.in_group("DlmCommitted") == "ä"
        plugin.answer(request, "äbüx)", replaced=1)
        plugin.shows("s = '🎉öäbüx)'")
    finally:
        plugin.nvim.lua(
            "Stub.encoding = 'utf-8'"
            " vim.lsp.get_clients({ name = 'dlm_lsp' })[1].offset_encoding = 'utf-8'"
        )


MANY = [f"line {number}" for number in range(60)]


def at_the_last_line_of_the_window(plugin: Plugin, **options: Any) -> int:
    """The cursor behind the last line that the window shows; returns the first one it shows."""
    plugin.fresh("|" + "\n".join(MANY), **options)
    plugin.nvim.lua("vim.cmd('normal! 30zt')")
    plugin.nvim.api.command("normal! L")
    row = plugin.cursor()[0]
    plugin.place("\n".join(MANY[:row]))
    return plugin.nvim.lua("return vim.fn.line('w0')")


def test_at_the_windows_end_it_scrolls_until_all_of_it_is_seen(plugin: Plugin):
    top = at_the_last_line_of_the_window(plugin)
    cursor = plugin.cursor()
    plugin.suggest("\nsecond\nthird\nfourth")
    plugin.wait(lambda: "fourth" in plugin.ghost(), "the last line")
    assert plugin.nvim.lua("return vim.fn.line('w0')") == top + 3
    assert plugin.cursor()[0] == cursor[0]
    assert "more lines" not in plugin.in_group("DlmMore")
    plugin.type("\n")
    plugin.wait(lambda: plugin.ghost().startswith("second"), "typing goes on on it")
    plugin.type("<C-]>")
    plugin.wait(lambda: not plugin.ghost(), "it is dismissed")


def test_it_scrolls_no_further_than_the_cursor_and_its_margin(plugin: Plugin):
    plugin.nvim.lua("vim.o.scrolloff = 4")
    try:
        at_the_last_line_of_the_window(plugin)
        row = plugin.cursor()[0]
        plugin.suggest("".join(f"\nnew {number}" for number in range(80)))
        plugin.wait(lambda: "more lines" in plugin.in_group("DlmMore"), "not all can be seen")
        assert plugin.cursor()[0] == row
        assert plugin.nvim.lua("return vim.fn.winline()") == 5
    finally:
        plugin.nvim.lua("vim.o.scrolloff = 0")


def test_scrolling_can_be_switched_off(plugin: Plugin):
    top = at_the_last_line_of_the_window(plugin, scroll=False)
    plugin.suggest(" first\nsecond\nthird")
    plugin.wait(lambda: "more lines" in plugin.in_group("DlmMore"), "the first line")
    assert plugin.nvim.lua("return vim.fn.line('w0')") == top


def test_it_scrolls_once_for_a_suggestion(plugin: Plugin):
    top = at_the_last_line_of_the_window(plugin)
    plugin.suggest("\nsecond\nthird")
    plugin.wait(lambda: "third" in plugin.ghost(), "the last line")
    plugin.nvim.lua("vim.fn.winrestview({ topline = ... })", top)
    plugin.nvim.lua("require('dlm.suggestion').refresh()")
    plugin.settle()
    assert plugin.nvim.lua("return vim.fn.line('w0')") == top


def test_folded_and_wrapped_lines_scroll_as_they_are_shown(plugin: Plugin):
    at_the_last_line_of_the_window(plugin)
    plugin.nvim.lua("vim.wo.foldmethod = 'manual' vim.cmd('31,35fold') vim.wo.wrap = true")
    plugin.nvim.api.command("normal! L")
    row = plugin.cursor()[0]
    plugin.place("\n".join(MANY[:row]))
    plugin.suggest("\nsecond\nthird")
    plugin.wait(lambda: "third" in plugin.ghost(), "the last line")
    assert plugin.cursor()[0] == row
    plugin.nvim.lua("vim.cmd('normal! zE')")
