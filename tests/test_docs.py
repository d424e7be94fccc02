"""The files and functions that the documentation names are there.

A name is read from backticks: `path/file.py`, or `path/file.py:Class.method`, which is looked up in
the file's syntax tree.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
_NAME = re.compile(r"`((?:engine|dlm_lsp|tests|examples)/[\w./]*\w\.py)(?::([\w.]+))?`")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def names_in(text: str) -> list[tuple[str, str]]:
    """The files that a text names, each with a qualified name in it, or an empty one."""
    return [(match[1], match[2] or "") for match in _NAME.finditer(text)]


def is_there(path: str, name: str) -> bool:
    """Whether the file exists and defines the name; without a name, the file is enough."""
    if not (ROOT / path).is_file():
        return False
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text("utf-8")).body
    for part in name.split(".") if name else ():
        found = next(
            (
                node
                for node in scope
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == part
            ),
            None,
        )
        if found is None:
            return False
        scope = found.body
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = [(path, name) for path, name in names_in(text) if "NAME" not in path]  # a placeholder
    gone = [f"{path}:{name}" for path, name in named if not is_there(path, name)]
    assert not gone
    links = [target for target in _LINK.findall(text) if not (page.parent / target).exists()]
    assert not links


def test_the_life_of_a_request_is_told_with_names() -> None:
    """Else the test above would have nothing to look up."""
    names = names_in((ROOT / "docs" / "request.md").read_text("utf-8"))
    assert sum(bool(name) for _, name in names) > 40
    told = {path.split("/")[1] for path, _ in names if path.startswith("dlm_lsp/")}
    assert {"lsp", "session", "postprocess", "client", "host"} <= told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`tests/test_docs.py:is_there`", True),
        ("`engine/engine.py:Engine.submit`", True),
        ("`engine/engine.py:Engine.submitted`", False),
        ("`engine/engine.py:submit`", False),
        ("`engine/motor.py`", False),
    ],
)
def test_a_wrong_name_is_caught(text: str, expected: bool) -> None:
    (named,) = names_in(text)
    assert is_there(*named) == expected
