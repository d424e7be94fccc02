"""Draws a completion in a terminal while it is decoded: the hole in its surroundings, in shades.

Owns the picture (a pure function of the text around the hole and one state of the completion) and
the live region that shows it. The caller passes texts and a line of figures. Used only if the
output is a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dlm_lsp.client.messages import SpanBody
from engine.api import MASKED

CONTEXT, GUTTER, MASK, UNSURE, SURE, COMMITTED = (
    "default",
    "bright_black",
    "bright_black",
    "dim cyan",
    "cyan",
    "bold green",
)
SURE_CONFIDENCE = 0.6
LINES_AROUND = 6
TAB_COLUMNS = 4
# Terminal control codes in a file or a model's text are drawn as visible symbols.
_CONTROL_PICTURES: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t\r"},
    ord("\r"): "",  # Part of a line end.
    127: "\u2421",
    **dict.fromkeys(range(128, 160), "\ufffd"),
}


@dataclass(frozen=True, slots=True)
class TerminalHole:
    """A place in a file and the text around it.

    Attributes:
        title: the line above the picture, such as `file.py:12:5`.
        before: the text from the start of a line up to the place.
        after: the text after the place, up to the end of a line.
        first_line: number of the line that `before` starts with, counted from 1.
        filled: the ranges of `before` that the model wrote earlier.
    """

    title: str
    before: str
    after: str
    first_line: int
    filled: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ShownState:
    """One state of the completion; `spans` hold the confidence over `draft` in code points.

    The text replaces `replaced` code points after the place.
    """

    committed: str = ""
    draft: str = ""
    spans: tuple[SpanBody, ...] = ()
    replaced: int = 0


def hole_at(
    title: str,
    text: str,
    offset: int,
    lines_around: int = LINES_AROUND,
    filled: Sequence[tuple[int, int]] = (),
) -> TerminalHole:
    """Returns the hole at `offset` of `text`, with up to `lines_around` whole lines on each side.

    `filled` holds the ranges of `text` before the hole that the model wrote earlier.
    """
    before = text[:offset].split("\n")
    after = text[offset:].split("\n")
    kept = before[-(lines_around + 1) :]
    base = offset - len("\n".join(kept))
    return TerminalHole(
        title=title,
        before=text[base:offset],
        after="\n".join(after[: lines_around + 1]).rstrip("\n"),
        first_line=len(before) - len(kept) + 1,
        filled=tuple((max(start - base, 0), end - base) for start, end in filled if end > base),
    )


def picture(hole: TerminalHole, state: ShownState, columns: int, rows_max: int) -> Text:
    """Returns the hole with `state` in it as numbered, shaded lines that fit the given size.

    If there are too many rows, those farthest from the end of the text in the hole are left out.
    """
    body = Text()
    body.append_text(_shaded_before(hole))
    body.append(_visible(state.committed), COMMITTED)
    body.append_text(_shaded_draft(state.draft, state.spans))
    end_row = body.plain.count("\n")
    body.append(_visible(hole.after[state.replaced :]), CONTEXT)
    body.expand_tabs(TAB_COLUMNS)
    rows = body.split("\n", allow_blank=True)
    numbers = range(hole.first_line, hole.first_line + len(rows))
    digits = len(str(numbers[-1]))
    numbered = [
        Text.assemble((f" {number:>{digits}} │ ", GUTTER), row, no_wrap=True)
        for number, row in zip(numbers, rows, strict=True)
    ]
    shown = _nearest(numbered, end_row, max(rows_max - 1, 1))
    for row in shown:
        row.truncate(columns, overflow="ellipsis")
    return Text("\n").join([Text(f" {_visible(hole.title)}", "bold"), *shown])


def legend() -> Text:
    """Returns the legend of the shades."""
    return Text.assemble(
        " ", (f"{MASKED * 3} masked", MASK), "   ", ("draft", SURE), "   ", ("committed", COMMITTED)
    )


class LiveView:
    """A region of the terminal that shows the latest state of a hole.

    Use as a context manager; the last state drawn stays on the screen.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, hole: TerminalHole, state: ShownState, below: Text | None = None) -> None:
        """Draws the hole with `state` in it, and a line below it (by default the legend)."""
        # Rows are left for the title, the line below and the cursor, because a region as high as
        # the terminal would scroll and leave copies of itself.
        rows_max = self._console.height - 3
        view = picture(hole, state, self._console.width - 1, rows_max)
        self._live.update(Text("\n").join([view, below or legend()]), refresh=True)


def _shaded_before(hole: TerminalHole) -> Text:
    shaded = Text()
    place = 0
    for start, end in hole.filled:
        shaded.append(_visible(hole.before[place:start]), CONTEXT)
        shaded.append(_visible(hole.before[start:end]), COMMITTED)
        place = end
    return shaded.append(_visible(hole.before[place:]), CONTEXT)


def _shaded_draft(draft: str, spans: Sequence[SpanBody]) -> Text:
    sure = {
        place
        for span in spans
        if span.confidence >= SURE_CONFIDENCE
        for place in range(span.start, span.end)
    }

    def style(place: int) -> str:
        return MASK if draft[place] == MASKED else SURE if place in sure else UNSURE

    shaded = Text()
    for shade, places in groupby(range(len(draft)), style):
        shaded.append(_visible("".join(draft[place] for place in places)), shade)
    return shaded


def _nearest(rows: list[Text], centre: int, count: int) -> list[Text]:
    """Returns up to `count` rows around `centre`, two thirds above it if both sides have enough."""
    if len(rows) <= count:
        return rows
    last = min(len(rows), centre + 1 + count // 3)
    first = max(0, last - count)
    return rows[first : first + count]


def _visible(text: str) -> str:
    shown = text.translate(_CONTROL_PICTURES)
    return shown.encode("utf-8", "replace").decode()  # File names may contain surrogates.
