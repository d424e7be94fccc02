"""Cuts training examples out of source files: a cursor, and the text to be typed there.

This module owns the distribution of holes. Cuts are between characters, as in serving; the pieces
are then tokenised separately. A scene has several holes above one far suffix, as typing and moving
the cursor leave them, so that their long context is computed only once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from engine.lab.data.corpus import Source

# Bounds a scene, and with it the work per example, in long files.
_REACH_CHARS = 4_500
_MIDDLE_CHARS_MAX = 400
_LINES_BELOW = 2
_LINES_BELOW_MAX = 8

CURSORS = ("line_tail", "word", "line_start", "column_zero", "line_end")
_CURSOR_SHARES = (0.42, 0.14, 0.32, 0.04, 0.08)
ENDS = ("line", "lines", "scope", "closer", "anywhere")
_END_SHARES = (0.68, 0.15, 0.06, 0.08, 0.03)
# Lines after the first. A middle has to become likelier to end with every line: greedy decoding
# never ends if the next line break is always the likelier token.
_EXTRA_LINES = (1, 2, 3, 5)
_EXTRA_LINE_SHARES = (0.45, 0.25, 0.2, 0.1)
_SCOPE_LINES_MAX = 6
_CLOSERS = re.compile(r"[)\]}\"'>]+[:,;]?$")
_NO_SUFFIX_SHARE = 0.04
# The share of the cursors after a whole line where nothing is missing.
_EMPTY_SHARE = 0.5
# The share of a scene's holes that end on the line for which the far suffix was set.
_ANCHORED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Pieces:
    """The four texts of an infilling example; the file has prefix, middle, near, far."""

    far: str
    prefix: str
    near: str
    middle: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Holes of one text that share a far suffix.

    Attributes:
        far_start: the offset of the far suffix; None if no text follows any hole.
        holes: the (start, end) offsets of at least one hole, in order, without duplicates.
    """

    text: str
    far_start: int | None
    holes: tuple[tuple[int, int], ...]

    @property
    def far(self) -> str:
        """The far suffix."""
        return "" if self.far_start is None else self.text[self.far_start :]

    def pieces(self, hole: tuple[int, int]) -> Pieces:
        """The texts of one hole."""
        start, end = hole
        near = "" if self.far_start is None else self.text[end : self.far_start]
        return Pieces(self.far, self.text[:start], near, self.text[start:end])


class LineIndex:
    """The lines of a text; line i is text[start(i):end(i)], without its line break."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def __len__(self) -> int:
        return len(self._starts)

    def start(self, line: int) -> int:
        """The offset of a line's first character; after the last line the text's length."""
        return self._starts[line] if line < len(self._starts) else len(self.text)

    def end(self, line: int) -> int:
        """The offset after a line's last character, before its line break."""
        return self.start(line + 1) - 1 if line + 1 < len(self._starts) else len(self.text)

    def line_of(self, offset: int) -> int:
        """The line on which an offset lies."""
        return bisect_right(self._starts, offset) - 1

    def indentation(self, line: int) -> int:
        """The number of blanks at the line's start; -1 for a blank line."""
        content = self.text[self.start(line) : self.end(line)]
        stripped = content.lstrip(" \t")
        return len(content) - len(stripped) if stripped else -1


def draw_scene(source: Source, rng: np.random.Generator, holes: int) -> Scene:
    """A random part of a file with up to `holes` holes.

    The far suffix starts two lines below a hole if its mark was just set, or one to eight lines
    after some typing; the other holes end one to eight lines above it.
    """
    text = _neighbourhood(source.text, rng)
    lines = LineIndex(text)
    anchor = _random_line(lines, 0, len(lines), rng)
    draw = rng.random()
    below = _LINES_BELOW if draw < 0.65 else int(rng.integers(1, _LINES_BELOW_MAX + 1))
    mark = anchor + below
    chosen: set[tuple[int, int]] = set()
    for _ in range(holes):
        last = anchor
        if rng.random() >= _ANCHORED_SHARE:
            last = _random_line(lines, mark - _LINES_BELOW_MAX, min(mark, len(lines)), rng)
        chosen.add(_hole(lines, last, mark, rng))
    bare = rng.random() < _NO_SUFFIX_SHARE
    return Scene(text, None if bare else lines.start(mark), tuple(sorted(chosen)))


