"""What the repository may hold: its top level, its size, and the limits of style.

Reads what git tracks, or, in an unpacked archive, the files that are there.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "dlm_lsp",
    "docs",
    "editors",
    "engine",
    "examples",
    "fixtures",
    "pyproject.toml",
    "tests",
}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_top_level_is_as_designed() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_the_tree_stays_small() -> None:
    total = sum(path.stat().st_size for path in tracked())
    assert total < 56 * 2**20


def python_files() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def test_files_and_functions_stay_readable() -> None:
    too_long: list[str] = []
    for path in python_files():
        text = path.read_text("utf-8")
        if len(text.splitlines()) > 500:
            too_long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 70:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not too_long


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.parts[len(ROOT.parts)] in ("engine", "dlm_lsp")
        and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent
