"""A real Neovim as a child process, with an attached screen that tests can read.

Owns the process, the grid of cells it draws (text and highlight names, from its UI events) and
waiting for something to appear there. Knows neither the language server nor what is typed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvim

GHOST = "ComplHint"  # the highlight in which Neovim draws an inline completion


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the screen: its text, the names of its highlights, and how it looks.

    `style` is Neovim's: foreground, background, italic, underdotted and so on.
    """

    text: str = " "
    highlights: frozenset[str] = frozenset()
    style: tuple[tuple[str, Any], ...] = ()


@dataclass(slots=True)
class Screen:
    """The grid as Neovim's `ext_linegrid` events draw it."""

    columns: int
    rows: int
    cells: list[list[Cell]] = field(init=False)
    _highlights: dict[int, frozenset[str]] = field(default_factory=dict)
    _styles: dict[int, tuple[tuple[str, Any], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cells = [self._blank() for _ in range(self.rows)]

    def _blank(self) -> list[Cell]:
        return [Cell() for _ in range(self.columns)]

    def apply(self, name: str, arguments: list[Any]) -> None:
        """One UI event of grid 1; other kinds of event do not change the cells."""
        if name == "hl_attr_define":
            number, style, _, info = arguments
            self._styles[number] = tuple(sorted(style.items()))
            self._highlights[number] = frozenset(entry.get("hi_name", "") for entry in info)
        elif name == "grid_clear":
            self.cells = [self._blank() for _ in range(self.rows)]
        elif name == "grid_line":
            self._line(*arguments[1:4])
        elif name == "grid_scroll":
            self._scroll(*arguments[1:6])

    def _line(self, row: int, column: int, cells: list[list[Any]]) -> None:
        highlight = 0
        for text, *rest in cells:
            highlight = rest[0] if rest else highlight
            for _ in range(rest[1] if len(rest) > 1 else 1):
                names = self._highlights.get(highlight, frozenset())
                self.cells[row][column] = Cell(text, names, self._styles.get(highlight, ()))
                column += 1

    def _scroll(self, top: int, bottom: int, left: int, right: int, count: int) -> None:
        rows = range(top, bottom - count) if count > 0 else range(bottom - 1, top - count - 1, -1)
        for row in rows:
            self.cells[row][left:right] = self.cells[row + count][left:right]

    def lines(self) -> list[str]:
        """The screen's text by rows, without blanks at the end."""
        return ["".join(cell.text for cell in row).rstrip() for row in self.cells]

    def ghost(self) -> dict[int, str]:
        """The ghost text, by rows of the screen that contain some."""
        rows = {
            number: "".join(cell.text for cell in row if GHOST in cell.highlights)
            for number, row in enumerate(self.cells)
        }
        return {number: text for number, text in rows.items() if text.strip()}


class Neovim:
    """A Neovim that lives until `close` or, at the latest, `seconds_max`.

    Attributes:
        pause: the seconds between two looks at the screen while it is waited for something there.
        on_flush: called with each state of the screen that a user would see.
    """

    def __init__(
        self,
        binary: Path,
        environment: Mapping[str, str],
        seconds_max: float,
        arguments: Sequence[str] = ("--clean",),
    ) -> None:
        self.pause = 0.05
        self.on_flush: Callable[[Screen], None] = lambda screen: None
        argv = ["env", *(f"{key}={value}" for key, value in environment.items())]
        argv += [str(binary), "--embed", *arguments, "-n"]
        self.api = pynvim.attach("child", argv=argv)
        # A hanging Neovim would block every call; ending it makes the calls raise instead.
        self._guard = threading.Timer(seconds_max, _kill, [self.api.funcs.getpid()])
        self._guard.daemon = True
        self._guard.start()
        self.screen = Screen(columns=100, rows=30)
        self.api.ui_attach(
            self.screen.columns,
            self.screen.rows,
            rgb=True,
            ext_linegrid=True,
            ext_hlstate=True,
        )
        # It only links to another group, whose name the screen would then show.
        self.api.command(f"highlight! {GHOST} guifg=#808080 ctermfg=8")

    def close(self) -> None:
        """Ends the process; nothing is saved."""
        self._guard.cancel()
        with contextlib.suppress(OSError):  # The process has already ended.
            self.api.command("qall!", async_=True)
        self.api.close()

    def lua(self, code: str, *arguments: Any) -> Any:
        """Runs Lua in the child and returns its result."""
        return self.api.exec_lua(code, *arguments)

    def type(self, keys: str) -> None:
        """Sends keys as a user would type them, one event each (`<Esc>` and the like are one)."""
        self.api.input(keys)

    def buffer(self) -> str:
        """The current buffer's text."""
        return "\n".join(self.api.current.buffer[:]) + "\n"

    def refresh(self) -> Screen:
        """The screen after everything that Neovim has drawn so far."""
        self.lua("vim.rpcnotify(...)", self.api.channel_id, "drawn")
        while True:
            message = self.api.next_message()
            if message is None:
                raise EOFError("Neovim has ended.")
            _, name, events = message
            if name == "drawn":
                return self.screen
            for event, *calls in events:
                for arguments in calls:
                    self.screen.apply(event, arguments)
                if event == "flush":
                    self.on_flush(self.screen)

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Checks the condition after each screen update; returns its first true value."""
        deadline = time.monotonic() + seconds
        while True:
            self.refresh()
            if value := condition():
                return value
            if time.monotonic() > deadline:
                shown = "\n".join(self.screen.lines()).rstrip()
                raise AssertionError(f"{what}: not within {seconds:.0f} s. The screen:\n{shown}")
            time.sleep(self.pause)


def _kill(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)
