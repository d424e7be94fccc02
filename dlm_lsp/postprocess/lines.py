"""Finds the end of a completion: at the end of its scope, or where it repeats itself or the suffix.

Lines are judged in order and only by the text before them. The last line may still grow; if it is
undecided, the whole line is held back. Works on text with \\n line ends and the document's
indentation. Of languages it knows only the words that continue a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate

from dlm_lsp.postprocess.indentation import indentation, width
from dlm_lsp.postprocess.pairs import Fit
from dlm_lsp.postprocess.repeats import runaway

PERIOD_MAX = 4  # The longest block, in lines, whose repetition is noticed.

_CONTINUES = ("else", "elif", "except", "finally", "catch")
_WORD = re.compile(r"\w+")
_CLOSERS = re.compile(r"\s*[)\]}]+[;,]?")
_CLOSING_TAG = re.compile(r"</([\w.:-]*)\s*>")
_CLOSING_MARK = re.compile(r"</[\w.:-]*\s*>|/>|%>|\?>|-->|>(?!=)")
_OPERATORS = frozenset("+-*/%=<>!&|^~?:.@$#\\")


@dataclass(frozen=True, slots=True)
class LineRules:
    """The context by which the lines of a completion are judged.

    Attributes:
        line_before: the cursor's line up to the cursor.
        repeated: the stripped text after the cursor on its line, if no line of a completion may
            end with it; it is empty for brackets that can pair.
        next_line: the next line of the suffix that is not blank, without trailing spaces.
        is_scoped: whether the completion ends with the scope of the cursor's line.
        lines_max: the largest number of lines of a completion, the cursor's line included; None
            means any number.
    """

    line_before: str
    repeated: str
    next_line: str
    is_scoped: bool
    lines_max: int | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of the text that stays; `is_final` if further text cannot change the end."""

    end: int
    is_final: bool


class _Verdict(Enum):
    KEEP = 0
    UNSURE = 1  # The line may grow into one that must be removed.
    END = 2


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the completion, which starts at text[start]; the last line can still grow."""

    number: int
    start: int
    text: str
    can_grow: bool


def cut(rules: LineRules, fit: Fit, text: str, is_whole: bool) -> Cut:
    """Returns where the text ends: at the earliest end that the rules give for any line.

    `fit` tells where brackets and strings of the text are open. `is_whole` means that no more text
    follows. Otherwise text that later text could still remove is left out, so that the result only
    grows with the text.
    """
    judge = _Judge(rules, fit)
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
    """Returns where the line certainly ends the text, and where a longer line might end it."""
    certain, possible = _ends_by_content(judge, rules, text, line)
    if line.number > 0 and line.number == rules.lines_max:
        certain.append(line.start - 1)
    over = runaway(line.text.rstrip())  # Spaces may be removed once the line has ended.
    if over is not None:
        end = line.start + over.start
        # If the text ends earlier for another reason, the repetition is removed as well.
        if over.is_whole and all(end < other for other in possible):
            certain.append(end)
        elif line.can_grow:
            possible.append(end)
    return certain, possible


def _ends_by_content(
    judge: _Judge, rules: LineRules, text: str, line: _Line
) -> tuple[list[int], list[int]]:
    """Returns the ends as `_ends` does, by scope, repeated lines and the suffix."""
    certain: list[int] = []
    possible: list[int] = []
    verdict = judge.verdict(line)
    if verdict is not _Verdict.KEEP:
        (certain if verdict is _Verdict.END else possible).append(line.start)
    repeat = _repeat_start(rules, judge.fit, text, line)
    if repeat is not None:
        (possible if line.can_grow else certain).append(repeat)
    return certain, possible


class _Judge:
    """Judges line after line and remembers the kept lines."""

    def __init__(self, rules: LineRules, fit: Fit) -> None:
        self.fit = fit
        self._rules = rules
        self._base = width(indentation(rules.line_before))
        self._is_owner = False  # Whether the cursor's line opens the block.
        self._is_paragraph_over = False
        self._kept: list[str] = []  # The kept lines that are not blank.
        self._has_text = False  # Whether a kept line is not blank.

    def verdict(self, line: _Line) -> _Verdict:
        """Returns whether the line must be removed."""
        before, can_grow = self._rules.line_before, line.can_grow
        whole = before + line.text if line.number == 0 else line.text
        verdicts = [self._repetition(whole, can_grow)]
        # A line inside a bracket or string that the completion has opened continues it.
        is_outside = not self.fit.depth_at(line.start)
        next_line = self._rules.next_line
        if self.fit.lacks_closers and _CLOSERS.fullmatch(next_line):
            next_line = ""  # It may be one that the document lacks.
        if is_outside and (line.number > 0 or not before.strip()):
            verdicts.append(_same(whole, next_line, can_grow))
        if is_outside and line.number > 0 and self._rules.is_scoped:
            verdicts.append(self._scope(line.text, can_grow))
        return max(verdicts, key=lambda verdict: verdict.value)

    def keep(self, number: int, line: str) -> None:
        """Adds a line that stays."""
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
        """Judges by scope, which a dedent or a second paragraph or statement on its level ends."""
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
        """Judges by repetition: a third copy of a block of up to PERIOD_MAX lines ends the text."""
        kept = self._kept
        worst = _Verdict.KEEP
        for period in range(1, min(PERIOD_MAX, len(kept) // 2) + 1):
            if kept[-2 * period : -period] == kept[-period:]:
                verdict = _same(line, kept[-period], can_grow)
                worst = max(worst, verdict, key=lambda one: one.value)
        return worst


def _same(line: str, other: str, can_grow: bool) -> _Verdict:
    """Returns whether the line equals `other`, or may grow into it."""
    if not other:
        return _Verdict.KEEP
    is_same = line.rstrip() == other
    if can_grow:
        return _Verdict.UNSURE if is_same or other.startswith(line) else _Verdict.KEEP
    return _Verdict.END if is_same else _Verdict.KEEP


def _continuation(text: str, can_grow: bool) -> _Verdict:
    """Returns whether a line at the indentation of a block's first line continues the block."""
    if text[0] in ")]}":
        return _Verdict.KEEP
    word = _WORD.match(text)
    name = word.group() if word else ""
    if name in _CONTINUES and not (can_grow and name == text):
        return _Verdict.KEEP
    if can_grow and any(keyword.startswith(text) for keyword in _CONTINUES):
        return _Verdict.UNSURE
    return _Verdict.END


