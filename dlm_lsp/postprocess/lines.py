"""Where a completion has to end: at its scope's end, or where it repeats itself or the suffix.

Lines are judged one after the other and only by what stands before them; the last one, which may
still grow, can be undecided and is then held back whole. Works on text with \\n line ends and the
document's own indentation. Knows no language but words that continue a block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate

from dlm_lsp.postprocess.pairs import is_inside
from dlm_lsp.postprocess.repeats import runaway

TAB_WIDTH = 4
PERIOD_MAX = 4  # most lines in a block whose repetition is noticed

_CONTINUES = ("else", "elif", "except", "finally", "catch")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class LineRules:
    """What the lines of a completion are judged by.

    Attributes:
        line_before: the cursor's line up to the cursor.
        repeated: what follows the cursor on its line, stripped, if a completion must not end a
            line with it; brackets that pair are not meant here.
        next_line: the next line of the suffix that is not blank, without trailing spaces.
        is_scoped: end with the scope of the cursor's line.
        is_single_line: end with the cursor's line.
    """

    line_before: str
    repeated: str
    next_line: str
    is_scoped: bool
    is_single_line: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """text[:end] stays; `is_final`: whatever follows the text, no more and no less will stay."""

    end: int
    is_final: bool


class _Verdict(Enum):
    KEEP = 0
    UNSURE = 1  # the line may grow into one that has to go
    END = 2


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the completion; it starts at text[start], and the last one can still grow."""

    number: int
    start: int
    text: str
    can_grow: bool


def cut(rules: LineRules, text: str, is_whole: bool) -> Cut:
    """Where the text ends by the rules: at the earliest end that any of its lines calls for.

    `is_whole`: no more text will come; else what more text could still remove is left out, so
    that the result grows with the text and never shrinks.
    """
    judge = _Judge(rules)
    *closed, last = _lines(text)
    for line in closed:
        certain, _ = _ends(judge, rules, text, line)
        if certain:
            return Cut(min(certain), True)
        judge.keep(line.number, line.text)
    certain, possible = _ends(judge, rules, text, last)
    if certain:
        return Cut(min(certain), True)
    if is_whole:
        possible, _ = _ends_by_content(judge, rules, text, replace(last, can_grow=False))
    return Cut(min(possible, default=len(text)), False)


def _lines(text: str) -> list[_Line]:
    parts = text.split("\n")
    starts = accumulate((len(part) + 1 for part in parts), initial=0)
    return [
        _Line(number, start, part, can_grow=number == len(parts) - 1)
        for number, (start, part) in enumerate(zip(starts, parts, strict=False))
    ]


def _ends(judge: _Judge, rules: LineRules, text: str, line: _Line) -> tuple[list[int], list[int]]:
    """Where the line ends the text for certain, and where it may do so once it has grown."""
    certain, possible = _ends_by_content(judge, rules, text, line)
    if line.number > 0 and rules.is_single_line:
        certain.append(line.start - 1)
    over = runaway(line.text.rstrip())  # spaces at a line's end may go once it is closed
    if over is not None:
        end = line.start + over.start
        # Text that may have to go earlier for another reason could take the repetition along.
        if over.is_whole and all(end < other for other in possible):
            certain.append(end)
        elif line.can_grow:
            possible.append(end)
    return certain, possible


def _ends_by_content(
    judge: _Judge, rules: LineRules, text: str, line: _Line
) -> tuple[list[int], list[int]]:
    """As `_ends`, by what the line says: the scope, lines that come again, the suffix."""
    certain: list[int] = []
    possible: list[int] = []
    verdict = judge.verdict(line.number, line.text, line.can_grow)
    if verdict is not _Verdict.KEEP:
        (certain if verdict is _Verdict.END else possible).append(line.start)
    repeat = _repeat_start(rules, text, line.start, line.start + len(line.text), line.can_grow)
    if repeat is not None:
        (possible if line.can_grow else certain).append(repeat)
    return certain, possible


