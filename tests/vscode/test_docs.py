"""The extension's README says what the code does."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from tests.e2e.conftest import ROOT

EXTENSION = ROOT / "editors" / "vscode"
README = (EXTENSION / "README.md").read_text("utf-8")
MANIFEST = json.loads((EXTENSION / "package.json").read_text("utf-8"))
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_tick_of_the_table_names_a_test_that_is_there() -> None:
    table = README.split("## Beside other extensions")[1]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| what " not in line]
    assert len(rows) > 25
    for row in (row for row in rows if not row.startswith("| what")):
        named = _TEST.search(row)
        assert named, row
        source = ROOT / named[1]
        assert source.is_file(), row
        if named[2]:
            found = ast.walk(ast.parse(source.read_text("utf-8")))
            names = {
                node.name
                for node in found
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert named[2] in names, row


def test_the_keys_of_the_readme_are_those_of_the_manifest() -> None:
    bound = {one["key"] for one in MANIFEST["contributes"]["keybindings"]}
    written = {key.lower() for key in re.findall(r"`(Ctrl\+Alt\+\w+)`", README)}
    assert written == {key for key in bound if key.startswith("ctrl+alt+")}


def test_the_extension_has_the_version_of_the_server() -> None:
    version = re.search(r'VERSION = "(.+)"', Path(ROOT / "dlm_lsp/version.py").read_text("utf-8"))
    assert version
    assert MANIFEST["version"] == version[1]


def test_every_command_in_the_readme_and_the_walkthrough_is_there() -> None:
    commands = {one["command"] for one in MANIFEST["contributes"]["commands"]}
    steps = [step for one in MANIFEST["contributes"]["walkthroughs"] for step in one["steps"]]
    named = set(re.findall(r"command:(dlm\.\w+)", json.dumps(steps)))
    assert named
    assert named <= commands
    for step in steps:
        assert (EXTENSION / step["media"]["markdown"]).is_file()
