"""Where the server's program is found, and that none is run that a stranger's project brings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.nvim.plugin import PLUGIN, Plugin

FIND = "local found, why = require('dlm.server').find(...) return { found or '', why or '' }"


@pytest.fixture
def project(plugin: Plugin, tmp_path: Path) -> Iterator[Path]:
    """A project with a program of its own; PATH is restored afterwards."""
    before = plugin.nvim.lua("return vim.env.PATH")
    folder = tmp_path.resolve() / "project"
    program(folder / ".venv" / "bin")
    (folder / ".git").mkdir()
    yield folder
    plugin.nvim.lua("vim.env.PATH = ...", before)


def program(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dlm-lsp"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def find(plugin: Plugin, project: Path, path: list[Path | str], *trusted: Path) -> tuple[str, str]:
    plugin.nvim.lua("vim.env.PATH = ...", os.pathsep.join(map(str, path)))
    found, why = plugin.nvim.lua(FIND, str(project), [str(one) for one in trusted])
    return found, why


def test_it_is_found_on_path(plugin: Plugin, project: Path, tmp_path: Path):
    expected = program(tmp_path / "bin")
    assert find(plugin, project, [tmp_path / "bin"])[0] == str(expected)


def test_one_inside_the_project_is_not_run(plugin: Plugin, project: Path, tmp_path: Path):
    inside = project / ".venv" / "bin"
    outside = program(tmp_path / "bin")
    assert find(plugin, project, [inside, tmp_path / "bin"])[0] == str(outside)


def test_a_link_to_one_inside_the_project_is_not_run(plugin: Plugin, project: Path, tmp_path: Path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "dlm-lsp").symlink_to(project / ".venv" / "bin" / "dlm-lsp")
    found, _ = find(plugin, project, [tmp_path / "links"])
    assert found != str(tmp_path / "links" / "dlm-lsp")


def test_a_project_that_is_trusted_may_bring_it(plugin: Plugin, project: Path):
    inside = project / ".venv" / "bin"
    assert find(plugin, project, [inside], project)[0] == str(inside / "dlm-lsp")


def test_relative_entries_of_path_are_left_out(plugin: Plugin, project: Path, tmp_path: Path):
    plugin.nvim.lua("vim.cmd.cd(...)", str(project / ".venv"))
    found, _ = find(plugin, project, ["bin", ".", ""])
    assert not found.startswith((str(project), "bin", "."))
    plugin.nvim.lua("vim.cmd.cd('/')")


def test_the_clones_own_environment_is_the_last_place(plugin: Plugin, project: Path):
    found, _ = find(plugin, project, [])
    assert found == str(ROOT / ".venv" / "bin" / "dlm-lsp")


def test_where_it_is_missing_its_installation_is_told(
    plugin: Plugin, project: Path, tmp_path: Path
):
    """The plugin as a copy of its folder alone, beside which no clone lies."""
    copy = tmp_path / "copied" / "editors" / "nvim" / "lua" / "dlm"
    copy.mkdir(parents=True)
    (copy / "server.lua").write_bytes((PLUGIN / "lua" / "dlm" / "server.lua").read_bytes())
    plugin.nvim.lua("vim.env.PATH = ...", str(project / ".venv" / "bin"))
    code = "local found, why = dofile(...).find(select(2, ...)) return { found or '', why }"
    found, why = plugin.nvim.lua(code, str(copy / "server.lua"), str(project), [])
    assert found == ""
    assert "inside the project" in why
    assert "'trusted'" in why
    plugin.nvim.lua("vim.env.PATH = ''")
    found, why = plugin.nvim.lua(code, str(copy / "server.lua"), str(project), [])
    assert found == ""
    assert "python3 -m venv" in why


def test_without_a_program_nothing_is_started_and_it_is_told_once(binary: Path, tmp_path: Path):
    made = Plugin(binary, tmp_path, {"cmd": ["no-such-program"]})
    try:
        made.nvim.lua(
            "local first, second = ..."
            " vim.lsp.config('dlm_lsp', { cmd = require('dlm.client').start })"
            " vim.cmd.edit(first) vim.bo.filetype = 'python'"
            " vim.cmd.edit(second) vim.bo.filetype = 'python'",
            str(tmp_path / "a.py"),
            str(tmp_path / "b.py"),
        )
        made.settle()
        notes = made.nvim.lua("return Notes")
        assert notes == ["dlm: the language server cannot be started; see :checkhealth dlm"]
        assert "no-such-program" in made.nvim.lua("return require('dlm.client').missing")
        assert made.nvim.lua("return #vim.lsp.get_clients()") == 0
    finally:
        made.close()
