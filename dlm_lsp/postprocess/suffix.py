"""Tells whether a completion has come to the text that stands below the cursor.

The next line ends it, also with another comment at its end, or with a somewhat other indentation; a
later one of the same block only where it is the same. Knows no brackets and no scope.
"""

from __future__ import annotations

import re

from dlm_lsp.postprocess.indentation import TAB_WIDTH, indentation, width
from dlm_lsp.postprocess.verdict import Verdict, worst

LINES_BELOW_MAX = 20  # The lines of the suffix that are compared.

_COMMENT = re.compile(r"\s+(?:#|//|--)(?:\s.*)?\Z")
_TELLING_SIGNS = 6  # A shorter line may stand in a block twice.
_WORD = re.compile(r"\w{2}")


class Suffix:
    """The lines below the cursor.

    Args:
        lines: the lines below that are not blank, nearest first, in the document's indentation and
            without trailing spaces.
        unit: the document's unit of indentation.
    """

    def __init__(self, lines: tuple[str, ...], unit: str) -> None:
        self._next = lines[0] if lines else ""
        self._next_width = width(indentation(self._next))
        self._slack = min(width(unit) or TAB_WIDTH, TAB_WIDTH) - 1
        self._later = tuple(self._block(lines[1:LINES_BELOW_MAX]))

    @property
    def next_line(self) -> str:
        """The next line that is not blank; empty if there is none."""
        return self._next

    def _block(self, lines: tuple[str, ...]) -> list[str]:
        """Returns the telling lines on the level of the next one, up to the end of its block."""
        block: list[str] = []
        for line in lines:
            columns = width(indentation(line))
            if columns < self._next_width:
                break
            if columns == self._next_width and _is_telling(line):
                block.append(line)
        return block

    def reached(self, line: str, can_grow: bool) -> Verdict:
        """Returns whether a line is the next one of the suffix, or may grow into it."""
        if not self._next:
            return Verdict.KEEP
        verdict = _same(line, self._next, can_grow)
        if verdict is Verdict.END or not line.strip():
            return verdict
        return worst(verdict, self._moved(line, can_grow))

    def passed(self, line: str, base: int, can_grow: bool) -> Verdict:
        """Returns whether a line is a later one of the suffix, or may grow into it.

        Args:
            base: the columns of the completion's scope, to which the next line has to belong.
        """
        if self._next_width > base:
            return Verdict.KEEP
        return worst(*(_same(line, other, can_grow) for other in self._later))

    def _moved(self, line: str, can_grow: bool) -> Verdict:
        """Judges a line with other spaces before it: a bit more or fewer, or less indented."""
        off = width(indentation(line)) - self._next_width
        if off == 0 or off > self._slack or not _is_telling(self._next):
            return Verdict.KEEP
        return _same(line.lstrip(), self._next.lstrip(), can_grow)


def same(line: str, other: str, can_grow: bool) -> Verdict:
    """Returns whether the line equals `other`, or may grow into it."""
    if not other:
        return Verdict.KEEP
    is_same = line.rstrip() == other
    if can_grow:
        return Verdict.UNSURE if is_same or other.startswith(line) else Verdict.KEEP
    return Verdict.END if is_same else Verdict.KEEP


def _same(line: str, other: str, can_grow: bool) -> Verdict:
    """Judges as `same` does, whatever comments are at the ends."""
    bare = _bare(other)
    if not can_grow:
        return Verdict.END if line.rstrip() == other or _bare(line) == bare else Verdict.KEEP
    rest = line[len(bare) :]
    is_begun = line.startswith(bare) and (not rest.strip() or _comment_begun(rest))
    return Verdict.UNSURE if is_begun or other.startswith(line) else Verdict.KEEP


def _bare(line: str) -> str:
    """Returns a line without a comment at its end; a line that is one stays whole."""
    bare = _COMMENT.sub("", line).rstrip()
    return bare if bare.strip() else line.rstrip()


def _comment_begun(rest: str) -> bool:
    return rest[0].isspace() and rest.lstrip().startswith(("#", "/", "-"))


def _is_telling(line: str) -> bool:
    """Returns whether a line says enough to be known again."""
    text = "".join(line.split())
    return len(text) >= _TELLING_SIGNS and _WORD.search(text) is not None