def _repeat_start(rules: LineRules, fit: Fit, text: str, line: _Line) -> int | None:
    """Returns where the line begins to repeat the text after the cursor, or None.

    A call that the completion itself opens may end like that text: `g(x)` before `)`.
    """
    repeated = rules.repeated
    if not repeated:
        return None
    start, end = line.start, line.start + len(line.text)
    stop = start + len(line.text.rstrip())
    starts = list(_whole_repeats(repeated, text, start, stop))
    if stop - len(repeated) >= start and text.endswith(repeated, start, stop):
        starts.append(stop - len(repeated))
    if line.can_grow:
        begun = range(max(end - len(repeated) + 1, start), end)
        starts += [at for at in begun if repeated.startswith(text[at:end])]
    for at in starts:
        if not fit.depth_at(at) and not _is_angle_open(repeated, text[start:at]):
            return at
    return None


def _whole_repeats(repeated: str, text: str, start: int, stop: int) -> Iterator[int]:
    """Yields where the text after the cursor stands in a line, as whole words and operators.

    If it begins with a mark that closes something (`>`, `</p>`), the mark is enough.
    """
    mark = _CLOSING_MARK.match(repeated)
    wanted = mark.group() if mark else repeated
    at = text.find(wanted, start, stop)
    while at >= 0:
        end = at + len(wanted)
        before, after = text[at - 1 : at] if at > start else " ", text[end : end + 1]
        if mark:
            is_whole = wanted != ">" or (before not in "-=" and after != "=")
        else:
            is_whole = _are_apart(before, repeated[0]) and _are_apart(repeated[-1], after)
        if end < stop and is_whole:
            yield at
        at = text.find(wanted, at + 1, stop)


def _are_apart(left: str, right: str) -> bool:
    """Returns whether two neighbours belong to different words or operators."""
    if left.isspace() or right.isspace():
        return True
    is_word = (left.isalnum() or left == "_", right.isalnum() or right == "_")
    if any(is_word):
        return not all(is_word)
    return left not in _OPERATORS or right not in _OPERATORS


def _is_angle_open(repeated: str, before: str) -> bool:
    """Returns whether the line has opened what a repeated text closes: `<` for `>`, `<p` for
    `</p>`."""
    if repeated[0] == ">":
        return before.count("<") > len(re.findall(r"(?<![-=])>", before))
    tag = _CLOSING_TAG.match(repeated)
    if tag is None:
        return False
    name = re.escape(tag.group(1))
    return len(re.findall(f"<{name}\\b", before)) > len(re.findall(f"</{name}\\b", before))
