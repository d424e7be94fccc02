"""Cuts training examples out of source files: where the cursor stands, and what was to be typed.

Owns the distribution of holes. Every cut is by character, as serving cuts; the pieces are
tokenised afterwards, each alone. Knows nothing of token ids, packing or losses.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from engine.training.corpus import Source

# A hole's neighbourhood: bounds the work per example on long files.
_REACH_CHARS = 4_000
_MIDDLE_CHARS_MAX = 700
_LINES_BELOW = 2
_LINES_BELOW_MAX = 8

CURSORS = ("line_tail", "word", "line_start", "column_zero", "line_end")
_CURSOR_SHARES = (0.46, 0.15, 0.24, 0.05, 0.10)
ENDS = ("line", "lines", "scope", "closer", "anywhere")
_END_SHARES = (0.60, 0.16, 0.08, 0.10, 0.06)
_CLOSERS = re.compile(r"[)\]}\"'>]+[:,;]?$")
_NO_SUFFIX_SHARE = 0.04
# Of the cursors behind a whole line: those where nothing is missing.
_EMPTY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Pieces:
    """The four texts of an infilling example; in the file's order prefix, middle, near, far."""

    far: str
    prefix: str
    near: str
    middle: str


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


def cut(source: Source, rng: np.random.Generator) -> Pieces:
    """One random hole in a file, with its surroundings (longer than any prompt needs)."""
    text = _neighbourhood(source.text, rng)
    lines = LineIndex(text)
    cursor_kind = CURSORS[rng.choice(len(CURSORS), p=_CURSOR_SHARES)]
    cursor = place_cursor(lines, cursor_kind, rng)
    if cursor_kind == "line_end":
        end = _end_after_line(lines, cursor, rng)
    else:
        end = place_end(lines, cursor, ENDS[rng.choice(len(ENDS), p=_END_SHARES)], rng)
    end = min(end, cursor + _MIDDLE_CHARS_MAX)
    near_end = _near_end(lines, end, rng)
    return Pieces(
        far="" if near_end is None else text[near_end:],
        prefix=text[:cursor],
        near="" if near_end is None else text[end:near_end],
        middle=text[cursor:end],
    )


def place_cursor(lines: LineIndex, kind: str, rng: np.random.Generator) -> int:
    """Offset of the cursor on a random line that is not blank."""
    text = lines.text
    line = int(rng.integers(len(lines)))
    for _ in range(8):
        if lines.indentation(line) >= 0:
            break
        line = int(rng.integers(len(lines)))
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
        boundaries = [m.end() for m in re.finditer(r"\w+|[^\w\s]+ ?| ", text[first:end])]
        if boundaries:
            return first + boundaries[rng.integers(len(boundaries))]
    return int(rng.integers(first, end + 1))


def place_end(lines: LineIndex, cursor: int, kind: str, rng: np.random.Generator) -> int:
    """Offset where the text to be typed ends, for a cursor before its line's end."""
    line = lines.line_of(cursor)
    line_end = lines.end(line)
    if kind == "lines":
        return max(cursor, lines.end(min(line + int(rng.integers(1, 10)), len(lines) - 1)))
    if kind == "scope":
        return _scope_end(lines, line)
    if kind == "closer":
        closers = _CLOSERS.search(lines.text, cursor, line_end)
        return closers.start() if closers else line_end
    if kind == "anywhere":
        return int(rng.integers(cursor, line_end + 1))
    return line_end


def _end_after_line(lines: LineIndex, cursor: int, rng: np.random.Generator) -> int:
    """Behind a whole line: nothing is missing, or the next few lines are."""
    if rng.random() < _EMPTY_SHARE:
        return cursor
    last = lines.line_of(cursor) + int(rng.integers(1, 5))
    return lines.end(min(last, len(lines) - 1))


def _scope_end(lines: LineIndex, line: int) -> int:
    """End of the run of lines from `line` on that are indented at least as far; at most 12."""
    depth = max(lines.indentation(line), 0)
    last = line
    for following in range(line + 1, min(line + 12, len(lines))):
        indentation = lines.indentation(following)
        if 0 <= indentation < depth:
            break
        if indentation >= 0:
            last = following
    return lines.end(last)


def _near_end(lines: LineIndex, end: int, rng: np.random.Generator) -> int | None:
    """Where the near suffix gives way to the far one: a line start below the hole.

    Two lines below when the mark was just set, one to eight after some typing; None where no text
    is to stand behind the hole at all.
    """
    draw = rng.random()
    if draw < _NO_SUFFIX_SHARE:
        return None
    below = _LINES_BELOW if draw < 0.65 else int(rng.integers(1, _LINES_BELOW_MAX + 1))
    return lines.start(lines.line_of(end) + below)


def _neighbourhood(text: str, rng: np.random.Generator) -> str:
    """Whole lines of the file around a random place; the file's own end stays an end."""
    if len(text) <= 2 * _REACH_CHARS:
        return text
    centre = int(rng.integers(len(text)))
    low = text.rfind("\n", 0, max(0, centre - _REACH_CHARS)) + 1
    high = text.find("\n", centre + _REACH_CHARS)
    return text[low:] if high < 0 else text[low : high + 1]
