"""Brackets and quotes: which characters of a completion close what stands closed at the cursor.

An editor has typed `)` for the user; the model writes it again. Scans left to right, so that what
is said of a character never changes with what follows it; a line's last punctuation excepted,
which the caller holds back. Knows strings and brackets, no language: comments are read as code.
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
    """What a completion can pair with.

    Attributes:
        closers: the closers right of the cursor, with the punctuation and spaces between them;
            empty where something else stands there.
        quote: the quote that opened the string in which the cursor stands, empty outside one.
        missing: closers that the cursor's line lacks; the first ones in a completion are these.
    """

    closers: str
    quote: str
    missing: str


def pairs_for(line_before: str, line_after: str) -> Pairs:
    """The pairs of a cursor between two parts of a line."""
    if not is_only_closers(line_after):
        return Pairs("", "", "")
    stack, quote = _opened(line_before)
    if not quote and line_after.lstrip()[:3] in _TRIPLE_QUOTES:
        quote = line_after.lstrip()[:3]  # a string that was opened on a line above
    missing = list(reversed(stack))
    for character in line_after:
        if character in missing:
            missing.remove(character)
    return Pairs(line_after.rstrip(), quote, "".join(missing))


def is_only_closers(line_after: str) -> bool:
    """Whether nothing but closers, spaces and one punctuation mark stands right of the cursor."""
    return _ONLY_CLOSERS.fullmatch(line_after.rstrip()) is not None


def paired(pairs: Pairs, text: str) -> list[tuple[int, int]]:
    """Pairs (index into text, index into pairs.closers), both ascending."""
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
    """Whether a bracket that the text opened is still open at an index."""
    stack, _ = _opened(text[:index])
    return bool(stack)


def _opened(text: str) -> tuple[list[str], str]:
    """The closers that the text leaves open, outermost first, and the quote it stands in."""
    scan = _Scan(text, "")
    for index in range(len(text)):
        scan.closes_outer(index)
    return scan.stack, scan.quote


def _loose(text: str, quote: str) -> Iterator[tuple[int, str]]:
    """Characters that close what the text did not open, and punctuation that ends a line."""
    scan = _Scan(text, quote)
    for index, character in enumerate(text):
        is_outside = not scan.stack and not scan.quote
        if scan.closes_outer(index) or (
            is_outside and character in ":;," and _LINE_REST.match(text, index + 1)
        ):
            yield index, character


class _Scan:
    """Reads a text from its start; strings of one quote end with their line."""

    def __init__(self, text: str, quote: str) -> None:
        self.stack: list[str] = []
        self.quote = quote
        self._text = text
        self._is_outer_string = bool(quote)
        self._num_taken = 0  # characters that belong to the one read before
        self._taken_close = False

    def closes_outer(self, index: int) -> bool:
        """Reads the next character; whether it closes something from before the text."""
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
                pass  # what stands open inside was never closed
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
