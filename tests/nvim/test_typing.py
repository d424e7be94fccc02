"""Typing on what is shown, taking it in parts, and keys that do what they always did elsewhere."""

from __future__ import annotations

import pytest

from tests.nvim.plugin import Plugin


def test_typing_through_needs_no_request_and_does_not_flicker(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("value + other")
    seen: set[str] = set()
    plugin.nvim.on_flush = lambda screen: seen.add(screen.lines()[0])
    for key in "value + ":
        plugin.type(key.replace(" ", "<Space>"))
        plugin.settle()
    plugin.nvim.on_flush = lambda screen: None
    assert seen == {"x = value + other"}, "every state of the screen"
    assert len(plugin.requests()) == 1
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = value + other", "the rest is inserted")


def test_typing_over_several_lines_keeps_it(plugin: Plugin):
    plugin.fresh("|")
    plugin.suggest("if x:\n    y = 1")
    plugin.type("if x:<CR>    y")
    plugin.wait(lambda: plugin.text() == "if x:\n    y", "it is typed")
    plugin.shows("if x:", "    y = 1")
    assert len(plugin.requests()) == 1


def test_removing_what_was_typed_shows_it_again_without_a_request(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("value")
    plugin.type("val<BS><BS>")
    plugin.wait(lambda: plugin.text() == "x = v", "two are removed")
    plugin.shows("x = value")
    assert len(plugin.requests()) == 1


def test_typing_something_else_drops_it_at_once_and_asks_again(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("value")
    plugin.type("w")
    request = plugin.asked(2)
    assert plugin.lines() == ["x = w"]
    plugin.answer(request, "idth")
    plugin.shows("x = width")


def test_typing_all_of_it_asks_for_more(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("12")
    plugin.type("12")
    request = plugin.asked(2)
    assert request["params"]["position"]["character"] == 6
    plugin.answer(request, "3")
    plugin.shows("x = 123")


def test_typing_through_a_draft_keeps_its_request(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.insert()
    request = plugin.asked()
    plugin.draft(request, "val")
    plugin.shows("x = val")
    plugin.type("va")
    plugin.wait(lambda: plugin.text() == "x = va", "it is typed")
    plugin.draft(request, "value", " + 1", sequence=2)
    plugin.shows("x = value + 1")
    plugin.answer(request, "lue + 12", at=6)
    plugin.shows("x = value + 12")
    assert len(plugin.requests()) == 1
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = value + 12", "the rest is inserted")


def test_an_answer_that_does_not_know_what_was_typed_yet_is_understood(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.insert()
    request = plugin.asked()
    plugin.draft(request, "val")
    plugin.shows("x = val")
    plugin.type("va")
    plugin.wait(lambda: plugin.text() == "x = va", "it is typed")
    plugin.answer(request, "value")
    plugin.shows("x = value")


def test_a_draft_that_changes_under_what_is_typed_waits(plugin: Plugin):
    """A draft may yet come to what was typed; what was committed may not."""
    plugin.fresh("x = |")
    plugin.insert()
    request = plugin.asked()
    plugin.nvim.lua("require('dlm.config').set({ delay = 10000 })")
    plugin.draft(request, "", "wrong")
    plugin.shows("x = wrong")
    plugin.type("r")
    plugin.wait(lambda: plugin.text() == "x = r", "it is typed")
    plugin.shows("x = r")
    plugin.draft(request, "", "right", sequence=2)
    plugin.shows("x = right")


def test_the_next_word(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("value + other(1)\nnext")
    for expected in ("x = value", "x = value +", "x = value + other", "x = value + other("):
        plugin.type("<M-w>")
        plugin.wait(lambda e=expected: plugin.text() == e, f"{expected} is inserted")
        plugin.shows("x = value + other(1)", "next")
    assert len(plugin.requests()) == 1
    told = plugin.commands("dlm.accepted")
    assert told == [{"id": "1", "kind": "word", "length": n} for n in (5, 7, 13, 14)]


def test_the_next_line(plugin: Plugin):
    plugin.fresh("|")
    plugin.suggest("if x:\n    a = 1\n    b = 2")
    plugin.type("<M-l>")
    plugin.wait(lambda: plugin.text() == "if x:", "one line")
    plugin.type("<M-l>")
    plugin.wait(lambda: plugin.text() == "if x:\n    a = 1", "another")
    plugin.shows("if x:", "    a = 1", "    b = 2")
    assert plugin.commands("dlm.accepted")[-1] == {"id": "1", "kind": "line", "length": 15}
    plugin.type("<M-l>")
    plugin.wait(lambda: plugin.text().endswith("b = 2"), "the last")
    assert plugin.commands("dlm.accepted")[-1] == {"id": "1", "kind": "full"}


def test_up_to_a_character(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("call(one, two)")
    plugin.type("<M-f>,")
    plugin.wait(lambda: plugin.text() == "x = call(one,", "up to the comma")
    plugin.shows("x = call(one, two)")
    plugin.type("<M-f>?")
    plugin.settle()
    assert plugin.text() == "x = call(one,", "there is no such character"


def test_a_part_beyond_a_bracket_that_stays(plugin: Plugin):
    plugin.fresh("f(|)")
    plugin.suggest("a) + g(b)", replaced=1)
    plugin.shows("f(a) + g(b)")
    plugin.type("<M-f>+")
    plugin.wait(lambda: plugin.text() == "f(a) +", "the bracket is not doubled")
    plugin.shows("f(a) + g(b)")


def test_a_bracket_that_a_plugin_closes_by_itself_is_the_suggestions_own(plugin: Plugin):
    plugin.fresh("f|")
    plugin.nvim.lua("vim.keymap.set('i', '(', '()<C-g>U<Left>', { buffer = true })")
    plugin.suggest("(a, b) + 1")
    plugin.type("(")
    plugin.wait(lambda: plugin.text() == "f()", "the bracket is closed")
    plugin.shows("f(a, b) + 1")
    assert len(plugin.requests()) == 1
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "f(a, b) + 1", "the bracket is not doubled")


def test_a_quote_that_the_suggestion_lacks_ends_it(plugin: Plugin):
    plugin.fresh("f|")
    plugin.nvim.lua("vim.keymap.set('i', '(', '()<C-g>U<Left>', { buffer = true })")
    plugin.suggest("(a,\n  b")
    plugin.type("(")
    plugin.asked(2)
    plugin.shows("f()")


def test_each_part_is_one_step_of_undo(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("one two three")
    plugin.type("<M-w><M-w><Esc>u")
    plugin.wait(lambda: plugin.text() == "x = one", "one word is taken back")


def test_dismissing_hides_it_until_the_next_key(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.type("<C-]>")
    plugin.wait(lambda: not plugin.ghost(), "it is gone")
    plugin.settle()
    assert len(plugin.requests()) == 1
    plugin.type("2")
    plugin.asked(2)


def test_next_and_previous_ask_for_alternatives_and_cycle(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("one")
    plugin.type("<M-]>")
    request = plugin.asked(2)
    assert request["params"]["context"]["triggerKind"] == 1
    plugin.answer(request, "one", "two", "three")
    plugin.wait(lambda: "(2/3)" in plugin.lines()[0], "the second")
    assert plugin.ghost() == "two"
    for key, expected in (("<M-]>", "three"), ("<M-]>", "one"), ("<M-[>", "three")):
        plugin.type(key)
        plugin.wait(lambda e=expected: plugin.ghost() == e, expected)
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "x = three", "what is shown is inserted")
    assert plugin.commands("dlm.accepted") == [{"id": "3", "kind": "full"}]


def test_without_an_alternative_the_shown_one_stays(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("one")
    plugin.type("<M-]>")
    plugin.answer(plugin.asked(2), "one")
    plugin.settle()
    assert plugin.lines() == ["x = one"]


def test_asking_by_hand_asks_for_several(plugin: Plugin):
    plugin.fresh("x = |", silence={"filetypes": []})
    plugin.nvim.lua("require('dlm.silence').snooze(10)")
    plugin.insert()
    plugin.type("<M-Bslash>")
    request = plugin.asked()
    assert request["params"]["context"]["triggerKind"] == 1
    plugin.answer(request, "one", "two")
    plugin.wait(lambda: "(1/2)" in plugin.lines()[0], "the first of two")


def test_keys_fall_through_where_nothing_is_shown(plugin: Plugin):
    plugin.fresh("|")
    plugin.nvim.lua("vim.keymap.set('i', '<C-t>', 'mapped', { buffer = true })")
    plugin.insert()
    plugin.asked()
    plugin.type("a<Tab>b")
    plugin.wait(lambda: plugin.text() == "a   b", "Tab goes to the next column of four")


def test_a_key_that_was_mapped_keeps_its_meaning(plugin: Plugin):
    plugin.nvim.lua(
        "vim.keymap.set('i', '<C-g>x', 'plain', {})"
        " vim.keymap.set('i', '<C-g>y', function() return 'made' end, { expr = true })"
        " vim.keymap.set('i', '<C-g>z', function() Called = true end)"
        " require('dlm.config').set({ keys = { accept_word = '<C-g>x', accept_line = '<C-g>y',"
        " dismiss = '<C-g>z' } }) require('dlm.keys').set_defaults()"
    )
    plugin.fresh("|")
    plugin.insert()
    plugin.asked()
    plugin.type("<C-g>x,<C-g>y,<C-g>z")
    plugin.wait(lambda: plugin.text() == "plain,made,", "each does what it did")
    plugin.wait(lambda: plugin.nvim.lua("return Called == true"), "a function too")


def test_tab_indents_where_a_line_would_be_indented(plugin: Plugin):
    plugin.fresh("def f():\n    x = 1\n|")
    plugin.suggest("return x")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "def f():\n    x = 1\n    ", "it indents")


def test_tab_indents_where_the_suggestion_begins_with_blanks(plugin: Plugin):
    plugin.fresh("def f():\n|")
    plugin.suggest("    return 1")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "def f():\n    ", "it indents")
    plugin.shows("def f():", "    return 1")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "def f():\n    return 1", "now it accepts")


def test_tab_accepts_where_the_line_is_indented_already(plugin: Plugin):
    plugin.fresh("def f():\n    x = 1\n    |")
    plugin.suggest("return x")
    plugin.type("<Tab>")
    plugin.wait(lambda: plugin.text() == "def f():\n    x = 1\n    return x", "it accepts")


def test_tab_jumps_in_a_snippet(plugin: Plugin):
    plugin.fresh("|", silence={"snippets": False})
    plugin.insert()
    plugin.asked()
    plugin.nvim.lua("vim.snippet.expand('f(${1:a}, ${2:b})')")
    plugin.wait(lambda: plugin.text() == "f(a, b)", "it is expanded")
    plugin.type("x")
    plugin.wait(lambda: plugin.text() == "f(x, b)", "the first place is filled")
    request = plugin.wait(
        lambda: next(
            (r for r in plugin.requests() if r["params"]["position"]["character"] == 3), None
        ),
        "asked in the snippet",
    )
    plugin.answer(request, "yz")
    plugin.wait(plugin.ghost, "a suggestion")
    plugin.type("<Tab>")
    plugin.type("w")
    plugin.wait(lambda: plugin.text() == "f(x, w)", "Tab went to the second place")
    plugin.nvim.lua("vim.snippet.stop()")


def test_it_is_shown_beside_an_open_menu_whose_tab_is_its_own(plugin: Plugin):
    plugin.fresh("value = 1\nvault = 2\nx = va|")
    plugin.nvim.lua("vim.o.completeopt = 'menuone,noinsert'")
    plugin.insert()
    plugin.asked()
    plugin.type("<C-n>")
    plugin.wait(lambda: plugin.nvim.lua("return vim.fn.pumvisible()") == 1, "a menu")
    plugin.type("l")
    request = plugin.wait(
        lambda: next(
            (r for r in plugin.requests() if r["params"]["position"]["character"] == 7), None
        ),
        "asked beside the menu",
    )
    plugin.answer(request, "ue + 2")
    plugin.wait(lambda: plugin.ghost() == "ue + 2", "a suggestion beside the menu")
    assert plugin.nvim.lua("return vim.fn.pumvisible()") == 1
    plugin.type("<Tab>")
    plugin.settle()
    assert "ue + 2" not in plugin.text(), "Tab is the menu's"


def test_another_key_accepts_beside_an_open_menu(plugin: Plugin):
    plugin.fresh("value = 1\nvault = 2\nx = va|")
    plugin.nvim.lua("vim.o.completeopt = 'menuone,noinsert'")
    plugin.insert()
    plugin.asked()
    plugin.type("<C-n>l")
    request = plugin.wait(
        lambda: next(
            (r for r in plugin.requests() if r["params"]["position"]["character"] == 7), None
        ),
        "asked beside the menu",
    )
    plugin.answer(request, "ue + 2")
    plugin.wait(lambda: plugin.ghost() == "ue + 2", "a suggestion beside the menu")
    plugin.type("<M-l>")
    plugin.wait(lambda: plugin.text().endswith("x = value + 2"), "it is accepted")
    assert plugin.nvim.lua("return vim.fn.pumvisible()") == 0


@pytest.mark.parametrize(
    ("module", "function"), [("cmp", "visible"), ("blink.cmp", "is_menu_visible")]
)
def test_tab_is_left_to_the_menus_of_other_plugins(plugin: Plugin, module: str, function: str):
    plugin.fresh("x = |")
    plugin.suggest("1")
    set_open = "package.loaded[...] = { [select(2, ...)] = function() return true end }"
    plugin.nvim.lua(set_open, module, function)
    try:
        plugin.type("<Tab>")
        plugin.wait(lambda: plugin.text() != "x = ", "Tab falls through")
        assert plugin.text() == "x =     "
    finally:
        plugin.nvim.lua("package.loaded[...] = nil", module)


def test_a_menu_can_hide_suggestions(plugin: Plugin):
    plugin.fresh("value = 1\nvault = 2\nx = va|", menu="hide")
    plugin.nvim.lua("vim.o.completeopt = 'menuone,noinsert'")
    plugin.suggest("l + 1")
    plugin.type("<C-n>")
    plugin.wait(lambda: plugin.nvim.lua("return vim.fn.pumvisible()") == 1, "a menu")
    plugin.wait(lambda: not plugin.ghost(), "the suggestion is hidden")


def test_plug_maps_for_keys_of_ones_own(plugin: Plugin):
    plugin.nvim.lua(
        "vim.keymap.set('i', '<C-g>w', '<Plug>(dlm-accept-word)')"
        " vim.keymap.set('i', '<C-g>a', '<Plug>(dlm-accept)')"
    )
    plugin.fresh("x = |")
    plugin.suggest("one two")
    plugin.type("<C-g>w")
    plugin.wait(lambda: plugin.text() == "x = one", "a word")
    plugin.type("<C-g>a")
    plugin.wait(lambda: plugin.text() == "x = one two", "the rest")
    plugin.type("<C-g>a.")
    plugin.wait(lambda: plugin.text() == "x = one two.", "nothing where nothing is shown")


def test_functions_for_mappings_of_ones_own(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("one two")
    assert plugin.nvim.lua("return require('dlm').is_visible()")
    assert plugin.nvim.lua("return require('dlm').accept_word()")
    plugin.wait(lambda: plugin.text() == "x = one", "a word")
    assert plugin.nvim.lua("return require('dlm').accept()")
    plugin.wait(lambda: plugin.text() == "x = one two", "the rest")
    assert not plugin.nvim.lua("return require('dlm').accept()")


def test_the_default_keys_can_be_switched_off(binary, tmp_path):
    made = Plugin(binary, tmp_path, {"keys": False})
    try:
        made.fresh("x = |")
        made.suggest("1")
        made.type("<Tab>")
        made.wait(lambda: made.text().strip() == "x =" and made.text() != "x = ", "a Tab")
        assert made.nvim.lua("return vim.fn.maparg('<Plug>(dlm-accept)', 'i') ~= ''")
    finally:
        made.close()


def test_a_buffer_that_can_no_longer_be_changed_is_left_alone(plugin: Plugin):
    """The key does nothing else: Neovim itself says that the buffer cannot be changed."""
    plugin.fresh("x = |")
    plugin.suggest("value")
    plugin.nvim.lua("vim.bo.modifiable = false")
    assert plugin.nvim.lua("return require('dlm.accept').take('full')") is False
    assert plugin.text() == "x = "
    plugin.wait(lambda: plugin.lines() == ["x ="], "nothing is shown")
    plugin.nvim.lua("vim.bo.modifiable = true")
