"""`:Dlm next`: the next edit, shown where it is, to make or to reject."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nvim.plugin import Plugin

EXECUTE = "workspace/executeCommand"
TEXT = "amount = 0\nfor v in vs:\n    total += v\nprint(total)"
AFTER = "    amount += v"


def asking(plugin: Plugin, text: str = "|" + TEXT, keys: str = "<M-n>") -> dict[str, Any]:
    plugin.fresh(text)
    plugin.type(keys)
    return asked(plugin)


def asked(plugin: Plugin, count: int = 1) -> dict[str, Any]:
    plugin.wait(lambda: len(plugin.commands("dlm.nextEdit")) >= count, "the server is asked")
    return [m for m in plugin.requests(EXECUTE) if m["params"]["command"] == "dlm.nextEdit"][-1]


def offer(plugin: Plugin, request: dict[str, Any], line: int, text: str) -> None:
    uri = request["params"]["arguments"][0]["textDocument"]["uri"]
    length = len(plugin.nvim.api.current.buffer[line].encode())
    place = {"start": {"line": line, "character": 0}, "end": {"line": line, "character": length}}
    version = plugin.nvim.lua(
        "return vim.lsp.util.buf_versions[vim.api.nvim_get_current_buf()] or 0"
    )
    edit = {
        "documentChanges": [
            {
                "textDocument": {"uri": uri, "version": version},
                "edits": [{"range": place, "newText": text}],
            }
        ]
    }
    result = {"edit": edit, "applied": False, "reason": None, "range": place, "text": text}
    plugin.answer_with(request, result)


def shown(plugin: Plugin, request: dict[str, Any]) -> None:
    offer(plugin, request, 2, AFTER)
    plugin.wait(lambda: "accepts" in plugin.in_group("DlmMore"), "it is shown")


def notes(plugin: Plugin) -> str:
    return " ".join(plugin.nvim.lua("return Notes"))


def test_it_is_asked_about_the_cursors_place(plugin: Plugin):
    request = asking(plugin, "amo|unt = 0\ntotal")
    argument = request["params"]["arguments"][0]
    assert argument["position"] == {"line": 0, "character": 3}
    assert argument["textDocument"]["uri"].startswith("file://")
    assert argument["token"]
    plugin.shows("amount = 0 … looking for the next edit", "total")
    plugin.type("<Esc>")
    plugin.shows("amount = 0", "total")
    assert plugin.requests("$/cancelRequest")[0]["params"] == {"id": request["id"]}


def test_the_change_is_shown_where_it_is_and_the_cursor_goes_there(plugin: Plugin):
    request = asking(plugin)
    shown(plugin, request)
    plugin.shows(
        "amount = 0",
        "for v in vs:",
        "    totalamount += v <CR> accepts, <Esc> rejects",
        "print(total)",
    )
    assert plugin.in_group("DiffDelete") == "total"
    assert plugin.in_group("DiffAdd") == "amount"
    assert plugin.text() == TEXT
    assert plugin.cursor() == (3, 4)
    plugin.type("<Esc><C-o>")
    plugin.wait(lambda: plugin.cursor() == (1, 0), "CTRL-O leads back")
    plugin.shows(*TEXT.split("\n"))


@pytest.mark.parametrize("key", ["<M-n>", "<CR>", ":Dlm accept<CR>", ":Dlm next<CR>"])
def test_a_second_press_makes_it_in_one_step_of_undo(plugin: Plugin, key: str):
    request = asking(plugin)
    shown(plugin, request)
    plugin.type(key)
    plugin.wait(lambda: AFTER in plugin.text(), "it is made")
    plugin.shows(*TEXT.replace("    total", "    amount").split("\n"))
    plugin.type("u")
    plugin.wait(lambda: plugin.text() == TEXT, "one undo")


def test_after_it_is_made_or_rejected_the_next_one_can_be_asked_for(plugin: Plugin):
    request = asking(plugin)
    shown(plugin, request)
    plugin.type("<M-n>")
    plugin.wait(lambda: AFTER in plugin.text(), "it is made")
    plugin.type("<M-n>")
    offer(plugin, asked(plugin, 2), 3, "print(amount)")
    plugin.wait(lambda: plugin.in_group("DiffAdd") == "amount", "the second one")
    assert plugin.cursor() == (4, 6)
    plugin.type("<Esc><M-n>")
    asked(plugin, 3)
    assert plugin.text() == TEXT.replace("    total", "    amount")
    plugin.type("<Esc>")


def test_a_place_off_the_screen_comes_into_view_and_a_fold_opens(plugin: Plugin):
    lines = ["new = 1", *(f"line {number}" for number in range(200)), "old"]
    plugin.fresh("|" + "\n".join(lines))
    plugin.nvim.lua("vim.wo.foldmethod = 'manual' vim.cmd('150,202fold')")
    plugin.type(":Dlm next<CR>")
    offer(plugin, asked(plugin), 201, "new")
    plugin.wait(lambda: plugin.in_group("DiffDelete") == "old", "it is seen")
    plugin.nvim.lua("vim.cmd('Dlm reject') vim.cmd('normal! zE')")


def test_why_there_is_none_is_told(plugin: Plugin):
    request = asking(plugin)
    answer = {"edit": None, "applied": False, "reason": "Nothing follows.", "range": None}
    plugin.answer_with(request, answer)
    plugin.wait(lambda: "There is no next edit: Nothing follows." in notes(plugin), "the reason")
    plugin.shows(*TEXT.split("\n"))
    plugin.type("<CR>")
    plugin.settle()
    assert plugin.cursor() == (2, 0), "the keys have their own meaning again"


def test_an_edit_meanwhile_drops_it(plugin: Plugin):
    request = asking(plugin)
    plugin.nvim.lua("vim.api.nvim_buf_set_lines(0, 3, 4, false, { 'pass' })")
    plugin.wait(lambda: "has changed" in notes(plugin), "it is dropped")
    assert plugin.requests("$/cancelRequest")[0]["params"] == {"id": request["id"]}
    plugin.type("<M-n>")
    offer(plugin, asked(plugin, 2), 2, AFTER)
    plugin.wait(lambda: "accepts" in plugin.in_group("DlmMore"), "it is shown")
    plugin.type("ggx")
    plugin.wait(lambda: notes(plugin).count("has changed") == 2, "the shown one is dropped")
    plugin.type("<M-n>")
    asked(plugin, 3)
    plugin.type("<Esc>")


@pytest.mark.parametrize("keys", ["i", "v", ":vsplit<CR>"])
def test_it_takes_nobody_away_from_another_place(plugin: Plugin, keys: str):
    request = asking(plugin)
    plugin.type(keys)
    plugin.settle()
    shown_at = plugin.cursor()
    offer(plugin, request, 2, AFTER)
    plugin.wait(lambda: "elsewhere" in notes(plugin), "it is dropped")
    assert plugin.cursor() == shown_at
    plugin.type("<Esc>")
    plugin.nvim.lua("vim.cmd('only')")


@pytest.mark.parametrize(
    "place",
    [
        None,
        5,
        {"start": {"line": 99, "character": 0}, "end": {"line": 99, "character": 1}},
        {"start": {"line": 0, "character": 0}, "end": {"line": 1, "character": 1}},
        {"start": {"line": -1, "character": 0}, "end": {"line": -1, "character": 1}},
        {"start": {"line": 0}, "end": {"line": 0, "character": 1}},
        {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 1}},
        {"start": {"line": 0, "character": "1"}, "end": {"line": 0, "character": "2"}},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(plugin: Plugin, place: Any):
    request = asking(plugin)
    answer = {"edit": {"changes": {}}, "range": place, "text": "x", "reason": None}
    plugin.answer_with(request, answer)
    plugin.wait(lambda: "does not fit" in notes(plugin), "it is refused")
    plugin.shows(*TEXT.split("\n"))


def test_the_key_can_be_switched_off_and_takes_nothing_away(plugin: Plugin):
    plugin.nvim.lua(
        "vim.keymap.del('n', '<M-n>') vim.g.pressed = 0"
        " vim.keymap.set('n', '<M-n>', function() vim.g.pressed = vim.g.pressed + 1 end)"
        " require('dlm.keys').set_defaults()"
    )
    try:
        plugin.fresh("|" + TEXT)
        plugin.type("<M-n>")
        plugin.wait(lambda: plugin.nvim.lua("return vim.g.pressed") == 1, "the user's own map")
        assert not plugin.commands("dlm.nextEdit")
        plugin.nvim.lua(
            "vim.keymap.del('n', '<M-n>')"
            " require('dlm.config').set({ keys = { next_edit = false } })"
            " require('dlm.keys').set_defaults()"
        )
        assert plugin.nvim.lua("return vim.fn.maparg('<M-n>', 'n')") == ""
    finally:
        plugin.nvim.lua("require('dlm.config').set({}) require('dlm.keys').set_defaults()")
    assert plugin.nvim.lua("return vim.fn.maparg('<M-n>', 'n')") != ""


def test_a_map_of_the_users_own_and_a_function(plugin: Plugin):
    plugin.fresh("|" + TEXT)
    plugin.nvim.lua("vim.keymap.set('n', 'gn', '<Plug>(dlm-next-edit)', { buffer = 0 })")
    plugin.type("gn")
    asked(plugin)
    plugin.type("<Esc>")
    assert plugin.nvim.lua("return require('dlm').next_edit()") is True
    asked(plugin, 2)
    plugin.type("<Esc>")


def test_a_code_action_runs_what_the_plugin_shows(plugin: Plugin):
    plugin.fresh("|" + TEXT)
    plugin.nvim.lua(
        "local client = vim.lsp.get_clients({ name = 'dlm_lsp' })[1]"
        " client:exec_cmd(..., { bufnr = 0, client_id = client.id })",
        {"title": "Next edit", "command": "dlm.nextEdit", "arguments": [{}]},
    )
    shown(plugin, asked(plugin))
    plugin.type("<Esc>")


def test_in_a_silenced_buffer_it_says_why(plugin: Plugin):
    plugin.fresh("|x = 1", silence={"filetypes": ["python"]})
    plugin.type("<M-n>")
    plugin.settle()
    assert not plugin.commands("dlm.nextEdit")
    assert "silenced" in notes(plugin)


def test_a_server_that_ends_drops_it(plugin: Plugin):
    asking(plugin)
    plugin.nvim.lua("require('dlm.client').forgive(); Stub.crash()")
    plugin.shows(*TEXT.split("\n"))
    plugin.wait(plugin.is_attached, "the server is started again")
