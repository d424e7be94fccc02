"""Pairs closing brackets and quotes of a completion with those right of the cursor.

The editor inserts `)` for the user, and the model writes it again. The scan runs from left to
right, so that later text never changes the pair of a character; an exception is punctuation at a
line's end, which the caller holds back. Knows strings and brackets but no language: comments are
read as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_CLOSER_OF = {"(": ")", "[": "]", "{": "}"}
_CLOSERS = frozenset(_CLOSER_OF.values())
_QUOTES = frozenset("\"'`")
_TRIPLE_QUOTES = ('"""', "'''")
_ONLY_CLOSERS = re.compile(r"[\s)\]}\"'`]*[:;,]?")
_LINE_REST = re.compile(r"[ \t]*(?=\n|\Z)")


@dataclass(frozen=True, slots=True)
class Pairs:
    """The characters at the cursor with which a completion can pair.

    Attributes:
        closers: the closers right of the cursor, with the punctuation and spaces between them;
            empty if there is other text.
        quote: the quote of the string that contains the cursor; empty outside a string.
        missing: the closers that the cursor's line lacks, which a completion must bring first.
    """

    closers: str
    quote: str
    missing: str


def pairs_for(line_before: str, line_after: str) -> Pairs:
    """Returns the pairs at a cursor between two parts of a line."""
    if not is_only_closers(line_after):
        return Pairs("", "", "")
    stack, quote = _opened(line_before)
    if not quote and line_after.lstrip()[:3] in _TRIPLE_QUOTES:
        quote = line_after.lstrip()[:3]  # The string begins on a line above.
    missing = list(reversed(stack))
    for character in line_after:
        if character in missing:
            missing.remove(character)
    return Pairs(line_after.rstrip(), quote, "".join(missing))


def is_only_closers(line_after: str) -> bool:
    """Returns whether only closers, spaces and one punctuation mark are right of the cursor."""
    return _ONLY_CLOSERS.fullmatch(line_after.rstrip()) is not None


def paired(pairs: Pairs, text: str) -> list[tuple[int, int]]:
    """Returns pairs (index into `text`, index into `pairs.closers`), both ascending."""
    found: list[tuple[int, int]] = []
    missing, at = list(pairs.missing), 0
    for index, character in _loose(text, pairs.quote):
        while at < len(pairs.closers) and pairs.closers[at].isspace():
            at += 1
        if character in missing:
            missing.remove(character)
        elif at < len(pairs.closers) and pairs.closers[at] == character:
            found.append((index, at))
            at += 1
    return found


def is_inside(text: str, index: int) -> bool:
    """Returns whether a bracket that the text opened is still open at an index."""
    stack, _ = _opened(text[:index])
    return bool(stack)


def _opened(text: str) -> tuple[list[str], str]:
    """Returns the closers that the text lacks, outermost first, and its open quote or ""."""
    scan = _Scan(text, "")
    for index in range(len(text)):
        scan.closes_outer(index)
    return scan.stack, scan.quote


def _loose(text: str, quote: str) -> Iterator[tuple[int, str]]:
    """Yields closers of brackets opened before the text, and punctuation that ends a line."""
    scan = _Scan(text, quote)
    for index, character in enumerate(text):
        is_outside = not scan.stack and not scan.quote
        if scan.closes_outer(index) or (
            is_outside and character in ":;," and _LINE_REST.match(text, index + 1)
        ):
            yield index, character


class _Scan:
    """Scans a text from its start; strings in single quotation marks end with their line."""

    def __init__(self, text: str, quote: str) -> None:
        self.stack: list[str] = []
        self.quote = quote
        self._text = text
        self._is_outer_string = bool(quote)
        self._num_taken = 0  # Characters that belong to the one before.
        self._taken_close = False

    def closes_outer(self, index: int) -> bool:
        """Reads the next character; returns whether it closes something opened before the text."""
        if self._num_taken:
            self._num_taken -= 1
            return self._taken_close
        character = self._text[index]
        if self.quote:
            return self._closes_outer_string(index)
        if character in _QUOTES:
            is_triple = self._text.startswith(character * 3, index)
            self.quote = character * 3 if is_triple else character
            self._take(len(self.quote) - 1, False)
        elif character in _CLOSER_OF:
            self.stack.append(_CLOSER_OF[character])
        elif character in _CLOSERS:
            if character not in self.stack:
                return True
            while self.stack.pop() != character:
                pass  # Inner brackets were never closed.
        return False

    def _closes_outer_string(self, index: int) -> bool:
        character, quote = self._text[index], self.quote
        if character == "\\":
            self._take(1, False)
        elif self._text.startswith(quote, index) or quote.startswith(self._text[index:]):
            closes_outer = self._is_outer_string
            self._take(len(quote) - 1, closes_outer)
            self.quote, self._is_outer_string = "", False
            return closes_outer
        elif character == "\n" and quote in ("'", '"'):
            self.quote, self._is_outer_string = "", False
        return False

    def _take(self, count: int, close: bool) -> None:
        self._num_taken, self._taken_close = count, close
