"""Cuts training examples out of source files: where the cursor stands, and what was to be typed.

Owns the distribution of holes. Every cut is by character, as serving cuts; the pieces are
tokenised afterwards, each alone. A scene holds several holes above one far suffix, as typing and
moving about leave them, so that their long context has to be read but once. Knows nothing of token
ids, sampling or losses.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from engine.lab.data.corpus import Source

# A scene's surroundings: bounds the work per example on long files.
_REACH_CHARS = 4_500
_MIDDLE_CHARS_MAX = 400
_LINES_BELOW = 2
_LINES_BELOW_MAX = 8

CURSORS = ("line_tail", "word", "line_start", "column_zero", "line_end")
_CURSOR_SHARES = (0.42, 0.14, 0.32, 0.04, 0.08)
ENDS = ("line", "lines", "scope", "closer", "anywhere")
_END_SHARES = (0.68, 0.15, 0.06, 0.08, 0.03)
# Lines after the first. A middle has to become likelier to end with every line: where the next
# line break is always the likelier token, greedy decoding never ends.
_EXTRA_LINES = (1, 2, 3, 5)
_EXTRA_LINE_SHARES = (0.45, 0.25, 0.2, 0.1)
_SCOPE_LINES_MAX = 6
_CLOSERS = re.compile(r"[)\]}\"'>]+[:,;]?$")
_NO_SUFFIX_SHARE = 0.04
# Of the cursors behind a whole line: those where nothing is missing.
_EMPTY_SHARE = 0.5
# Of a scene's holes: those that end on the line below which the far suffix was set.
_ANCHORED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Pieces:
    """The four texts of an infilling example; in the file's order prefix, middle, near, far."""

    far: str
    prefix: str
    near: str
    middle: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Holes of one text that share a far suffix.

    Attributes:
        far_start: offset of the far suffix; None where no text stands behind any hole.
        holes: (start, end) offsets of what was to be typed, by start; at least one, none twice.
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
    """Starts of the lines of a text; line i is text[start(i):end(i)], its line break left out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def __len__(self) -> int:
        return len(self._starts)

    def start(self, line: int) -> int:
        """Offset of a line's first character; the text's length past the last line."""
        return self._starts[line] if line < len(self._starts) else len(self.text)

    def end(self, line: int) -> int:
        """Offset behind a line's last character, before its line break."""
        return self.start(line + 1) - 1 if line + 1 < len(self._starts) else len(self.text)

    def line_of(self, offset: int) -> int:
        """The line an offset lies on."""
        return bisect_right(self._starts, offset) - 1

    def indentation(self, line: int) -> int:
        """Blanks before the line's first other character; -1 for a blank line."""
        content = self.text[self.start(line) : self.end(line)]
        stripped = content.lstrip(" \t")
        return len(content) - len(stripped) if stripped else -1


def draw_scene(source: Source, rng: np.random.Generator, holes: int) -> Scene:
    """A random place of a file with up to `holes` holes.

    The far suffix starts two lines below one of the lines when its mark was just set, one to eight
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
    """A hole that ends on line `last`, or for some kinds below it, but above line `mark`."""
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
    """A line of low..high-1, a blank one only where tries for another fail."""
    low = max(low, 0)
    line = int(rng.integers(low, high))
    for _ in range(8):
        if lines.indentation(line) >= 0:
            break
        line = int(rng.integers(low, high))
    return line


def place_cursor(lines: LineIndex, line: int, kind: str, rng: np.random.Generator) -> int:
    """Offset of a cursor on a line."""
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
    # Behind the last character is "line_end", which is as rare as it is where people type: a model
    # that has not learnt much yet ends at once wherever that is the likeliest single token.
    return int(rng.integers(first, max(end, first + 1)))


def place_end(lines: LineIndex, cursor: int, kind: str, rng: np.random.Generator) -> int:
    """Offset where the text to be typed ends, for a cursor before its line's end."""
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
    """End of the run of lines from `line` on that are indented at least as far; at most 6."""
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
    """Whole lines of the file around a random place; the file's own end stays an end."""
    if len(text) <= 2 * _REACH_CHARS:
        return text
    centre = int(rng.integers(len(text)))
    low = text.rfind("\n", 0, max(0, centre - _REACH_CHARS)) + 1
    high = text.find("\n", centre + _REACH_CHARS)
    return text[low:] if high < 0 else text[low : high + 1]
