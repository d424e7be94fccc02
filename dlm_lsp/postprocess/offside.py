"""Python's off-side rule: the indentation of logical lines at a cursor.

tree-sitter's grammar tolerates indentation that Python refuses ("unexpected indent", "unindent does
not match any outer indentation level", "expected an indented block": The Python Language Reference,
2.1.8), so that this module judges it. It reads logical lines only: what stands within brackets and
strings has no indentation. Errors that are there without the completion are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from dlm_lsp.postprocess.indentation import indentation, width
from dlm_lsp.postprocess.languages import language_named
from dlm_lsp.postprocess.scanner import Kind, What, scan

_ABOVE_CHARS, _BELOW_CHARS = 8_000, 2_000
_STATEMENT = re.compile(r"^(?:def|class|async|import|from|if|for|while|with|try|@)\b", re.MULTILINE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_UNESCAPED_END = re.compile(r"(?<!\\)(?:\r\n|\r|\n)")  # A backslash joins two lines.


@dataclass(frozen=True, slots=True)
class _Line:
    """A logical line: where it starts, its indentation, and whether a block must follow it."""

    start: int
    columns: int
    opens: bool


class OffsideRule:
    """The rule at one cursor between two parts of a document."""

    def __init__(self, prefix: str, suffix: str) -> None:
        prefix = prefix[-_ABOVE_CHARS:]
        begun = [found.start() for found in _STATEMENT.finditer(prefix)]
        self._prefix = prefix[begun[0] :] if begun else prefix
        self._suffix = suffix[:_BELOW_CHARS]
        line = max(self._prefix.rfind("\n"), self._prefix.rfind("\r")) + 1
        self._is_line_begun = bool(self._prefix[line:].strip())
        self._line = line
        self._read: tuple[list[_Line], int] | None = None

    def breaks(self, text: str, replaced: int = 0) -> bool:
        """Returns whether a line of the text has an indentation that Python refuses there.

        Args:
            replaced: the number of characters after the cursor that the text replaces.
        """
        above, own, _ = self._parts(text, replaced)
        judged = own[1:] if self._is_line_begun else own
        wrong = {line.start for line in _misplaced([*above, *own])}
        return any(line.start in wrong for line in judged)

    def fits(self, text: str, replaced: int = 0) -> bool:
        """Returns whether the line below stands right after the text; also where it would with any
        statement in the text's place.

        It would not where the opener of an indented block is missing: the text has to bring it.
        """
        if self._is_below_right(text, replaced):
            return True
        lead = "" if self._is_line_begun else indentation(text)
        return self._is_below_right(f"{lead}x", 0)

    def _is_below_right(self, text: str, replaced: int) -> bool:
        above, own, below = self._parts(text, replaced)
        wrong = {line.start for line in _misplaced([*above, *own, *below])}
        return not any(line.start in wrong for line in below)

    def _parts(self, text: str, replaced: int) -> tuple[list[_Line], list[_Line], list[_Line]]:
        """Returns the lines above the cursor's, the text's, and the first one below, if any."""
        known, start = self._known()
        source = self._prefix[start:] + text + self._suffix[replaced:]
        end = _LINE_END.search(source, len(self._prefix) - start + len(text))
        last = start + (end.start() if end else len(source))
        above, own = list(known), list[_Line]()
        for line in _logical_lines(source, start):
            if line.start < self._line:
                above.append(line)
            elif line.start < last:
                own.append(line)
            else:
                return above, own, [line]
        return above, own, []

    def _known(self) -> tuple[list[_Line], int]:
        """Returns the logical lines above that no text can change, and where the next one starts.

        The last one before the cursor's line may still be open, so that it is read with each text.
        """
        if self._read is None:
            lines = list(_logical_lines(self._prefix[: self._line]))
            self._read = (lines[:-1], lines[-1].start if lines else 0)
        return self._read


def _misplaced(lines: Iterable[_Line]) -> Iterator[_Line]:
    """Yields the lines whose indentation does not follow from the lines before them."""
    levels: list[int] = []
    for before, line in pairwise(lines):
        if not levels:
            levels.append(before.columns)
        if before.opens:
            if line.columns > before.columns:
                levels.append(line.columns)
                continue
            yield line
        elif line.columns > levels[-1]:
            yield line
            levels.append(line.columns)  # What follows is judged as if this were right.
            continue
        while len(levels) > 1 and levels[-1] > line.columns:
            levels.pop()
        if levels[-1] > line.columns:  # The window begins within a block.
            levels[-1] = line.columns
        elif levels[-1] < line.columns:
            if not before.opens:
                yield line
            levels.append(line.columns)


def _logical_lines(source: str, offset: int = 0) -> Iterator[_Line]:
    """Yields the logical lines that are not blank, up to what is left open.

    Args:
        offset: where the source starts, to which the starts of its lines are added.
    """
    start, text = offset, ""
    for at, piece in _outside(source):
        read = 0
        for found in _UNESCAPED_END.finditer(piece):
            text += piece[read : found.start()]
            if text.strip():
                yield _line(start, text)
            read = found.end()
            start, text = offset + at + read, ""
        text += piece[read:]
    if text.strip():
        yield _line(start, text)


def _line(start: int, text: str) -> _Line:
    return _Line(start, width(indentation(text)), text.rstrip().endswith(":"))


def _outside(source: str) -> Iterator[tuple[int, str]]:
    """Yields what stands outside brackets, strings and comments, with its offset; a bracket or
    string is one character, and what is left open ends it all."""
    language = language_named("python")
    depth, at = 0, 0
    for event in scan(language, source, 0, len(source), is_draft=True).events:
        if event.what is What.OPEN and not depth:
            yield at, source[at : event.start]
        elif event.what is What.CLOSE and not event.depth:
            if event.frame is not None and event.frame.kind is not Kind.COMMENT:
                yield event.start, "_"
            at = event.end
        depth = event.depth
    if not depth:
        yield at, source[at:]
