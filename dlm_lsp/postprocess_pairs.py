# pyright: strict
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
_ONLY_CLOSERS = re.compile(r"[\s)\]}\"'`]*[:;,]?\s*")
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
    missing = list(reversed(stack))
    for character in line_after:
        if character in missing:
            missing.remove(character)
    return Pairs(line_after.rstrip(), quote, "".join(missing))


def is_only_closers(line_after: str) -> bool:
    """Whether nothing but closers, spaces and one punctuation mark stands right of the cursor."""
    return _ONLY_CLOSERS.fullmatch(line_after) is not None


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
    scan = _Scan("")
    for character in text:
        scan.read(character)
    return scan.stack, scan.quote


def _loose(text: str, quote: str) -> Iterator[tuple[int, str]]:
    """Characters that close what the text did not open, and punctuation that ends a line."""
    scan = _Scan(quote)
    for index, character in enumerate(text):
        outside = not scan.stack and not scan.quote
        if scan.read(character) or (
            outside and character in ":;," and _LINE_REST.match(text, index + 1)
        ):
            yield index, character


class _Scan:
    """Reads a text character by character; single-line strings end with their line."""

    def __init__(self, quote: str) -> None:
        self.stack: list[str] = []
        self.quote = quote
        self._is_outer_string = bool(quote)
        self._is_escaped = False

    def read(self, character: str) -> bool:
        """Takes one character in; whether it closes something from before the text."""
        if self._is_escaped:
            self._is_escaped = False
        elif self.quote:
            return self._read_in_string(character)
        elif character in _QUOTES:
            self.quote = character
        elif character in _CLOSER_OF:
            self.stack.append(_CLOSER_OF[character])
        elif character in _CLOSERS:
            if character not in self.stack:
                return True
            while self.stack.pop() != character:
                pass  # what stands open inside was never closed
        return False

    def _read_in_string(self, character: str) -> bool:
        if character == "\\":
            self._is_escaped = True
        elif character == self.quote:
            closes_outer = self._is_outer_string
            self.quote, self._is_outer_string = "", False
            return closes_outer
        elif character == "\n" and self.quote != "`":
            self.quote, self._is_outer_string = "", False
        return False
