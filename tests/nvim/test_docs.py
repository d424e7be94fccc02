"""`:help dlm` and the README say what the code does."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT
from tests.nvim.plugin import PLUGIN, Plugin

HELP = (PLUGIN / "doc" / "dlm.txt").read_text("utf-8")
README = (PLUGIN / "README.md").read_text("utf-8")
TAGS = set(re.findall(r"\*([^*\s|]+)\*", HELP))
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def flattened(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[above + name] = value
        if isinstance(value, dict):
            found |= flattened(value, f"{above}{name}.")
    return found


def table_rows() -> list[list[str]]:
    lines = README.split("## Beside other plugins")[1].split("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| what ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_every_command_is_documented_and_no_other(plugin: Plugin):
    names = plugin.nvim.lua("return require('dlm.commands').names()")
    assert {f":Dlm-{name}" for name in names} == {tag for tag in TAGS if tag.startswith(":Dlm-")}


def test_every_setting_is_documented_with_its_default(plugin: Plugin):
    plugin.nvim.lua("require('dlm.config').set({})")
    settings = flattened(plugin.nvim.lua("return require('dlm.config').defaults"))
    tagged = {tag.removeprefix("dlm.") for tag in TAGS if re.fullmatch(r"dlm\.[\w.]+", tag)}
    assert tagged == {*settings, "cmd", "txt"}  # The last is the file's own tag.
    told = dict(re.findall(r"^ *(\S.*?) += \S.*?\s+\*dlm\.([\w.]+)\*$", HELP, re.MULTILINE))
    assert told, "each is written as name = default"
    for full, value in settings.items():
        line = next(line for line in HELP.splitlines() if f"*dlm.{full}*" in line)
        shown = line.split(" = ", 1)[1].rsplit("*dlm.", 1)[0].strip()
        if not isinstance(value, dict) or not value:
            expected = plugin.nvim.lua("return vim.inspect(...)", value).replace('"', "'")
            expected = {"vim.empty_dict()": "{}"}.get(expected, expected)
            assert shown == expected, full


def test_every_function_is_documented_and_no_other(plugin: Plugin):
    functions = set(plugin.nvim.lua("return vim.tbl_keys(require('dlm'))"))
    tagged = {tag for tag in TAGS if re.fullmatch(r"dlm\.\w+\(\)", tag)}
    assert tagged == {f"dlm.{name}()" for name in functions}


def test_every_key_is_documented_with_its_map(plugin: Plugin):
    names = plugin.nvim.lua("return require('dlm.keys').names()")
    plugs = {plugin.nvim.lua("return require('dlm.keys').plug(...)", name) for name in names}
    assert plugs == {tag for tag in TAGS if tag.startswith("<Plug>")}
    keys = plugin.nvim.lua("return require('dlm.config').defaults.keys")
    for name, key in keys.items():
        plug = plugin.nvim.lua("return require('dlm.keys').plug(...)", name)
        line = next(line for line in HELP.splitlines() if f"*{plug}*" in line)
        assert line.split()[0] == key


def test_every_highlight_group_is_documented(plugin: Plugin):
    plugin.fresh("|")
    groups = plugin.nvim.lua(
        "return vim.tbl_filter(function(name) return vim.startswith(name, 'Dlm') end,"
        " vim.tbl_keys(vim.api.nvim_get_hl(0, {})))"
    )
    assert {f"hl-{name}" for name in groups} == {tag for tag in TAGS if tag.startswith("hl-")}


def test_the_help_has_tags_and_no_dead_links(plugin: Plugin, tmp_path: Any):
    doc = tmp_path / "doc"
    doc.mkdir()
    (doc / "dlm.txt").write_text(HELP)
    plugin.nvim.lua("vim.cmd.helptags(...)", str(doc))
    assert {line.split("\t")[0] for line in (doc / "tags").read_text().splitlines()} == TAGS
    links = set(re.findall(r"\|([^|\s]+)\|", HELP)) - {":checkhealth"}
    assert links <= TAGS
    assert max(map(len, HELP.splitlines())) <= 80


def test_the_module_layout_is_neovims():
    for name in ("init", "config", "client", "suggestion", "ghost", "refine", "status", "health"):
        assert (PLUGIN / "lua" / "dlm" / f"{name}.lua").is_file()
    for name in ("plugin/dlm.lua", "lsp/dlm_lsp.lua", "doc/dlm.txt"):
        assert (PLUGIN / name).is_file()


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_each_tick_names_a_test_that_is_there(row: list[str]):
    assert len(row) == 6
    assert row[1] in ("✓", "–")
    if row[1] == "–":
        assert row[5].strip("| ") == ""
        return
    found = _TEST.search(row[5])
    assert found, "a tick without a test"
    tree = ast.parse((ROOT / found[1]).read_text("utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert found[2] is None or found[2] in names


def test_all_modules_say_what_they_are_for():
    for path in sorted(PLUGIN.rglob("*.lua")):
        text = path.read_text("utf-8")
        assert text.startswith("-- "), path.name
        assert len(text.splitlines()) <= 560, path.name


def test_the_recording_is_a_small_picture_of_many_frames():
    text = (PLUGIN / "refining.svg").read_text("utf-8")
    frames = list(ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}animate"))
    assert len(frames) >= 5
    assert len(text) < 100_000


def test_help_is_found_without_making_tags_first(plugin: Plugin):
    plugin.fresh("x = 1")
    plugin.nvim.api.command("help dlm.keys.accept")
    assert plugin.nvim.lua("return vim.fn.expand('%:t')") == "dlm.txt"
    assert "*dlm.keys.accept*" in plugin.nvim.api.current.line


def test_the_tags_are_those_of_the_help(plugin: Plugin, tmp_path: Path):
    (tmp_path / "dlm.txt").write_text(HELP, "utf-8")
    plugin.nvim.lua("vim.cmd.helptags(...)", str(tmp_path))
    assert (PLUGIN / "doc" / "tags").read_text("utf-8") == (tmp_path / "tags").read_text("utf-8"), (
        "make them anew by 'nvim --headless -c \"helptags editors/nvim/doc\" -c q'"
    )
