"""Records a draft that refines in a real Neovim with a real model, as an animated SVG.

    python -m tests.nvim.record --model qwen2.5-coder-0.5b --out editors/nvim/refining.svg

The screen is Neovim's own, as its UI events draw it; only the times between frames are bounded, so
that a slow machine makes no long film.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from tests.e2e.conftest import ROOT
from tests.e2e.neovim_child import Cell, Neovim, Screen

PLUGIN = ROOT / "editors" / "nvim"
SOURCE = '''\
class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner: str, balance: float) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: float) -> None:
        self.balance += amount

    def withdraw(self, amount: float) -> None:
        """Take money out; there must be enough of it."""


    def __repr__(self) -> str:
        return f"Account({self.owner!r}, {self.balance})"
'''
LINE = 13  # The empty line under the docstring.
COLUMNS, ROWS = 76, 19
WIDTH, HEIGHT = 8.4, 18  # of a cell, in pixels
FRAME_SECONDS = (0.08, 1.2)  # A frame is shown no shorter and no longer than this.
END_SECONDS = 3.0
SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One state of the screen, and when it was seen."""

    rows: tuple[tuple[Cell, ...], ...]
    at: float


def frame_of(screen: Screen, now: float) -> Frame:
    return Frame(tuple(tuple(row[:COLUMNS]) for row in screen.cells[:ROWS]), now)


def record(binary: Path, checkpoint: str, mode: str, folder: Path) -> list[Frame]:
    """Returns the frames from the first draft to the accepted text."""
    file = folder / "account.py"
    file.write_text(SOURCE)
    options = {"server": {"engine": {"checkpoint": checkpoint}, "mode": mode}}
    init = folder / "init.lua"
    init.write_text(
        f"vim.g.dlm = vim.json.decode({json.dumps(json.dumps(options))})\n"
        f"vim.opt.runtimepath:append('{PLUGIN}')\nvim.o.laststatus = 0\nvim.o.ruler = false\n"
        "vim.o.showmode = false\nvim.o.background = 'dark'\n"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm"}
    nvim = Neovim(binary, environment, SECONDS_MAX, ["-u", str(init), "-i", "NONE", str(file)])
    nvim.pause = 0.01
    try:
        ready = "return require('dlm.status').get().server.state == 'ready'"
        nvim.wait_for(lambda: nvim.lua(ready), "the model is loaded", SECONDS_MAX)
        nvim.lua("vim.api.nvim_win_set_cursor(0, { ..., 0 })", LINE)
        nvim.type("S")
        nvim.wait_for(lambda: nvim.lua("return vim.fn.mode()") == "i", "insert mode")
        frames = [frame_of(nvim.screen, time.monotonic())]
        nvim.on_flush = lambda screen: frames.append(frame_of(screen, time.monotonic()))
        nvim.type("<Cmd>Dlm fill<CR>")
        final = (
            "local s = require('dlm.suggestion').shown() return s ~= nil and s.is_final"
            " and s.request == nil"
        )
        nvim.wait_for(lambda: nvim.lua(final), "the text is final", SECONDS_MAX)
        time.sleep(0.2)
        nvim.refresh()
        before = nvim.buffer()
        nvim.type("<Tab>")
        nvim.wait_for(lambda: nvim.buffer() != before, "it is accepted")
        nvim.refresh()
    finally:
        nvim.close()
    return distinct(frames)


def distinct(frames: list[Frame]) -> list[Frame]:
    """The frames without those that look like the one before."""
    found = frames[:1]
    for frame in frames[1:]:
        if frame.rows != found[-1].rows:
            found.append(frame)
    return found


def styles_of(cell: Cell) -> str:
    style = dict(cell.style)
    parts = []
    if "foreground" in style:
        parts.append(f"fill:#{style['foreground']:06x}")
    if style.get("italic"):
        parts.append("font-style:italic")
    if style.get("bold"):
        parts.append("font-weight:bold")
    if style.get("strikethrough"):
        parts.append("text-decoration:line-through")
    elif style.get("underdotted"):
        parts.append("text-decoration:underline dotted")
    return ";".join(parts)


def row_of(cells: tuple[Cell, ...], row: int) -> str:
    """A row as SVG text, one span for each run of cells that look alike."""
    spans: list[str] = []
    column = 0
    while column < len(cells):
        end = column
        while end < len(cells) and cells[end].style == cells[column].style:
            end += 1
        text = "".join(cell.text for cell in cells[column:end])
        if text.strip():
            style = styles_of(cells[column])
            attribute = f' style="{style}"' if style else ""
            # Placed and sized by cells, so that a font of another width shows the same columns.
            lead = len(text) - len(text.lstrip(" "))
            shown = text.strip(" ")
            place = f'x="{(column + lead) * WIDTH:.1f}" textLength="{len(shown) * WIDTH:.1f}"'
            spans.append(f"<tspan {place}{attribute}>{escape(shown)}</tspan>")
        column = end
    if not spans:
        return ""
    return f'<text y="{(row + 1) * HEIGHT}" xml:space="preserve">{"".join(spans)}</text>'


def durations(frames: list[Frame]) -> list[float]:
    """How long each frame is shown."""
    least, most = FRAME_SECONDS
    found = [min(max(after.at - before.at, least), most) for before, after in pairwise(frames)]
    return [*found, END_SECONDS]


def to_svg(frames: list[Frame], title: str) -> str:
    """The frames as one animated picture, which repeats. What all frames share is drawn once."""
    shown = durations(frames)
    total = sum(shown)
    width, height = COLUMNS * WIDTH + 20, (ROWS + 0.6) * HEIGHT + 12
    common = [row for row in range(ROWS) if len({frame.rows[row] for frame in frames}) == 1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        ' font-family="ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="14"'
        f' fill="#e0e2ea"><title>{escape(title)}</title>'
        '<rect width="100%" height="100%" rx="8" fill="#14161b"/>'
        '<g transform="translate(10 6)">',
        *(row_of(frames[0].rows[row], row) for row in common),
    ]
    began = 0.0
    for frame, seconds in zip(frames, shown, strict=True):
        rows = "".join(row_of(frame.rows[row], row) for row in range(ROWS) if row not in common)
        start, stop = began / total, (began + seconds) / total
        times = f"0;{start:.4f};{stop:.4f}" if start else f"0;{stop:.4f}"
        values = "none;inline;none" if start else "inline;none"
        parts.append(
            f'<g display="none">{rows}<animate attributeName="display" calcMode="discrete"'
            f' dur="{total:.2f}s" repeatCount="indefinite" keyTimes="{times}"'
            f' values="{values}"/></g>'
        )
        began += seconds
    return "\n".join([*parts, "</g></svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="a pulled model's name")
    parser.add_argument("--mode", default="block")
    parser.add_argument("--out", type=Path, default=PLUGIN / "refining.svg")
    parser.add_argument("--nvim", type=Path, default=ROOT / ".venv/nvim/bin/nvim")
    options = parser.parse_args()
    command = [sys.executable, "-m", "dlm_lsp", "model", "path", options.model]
    checkpoint = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        frames = record(options.nvim, checkpoint, options.mode, Path(folder))
    title = f"{options.model} fills a method in Neovim, mode {options.mode}"
    options.out.write_text(to_svg(frames, title), "utf-8")
    print(f"{options.out}: {len(frames)} frames, {options.out.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