def indentation(line: str) -> str:
    """The spaces and tabs that a line starts with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width(whitespace: str) -> int:
    """Columns that an indentation takes."""
    return len(whitespace.expandtabs(TAB_WIDTH))


class _Judge:
    """Judges line after line; remembers the lines kept so far."""

    def __init__(self, rules: LineRules) -> None:
        self._rules = rules
        self._base = width(indentation(rules.line_before))
        self._is_owner = False  # the cursor's line opens the block that the completion fills
        self._is_paragraph_over = False
        self._kept: list[str] = []  # the lines that are not blank
        self._has_text = False  # of the completion's own

    def verdict(self, number: int, line: str, can_grow: bool) -> _Verdict:
        """Whether the line has to go; `can_grow`: more of this very line may come."""
        before = self._rules.line_before
        whole = before + line if number == 0 else line
        verdicts = [self._repetition(whole, can_grow)]
        if number > 0 or not before.strip():
            verdicts.append(_same(whole, self._rules.next_line, can_grow))
        if number > 0 and self._rules.is_scoped:
            verdicts.append(self._scope(line, can_grow))
        return max(verdicts, key=lambda verdict: verdict.value)

    def keep(self, number: int, line: str) -> None:
        """Takes a line in that stays."""
        before = self._rules.line_before
        columns = width(indentation(line))
        if number == 0:
            if not before.strip() and line.strip():
                self._base = width(before + indentation(line))
            self._has_text = bool(line.strip())
            if (before + line).strip():
                self._kept.append((before + line).rstrip())
        elif not line.strip():
            self._is_paragraph_over = self._has_text
        else:
            if len(self._kept) <= 1 and before.strip() and columns > self._base:
                self._is_owner = True
            self._is_paragraph_over = False
            self._has_text = True
            self._kept.append(line.rstrip())

    def _scope(self, line: str, can_grow: bool) -> _Verdict:
        """A dedent ends the scope; so does a second paragraph or statement on its level."""
        text = line.strip()
        if not text:
            return _Verdict.UNSURE if can_grow else _Verdict.KEEP
        columns = width(indentation(line))
        if columns != self._base:
            return _Verdict.END if columns < self._base else _Verdict.KEEP
        if not self._is_owner:
            return _Verdict.END if self._is_paragraph_over else _Verdict.KEEP
        return _continuation(text, can_grow)

    def _repetition(self, line: str, can_grow: bool) -> _Verdict:
        """A third copy of a block of up to PERIOD_MAX lines ends the text."""
        kept = self._kept
        worst = _Verdict.KEEP
        for period in range(1, min(PERIOD_MAX, len(kept) // 2) + 1):
            if kept[-2 * period : -period] == kept[-period:]:
                verdict = _same(line, kept[-period], can_grow)
                worst = max(worst, verdict, key=lambda one: one.value)
        return worst


def _same(line: str, other: str, can_grow: bool) -> _Verdict:
    """Whether the line is the other one, or may become it."""
    if not other:
        return _Verdict.KEEP
    is_same = line.rstrip() == other
    if can_grow:
        return _Verdict.UNSURE if is_same or other.startswith(line) else _Verdict.KEEP
    return _Verdict.END if is_same else _Verdict.KEEP


def _continuation(text: str, can_grow: bool) -> _Verdict:
    """Whether a line on the level of the block's owner still belongs to it: `}`, `else`."""
    if text[0] in ")]}":
        return _Verdict.KEEP
    word = _WORD.match(text)
    name = word.group() if word else ""
    if name in _CONTINUES and not (can_grow and name == text):
        return _Verdict.KEEP
    if can_grow and any(keyword.startswith(text) for keyword in _CONTINUES):
        return _Verdict.UNSURE
    return _Verdict.END


def _repeat_start(rules: LineRules, text: str, start: int, end: int, can_grow: bool) -> int | None:
    """Where the line text[start:end] begins to repeat what follows the cursor, if it does.

    A call that was opened in the completion may well end like what follows: `g(x)` before `)`.
    """
    repeated = rules.repeated
    if not repeated:
        return None
    stop = start + len(text[start:end].rstrip())
    starts = [stop - len(repeated)]
    if can_grow:
        starts += range(max(end - len(repeated) + 1, start), end)
    for at in starts:
        if at < start or not repeated.startswith(text[at : stop if at == starts[0] else end]):
            continue
        if not is_inside(text, at):
            return at
    return None