def _hole(lines: LineIndex, last: int, mark: int, rng: np.random.Generator) -> tuple[int, int]:
    """A hole that ends on line `last` or, for some kinds, between it and line `mark`."""
    cursor_kind = CURSORS[rng.choice(len(CURSORS), p=_CURSOR_SHARES)]
    end_kind = ENDS[rng.choice(len(ENDS), p=_END_SHARES)]
    extra = int(rng.choice(_EXTRA_LINES, p=_EXTRA_LINE_SHARES))
    if cursor_kind == "line_end":
        if rng.random() < _EMPTY_SHARE:
            return lines.end(last), lines.end(last)
        end_kind = "lines"
    first = max(0, last - extra) if end_kind == "lines" else last
    start = place_cursor(lines, first, cursor_kind, rng)
    end = lines.end(last) if end_kind == "lines" else place_end(lines, start, end_kind, rng)
    if lines.line_of(end) >= mark or end - start > _MIDDLE_CHARS_MAX:
        end = min(lines.end(first), start + _MIDDLE_CHARS_MAX)
    return start, end


def _random_line(lines: LineIndex, low: int, high: int, rng: np.random.Generator) -> int:
    """A line of low..high-1, preferably not a blank one."""
    low = max(low, 0)
    line = int(rng.integers(low, high))
    for _ in range(8):
        if lines.indentation(line) >= 0:
            break
        line = int(rng.integers(low, high))
    return line


def place_cursor(lines: LineIndex, line: int, kind: str, rng: np.random.Generator) -> int:
    """The offset of a cursor on a line."""
    text = lines.text
    start, end = lines.start(line), lines.end(line)
    first = start + max(lines.indentation(line), 0)
    if kind == "column_zero":
        return start
    if kind == "line_start":
        return first
    if kind == "line_end":
        return end
    if kind == "word":
        inside = [m.span() for m in re.finditer(r"\w{2,}", text[start:end])]
        if inside:
            low, high = inside[rng.integers(len(inside))]
            return start + int(rng.integers(low + 1, high))
    if kind == "line_tail" and rng.random() < 0.6:
        boundaries = [m.end() for m in re.finditer(r"\w+|[^\w\s]+ ?| ", text[first:end])][:-1]
        if boundaries:
            return first + boundaries[rng.integers(len(boundaries))]
    # The place after the last character is "line_end", which has to stay as rare as in real typing:
    # a model that has not learnt much yet ends at once if the end is its likeliest token.
    return int(rng.integers(first, max(end, first + 1)))


def place_end(lines: LineIndex, cursor: int, kind: str, rng: np.random.Generator) -> int:
    """The offset where the text to be typed ends, for a cursor before its line's end."""
    line = lines.line_of(cursor)
    line_end = lines.end(line)
    if kind == "scope":
        return _scope_end(lines, line)
    if kind == "closer":
        closers = _CLOSERS.search(lines.text, cursor, line_end)
        return closers.start() if closers else line_end
    if kind == "anywhere":
        return int(rng.integers(cursor, line_end + 1))
    return line_end


def _scope_end(lines: LineIndex, line: int) -> int:
    """The end of at most 6 lines from `line` on that are indented at least as far."""
    depth = max(lines.indentation(line), 0)
    last = line
    for following in range(line + 1, min(line + _SCOPE_LINES_MAX, len(lines))):
        indentation = lines.indentation(following)
        if 0 <= indentation < depth:
            break
        if indentation >= 0:
            last = following
    return lines.end(last)


def _neighbourhood(text: str, rng: np.random.Generator) -> str:
    """Whole lines around a random place of the file; the file's end stays the end."""
    if len(text) <= 2 * _REACH_CHARS:
        return text
    centre = int(rng.integers(len(text)))
    low = text.rfind("\n", 0, max(0, centre - _REACH_CHARS)) + 1
    high = text.find("\n", centre + _REACH_CHARS)
    return text[low:] if high < 0 else text[low : high + 1]
