"""The language server's own frozen documents: text, line index, positions and edits.

Offsets count code points. An editor's positions count units of an encoding within a line, and only
this module converts them. Lines end at \\n, \\r\\n and \\r as LSP specifies, not at the further
line ends of `str.splitlines` (U+2028, form feed). Knows neither LSP types nor files.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

_LINE_END = re.compile(r"\r\n|\r|\n")


class DocumentError(Exception):
    """An invalid position, range or version; the message names the field."""


class Encoding(StrEnum):
    """The LSP position encodings: the unit in which `Position.character` counts."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a document. Both numbers start at 0; `character` counts units of an encoding."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class Change:
    """One content change: `text` replaces start..end, or the whole text if both are None."""

    start: Position | None
    end: Position | None
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of lengths: `inserted` code points replaced `removed` code points at `start`."""

    start: int
    removed: int
    inserted: int


@dataclass(frozen=True, slots=True)
class _Splice:
    """Replaces text[start:end] with `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One immutable version of an open document; `apply` returns the next version.

    Lone surrogates, which JSON can contain, are kept and count as one character each.

    Attributes:
        line_starts: the offset of each line's first character; computed from `text` if omitted.
    """

    uri: str
    language_id: str
    version: int
    text: str = field(repr=False)
    line_starts: array[int] = field(default_factory=lambda: array("q"), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.line_starts:
            starts = _moved_starts(array("q"), self.text, (_Window(0, 0, 0, len(self.text)),))
            object.__setattr__(self, "line_starts", starts)

    @property
    def line_count(self) -> int:
        """The number of lines, at least one; a final line end starts another line."""
        return len(self.line_starts)

    def line_start(self, line: int) -> int:
        """Returns the offset of the line's first character, or the text's end after the last."""
        _check_not_negative("line", line)
        return self.line_starts[line] if line < self.line_count else len(self.text)

    def line_end(self, line: int) -> int:
        """Returns the offset after the line's last character and before its line end."""
        end = self.line_start(line + 1)
        if line + 1 >= self.line_count:
            return end
        return end - (2 if self.text[end - 2 : end] == "\r\n" else 1)

    def line_of(self, offset: int) -> int:
        """Returns the line that contains the offset; a line end belongs to the line it ends."""
        _check_not_negative("offset", offset)
        return bisect_right(self.line_starts, offset) - 1

    def offset_at(self, position: Position, encoding: Encoding) -> int:
        """Returns the offset of a position, clamped to its line and to the text.

        A position inside a character (within a surrogate pair or a byte sequence) counts as the
        character's start. Raises DocumentError on negative numbers.
        """
        _check_not_negative("position.line", position.line)
        _check_not_negative("position.character", position.character)
        if position.line >= self.line_count:
            return len(self.text)
        start = self.line_starts[position.line]
        # Each character takes at least one unit, so this much of the line is enough.
        end = min(self.line_end(position.line), start + position.character)
        return start + _whole_characters(self.text[start:end], position.character, encoding)

    def position_at(self, offset: int, encoding: Encoding) -> Position:
        """Returns the position of an offset, clamped to the text and before its line's end."""
        offset = min(offset, len(self.text))
        line = self.line_of(offset)
        offset = min(offset, self.line_end(line))
        return Position(line, _width(self.text[self.line_starts[line] : offset], encoding))

    def apply(
        self, changes: Sequence[Change], version: int, encoding: Encoding
    ) -> tuple[Document, tuple[Edit, ...]]:
        """Returns the document after the changes, each applied to the result of the one before.

        Editors send many changes at once from the bottom of a document to its top; such a run is
        resolved against one text and spliced once.

        Returns: the next document, and one edit for each change, with which marks can be moved.
        Raises: DocumentError naming the field; this document is then still the current one.
        """
        if version < self.version:
            raise DocumentError(
                f"textDocument.version went back from {self.version} to {version} for {self.uri}."
            )
        document, run, edits = self, list[_Splice](), list[Edit]()
        for index, change in enumerate(changes):
            if change.start is None and change.end is None:
                document, run = document._spliced(run), []
                edit = difference(document.text, change.text)
                text = change.text[edit.start : edit.start + edit.inserted]
                splice = _Splice(edit.start, edit.start + edit.removed, text)
            else:
                start, end = document._resolved(change, index, encoding)
                # Strictly above the run everything is still as it was, clamping included.
                if run and end >= run[-1].start:
                    document, run = document._spliced(run), []
                    start, end = document._resolved(change, index, encoding)
                document._check_whole(change, index, (start, end), encoding)
                splice = _Splice(start, end, change.text)
            run.append(splice)
            edits.append(Edit(splice.start, splice.end - splice.start, len(splice.text)))
        return replace(document._spliced(run), version=version), tuple(edits)

    def _resolved(self, change: Change, index: int, encoding: Encoding) -> tuple[int, int]:
        name = f"contentChanges[{index}].range"
        if change.start is None or change.end is None:
            raise DocumentError(f"{name} needs both start and end.")
        for part, position in (("start", change.start), ("end", change.end)):
            _check_not_negative(f"{name}.{part}.line", position.line)
            _check_not_negative(f"{name}.{part}.character", position.character)
        if change.end < change.start:
            raise DocumentError(f"{name} is reversed: its end lies before its start.")
        return self.offset_at(change.start, encoding), self.offset_at(change.end, encoding)

    def _check_whole(
        self, change: Change, index: int, offsets: tuple[int, int], encoding: Encoding
    ) -> None:
        """Raises DocumentError if a change cuts a character in two, half of which nobody keeps."""
        for part, position, offset in zip(
            ("start", "end"), (change.start, change.end), offsets, strict=True
        ):
            if position is not None and self._is_inside_character(position, offset, encoding):
                raise DocumentError(
                    f"contentChanges[{index}].range.{part} lies inside a character."
                )

    def _is_inside_character(self, position: Position, offset: int, encoding: Encoding) -> bool:
        """Returns whether a position was rounded to `offset`, the start of its character."""
        if position.line >= self.line_count or offset >= self.line_end(position.line):
            return False  # Positions after the line's end are clamped.
        reached = _width(self.text[self.line_starts[position.line] : offset], encoding)
        return reached < position.character

    def _spliced(self, run: Sequence[_Splice]) -> Document:
        """Returns the document after disjoint splices, which are ordered from last to first."""
        if not run:
            return self
        pieces, windows = list[str](), list[_Window]()
        read = written = 0  # The offsets reached in the old and in the new text.
        for splice in reversed(run):
            pieces += (self.text[read : splice.start], splice.text)
            start = written + splice.start - read
            written = start + len(splice.text)
            windows.append(_Window(splice.start, splice.end, start, written))
            read = splice.end
        text = "".join((*pieces, self.text[read:]))
        return replace(self, text=text, line_starts=_moved_starts(self.line_starts, text, windows))


@dataclass(frozen=True, slots=True)
class _Window:
    """The range that a splice replaced in the old text, and its range in the new text."""

    old_start: int
    old_end: int
    start: int
    end: int


def _moved_starts(old: array[int], text: str, windows: Sequence[_Window]) -> array[int]:
    """Returns the line starts of `text`: old ones are moved, those in windows are found anew.

    Whether a line starts at an offset depends on the characters on both sides of it (\\r\\n), so
    that a window holds both of its borders.
    """
    starts = array("q", (0,))
    behind = shift = 0
    for window in windows:
        kept = old[bisect_right(old, behind) : bisect_left(old, window.old_start)]
        starts.extend(map(shift.__add__, kept) if shift else kept)
        read = max(window.start - 1, 0)
        found = (match.end() for match in _LINE_END.finditer(text, read, window.end + 1))
        starts.extend(offset for offset in found if window.start <= offset <= window.end)
        behind, shift = window.old_end, window.end - window.old_end
    kept = old[bisect_right(old, behind) :]
    starts.extend(map(shift.__add__, kept) if shift else kept)
    return starts


def difference(old: str, new: str) -> Edit:
    """Returns the shortest edit from `old` to `new`, so that marks survive full-text changes."""
    prefix = _common_prefix(old, new)
    suffix = _common_prefix(old[prefix:][::-1], new[prefix:][::-1])
    return Edit(prefix, len(old) - suffix - prefix, len(new) - suffix - prefix)


def _common_prefix(one: str, other: str) -> int:
    """Returns the length of the common prefix, by bisection: each character is compared twice."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _width(text: str, encoding: Encoding) -> int:
    """Returns the text's length in units of the encoding; lone surrogates count as stored."""
    if encoding is Encoding.UTF32 or text.isascii():
        return len(text)
    if encoding is Encoding.UTF8:
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _whole_characters(text: str, units: int, encoding: Encoding) -> int:
    """Returns how many whole characters of the text fit into `units`, by bisection."""
    if encoding is Encoding.UTF32 or text.isascii():
        return min(len(text), units)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        width = _width(text[low:middle], encoding)
        if width <= units:
            low, units = middle, units - width
        else:
            high = middle - 1
    return low


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise DocumentError(f"{name} is {value}; it counts from 0.")
