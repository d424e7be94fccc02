"""Beside the menus of nvim-cmp and blink.cmp, whose Tab is their own.

They are no packages of any registry: DLM_TEST_PLUGINS names a folder with clones of them. What is
not there is left out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvim.plugin import Plugin

# Each offers two words, and chooses the first by Tab.
SET_UP = {
    "nvim-cmp": """
vim.opt.runtimepath:prepend(...)
local cmp, source = require('cmp'), {}
function source:complete(_, callback)
  callback({ { label = 'alphabet' }, { label = 'alphorn' } })
end
cmp.register_source('words', source)
cmp.setup({ sources = { { name = 'words' } }, mapping = {
  ['<Tab>'] = cmp.mapping(function(fallback)
    if cmp.visible() then cmp.select_next_item() else fallback() end
  end, { 'i' }) } })
vim.cmd.runtime('plugin/cmp.lua')
""",
    "blink.cmp": """
vim.opt.runtimepath:prepend(...)
local Source = {}
Source.__index = Source
package.preload['words_source'] = function() return Source end
function Source.new() return setmetatable({}, Source) end
function Source:get_completions(_, callback)
  callback({ items = { { label = 'alphabet' }, { label = 'alphorn' } },
    is_incomplete_forward = false, is_incomplete_backward = false })
end
require('blink.cmp').setup({ fuzzy = { implementation = 'lua' },
  keymap = { preset = 'super-tab' }, sources = { default = { 'words' },
    providers = { words = { name = 'words', module = 'words_source' } } } })
""",
}


@pytest.fixture(scope="module", params=sorted(SET_UP))
def beside(request: pytest.FixtureRequest, binary: Path) -> Iterator[Plugin]:
    """A Neovim with one of the menus, which was set up after the plugin."""
    name: str = request.param
    menu = Path(os.environ.get("DLM_TEST_PLUGINS", "")) / name
    if not (menu / "lua").is_dir():
        pytest.skip(f"DLM_TEST_PLUGINS names no folder with {name}.")
    folder = Path(tempfile.mkdtemp(prefix="dlm-nvim-")).resolve()
    made = Plugin(binary, folder)
    try:
        made.nvim.lua(SET_UP[name], str(menu))
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


def test_tab_is_the_open_menus_and_accepts_where_none_is_open(beside: Plugin):
    beside.fresh("|\nx")
    beside.insert()
    beside.type("al")
    beside.wait(lambda: "alphorn" in "".join(beside.lines()), "the menu")
    beside.wait(lambda: beside.requests()[-1:], "the server is asked")
    beside.settle()
    beside.answer(beside.requests()[-1], "pha = 1")
    beside.wait(lambda: beside.ghost() == "pha = 1", "it is shown beside the menu")
    beside.type("<Tab>")
    beside.wait(lambda: beside.text() in ("alphorn\nx", "alphabet\nx"), "the menu's entry")
    beside.type("<Esc>")
    beside.fresh("|\nx")
    beside.insert()
    beside.type("zz")
    beside.wait(lambda: beside.requests()[-1:], "the server is asked")
    beside.settle()
    beside.answer(beside.requests()[-1], " = 1")
    beside.wait(lambda: beside.ghost() == " = 1", "it is shown")
    beside.type("<Tab>")
    beside.wait(lambda: beside.text() == "zz = 1\nx", "it is accepted")
