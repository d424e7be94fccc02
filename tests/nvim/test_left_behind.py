"""Nothing of a suggestion outlives the place that it was made for, however that place is left."""

from __future__ import annotations

import pytest

from tests.nvim.plugin import Plugin


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("1<Tab>", "a = 123 + 4"),
        ("9<M-w>", "a = 9"),
        ("9<Tab>", "a = 9   "),
        ("<BS><BS><M-w>", "a "),
        ("<Left><M-w>", "a = "),
        ("<CR><M-w>", "a = \n"),
        ("<C-o>O<M-w>", "\na = "),
    ],
)
def test_keys_that_come_at_once_accept_what_they_lead_to(plugin: Plugin, keys: str, text: str):
    plugin.fresh("a = |")
    plugin.suggest("123 + 4")
    plugin.type(keys)
    plugin.settle()
    assert plugin.text() == text


def test_a_change_elsewhere_right_before_the_key_is_heeded(plugin: Plugin):
    plugin.fresh("a\nb = |")
    plugin.suggest("123")
    plugin.nvim.lua(
        "vim.api.nvim_buf_set_lines(0, 0, 0, true, { 'new' }) vim.api.nvim_input(...)", "<M-w>"
    )
    plugin.settle()
    assert plugin.text() == "new\na\nb = "


def test_control_c_takes_it_away(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.type("<C-c>")
    plugin.shows("x =")
    assert plugin.mode() == "n"


def test_it_goes_with_the_server(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.nvim.lua(
        "local c = vim.lsp.get_clients({ name = 'dlm_lsp' })[1] vim.lsp.buf_detach_client(0, c.id)"
    )
    plugin.shows("x =")


def test_a_buffer_with_another_name_is_another_document_at_once(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.type(f"<Cmd>file {plugin.folder}/renamed.py<CR>")
    opened = plugin.asked(1, "textDocument/didOpen")["params"]["textDocument"]
    assert opened["uri"].endswith("/renamed.py")
    closed = plugin.asked(1, "textDocument/didClose")["params"]["textDocument"]
    assert not closed["uri"].endswith("/renamed.py")
    plugin.type("2")
    plugin.wait(
        lambda: plugin.requests()[-1]["params"]["textDocument"] == {"uri": opened["uri"]},
        "it is asked about by its new name",
    )


def test_a_refused_name_leaves_the_server_attached(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.cmd.badd(...)", f"{plugin.folder}/taken.py")
    plugin.nvim.lua("pcall(vim.cmd.file, ...)", f"{plugin.folder}/taken.py")
    plugin.wait(plugin.is_attached, "the server is attached again")


def test_nothing_is_shown_with_paste_on_since_no_key_could_take_it(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.o.paste = true")
    try:
        plugin.insert()
        plugin.type("1")
        plugin.settle()
        assert not plugin.requests()
    finally:
        plugin.type("<Esc>")
        plugin.nvim.lua("vim.o.paste = false")


def test_nothing_is_shown_where_the_cursor_stands_beyond_the_text(plugin: Plugin):
    plugin.fresh("x = |\ny")
    plugin.nvim.lua("vim.o.virtualedit = 'all'")
    try:
        plugin.type("10li")
        plugin.wait(lambda: plugin.mode() == "i", "insert mode")
        plugin.settle()
        assert not plugin.requests()
        plugin.type("1")
        plugin.asked()
    finally:
        plugin.type("<Esc>")
        plugin.nvim.lua("vim.o.virtualedit = ''")


@pytest.mark.parametrize("key", ["<M-w>", "<M-l>", "<M-]>"])
def test_a_key_once_too_often_types_nothing(plugin: Plugin, key: str):
    plugin.fresh("x = |")
    plugin.insert()
    plugin.type(key)
    plugin.settle()
    assert (plugin.text(), plugin.mode()) == ("x = ", "i")
