"""Writes the pictures of the extension's README: a real VS Code, whose server is scripted.

    python -m tests.vscode.screenshots [--out FOLDER]

Each scene is also a test (test_looks.py), in every theme.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import Bench, bench_with
from tests.vscode.programs import EXTENSION, missing
from tests.vscode.test_fill_refine import SELECT, refine_state, refined

SIZE = {"width": 760, "height": 400}
THEMES = {
    "dark": "Dark Modern",
    "light": "Light Modern",
    "contrast": "Default High Contrast",
    "contrast-light": "Default High Contrast Light",
}
SOURCE = '''\
class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner: str, balance: float) -> None:
        self.owner = owner
        self.balance = balance

    def withdraw(self, amount: float) -> None:
        """Take money out; there must be enough of it."""
        |

    def __repr__(self) -> str:
        return f"Account({self.owner!r}, {self.balance})"
'''
GHOST = """ amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount"""
REFINED = '''\
def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    total = 0.0
    for value in values:
        total -= value
    return total / len(values)
'''
QUIET: dict[str, Any] = {
    "breadcrumbs.enabled": False,
    "editor.glyphMargin": False,
    "editor.folding": False,
    "editor.fontSize": 14,
    "editor.scrollbar.horizontal": "hidden",
    "editor.scrollbar.vertical": "hidden",
    "editor.overviewRulerBorder": False,
    "editor.hideCursorInOverviewRuler": True,
    "workbench.activityBar.location": "hidden",
    "workbench.sideBar.location": "right",
    "workbench.statusBar.visible": True,
}


def show_ghost(bench: Bench) -> None:
    """A suggestion of several lines, as the editor draws it."""
    request = bench.begin(SOURCE, "if", name="account.py")
    bench.stub.suggest(request, GHOST)
    bench.shows_ghost(GHOST)
    bench.stub.status(lastMs=212, model="qwen2.5-coder-1.5b")


def show_draft(bench: Bench) -> None:
    """A draft of which some is decided."""
    request = bench.begin(SOURCE, "if", name="account.py")
    bench.stub.draft(request, " amount > ", "self.░░░░░░░:")
    bench.shows_draft(" amount > self.░░░░░░░:")
    bench.stub.status("busy", model="qwen2.5-coder-1.5b")


def show_refinement(bench: Bench) -> None:
    """A change that waits to be accepted."""
    bench.fresh(REFINED, name="mean.py")
    bench.driver.run(SELECT, 4, 0, 4, 22)
    wait_for(
        lambda: any("selected" in one for one in bench.texts(".statusbar-item")), "a selection"
    )
    bench.press("Control+Alt+r")
    request = bench.stub.commanded("dlm.refine")
    refine_state(bench, request, "        total ░░ value", 1)
    refined(bench, request, "        total += value")
    wait_for(lambda: "accepts" in bench.draft(), "the change")
    wait_for(lambda: not bench.notifications(), "its progress has gone")
    bench.stub.status(model="qwen2.5-coder-1.5b")


SCENES: dict[str, Callable[[Bench], None]] = {
    "ghost": show_ghost,
    "draft": show_draft,
    "refine": show_refinement,
}
# The pictures of the README: a scene in a theme.
PICTURES = {
    "dark.png": ("ghost", "dark"),
    "light.png": ("ghost", "light"),
    "draft.png": ("draft", "dark"),
    "refine.png": ("refine", "dark"),
}


def prepare(bench: Bench) -> None:
    """Leaves only the editor in the window."""
    bench.page.set_viewport_size(SIZE)
    bench.command("workbench.action.closeSidebar")
    bench.command("workbench.action.closeAuxiliaryBar")


def show(bench: Bench, scene: str, theme: str) -> None:
    """Brings a scene onto the screen."""
    bench.settings({"workbench.colorTheme": THEMES[theme]})
    SCENES[scene](bench)
    bench.settle()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=EXTENSION / "media")
    parser.add_argument("--all", action="store_true", help="every scene in every theme")
    options = parser.parse_args()
    reason = missing()
    if reason:
        raise SystemExit(reason)
    pictures = PICTURES
    if options.all:
        pictures = {f"{a}-{b}.png": (a, b) for a in SCENES for b in THEMES}
    options.out.mkdir(parents=True, exist_ok=True)
    with bench_with(**QUIET) as bench:
        prepare(bench)
        for name, (scene, theme) in pictures.items():
            show(bench, scene, theme)
            bench.screenshot(options.out / name)
            print(options.out / name, (options.out / name).stat().st_size)


if __name__ == "__main__":
    main()
