"""Finds the end of a completion: where its scope is over, where it comes to the suffix or closes
what the suffix closes, where it is no code, or where it repeats itself.

Lines are judged in order and only by the text before them. The last line may still grow; if it is
undecided, the whole line is held back. Works on text with \\n line ends and the document's
indentation. What single rules say is in `scope.py`, `suffix.py`, `foreign.py` and `repeats.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from dlm_lsp.postprocess.foreign import ForeignRules, foreign
from dlm_lsp.postprocess.pairs import Fit
from dlm_lsp.postprocess.repeats import runaway
from dlm_lsp.postprocess.scope import Scope, ScopeRules
from dlm_lsp.postprocess.suffix import Suffix, same
from dlm_lsp.postprocess.verdict import Verdict, worst

PERIOD_MAX = 4  # The longest block, in lines, whose repetition is noticed.

_CLOSERS = re.compile(r"\s*[)\]}]+[;,]?")
_CLOSING_TAG = re.compile(r"</([\w.:-]*)\s*>")
_CLOSING_MARK = re.compile(r"</[\w.:-]*\s*>|/>|%>|\?>|-->|>(?!=)")
_OPERATORS = frozenset("+-*/%=<>!&|^~?:.@$#\\")


@dataclass(frozen=True, slots=True)
class LineRules:
    """The context by which the lines of a completion are judged.

    Attributes:
        repeated: the stripped text after the cursor on its line, if no line of a completion may
            end with it; it is empty for brackets that can pair.
        below: the lines of the suffix that are not blank, nearest first, without trailing spaces.
        above: the PERIOD_MAX lines above the cursor's that are not blank, the nearest last.
        indent: the document's unit of indentation.
        scope: the scope of the cursor's line.
        foreign: what is no code in the document's language.
        lines_max: the largest number of lines of a completion, the cursor's line included; None
            means any number.
    """

    repeated: str
    below: tuple[str, ...]
    above: tuple[str, ...]
    indent: str
    scope: ScopeRules
    foreign: ForeignRules
    lines_max: int | None

    @property
    def line_before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.scope.line_before


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of the text that stays; `is_final` if further text cannot change the end."""

    end: int
    is_final: bool


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
        escape = fit.escaped(line.start + len(line.text) + 1)
        if escape is not None:
            certain.append(escape)
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
    if verdict is not Verdict.KEEP:
        (certain if verdict is Verdict.END else possible).append(line.start)
    repeat = _repeat_start(rules, judge.fit, text, line)
    if repeat is not None:
        (possible if line.can_grow else certain).append(repeat)
    return certain, possible


class _Judge:
    """Judges line after line and remembers the kept lines."""

    def __init__(self, rules: LineRules, fit: Fit) -> None:
        self.fit = fit
        self._rules = rules
        self._scope = Scope(rules.scope, fit)
        self._suffix = Suffix(rules.below, rules.indent)
        self._kept: list[str] = []  # The kept lines that are not blank.

    def verdict(self, line: _Line) -> Verdict:
        """Returns whether the line must be removed."""
        before, can_grow = self._rules.line_before, line.can_grow
        is_whole = line.number > 0 or not before.strip()
        whole = before + line.text if line.number == 0 else line.text
        verdicts = [self._repetition(whole, can_grow)]
        if is_whole and self.fit.is_code(line.start):
            verdicts.append(foreign(self._rules.foreign, whole, can_grow))
            if self.fit.is_outside(line.start):
                verdicts.append(self._scope.at_margin(whole, can_grow))
        # A line inside a bracket or string that the completion has opened continues it.
        if is_whole and self.fit.is_outside(line.start, in_text=True):
            verdicts.append(self._below(line, whole))
        if line.number > 0 and self.fit.is_outside(line.start):
            verdicts.append(self._scope.verdict(line.text, line.start, can_grow))
        return worst(*verdicts)

    def keep(self, number: int, line: str) -> None:
        """Adds a line that stays."""
        before = self._rules.line_before if number == 0 else ""
        self._scope.keep(number, line)
        if (before + line).strip():
            self._kept.append((before + line).rstrip())

    def _below(self, line: _Line, whole: str) -> Verdict:
        """Judges by the lines below the cursor."""
        next_line = self._suffix.next_line
        is_closer = _CLOSERS.fullmatch(next_line) is not None
        if is_closer and self.fit.lacks(next_line.lstrip()[0]):
            return Verdict.KEEP  # It may be one that the document lacks.
        verdict = self._suffix.reached(whole, line.can_grow)
        if not self._kept:  # The first text is not held back for what is unlikely.
            return verdict
        return worst(verdict, self._suffix.passed(whole, self._scope.base, line.can_grow))

    def _repetition(self, line: str, can_grow: bool) -> Verdict:
        """Judges by repetition: a third copy of a block of up to PERIOD_MAX lines ends the text.

        The first copy may stand above the cursor.
        """
        kept = [*self._rules.above, *self._kept]
        verdict = Verdict.KEEP
        for period in range(1, min(PERIOD_MAX, len(kept) // 2, len(self._kept)) + 1):
            if kept[-2 * period : -period] == kept[-period:]:
                verdict = worst(verdict, same(line, kept[-period], can_grow))
        return verdict


def _repeat_start(rules: LineRules, fit: Fit, text: str, line: _Line) -> int | None:
    """Returns where the line begins to repeat the text after the cursor, or None.

    A call that the completion itself opens may end like that text: `g(x)` before `)`.
    """
    repeated = rules.repeated
    if not repeated:
        return None
    start, end = line.start, line.start + len(line.text)
    stop = start + len(line.text.rstrip())
    line_before = rules.line_before if line.number == 0 else ""
    earlier = list(_whole_repeats(repeated, line_before[-1:], text, start, stop))
    starts = [at for at in earlier if fit.is_outside(at)]
    if stop - len(repeated) >= start and text.endswith(repeated, start, stop):
        starts.append(stop - len(repeated))
    if line.can_grow:
        begun = range(max(end - len(repeated) + 1, start), end)
        starts += [at for at in begun if repeated.startswith(text[at:end])]
    for at in starts:
        is_outside = fit.is_outside(at, in_text=True)
        if is_outside and not _is_angle_open(repeated, line_before + text[start:at]):
            return at
    return None


def _whole_repeats(repeated: str, first: str, text: str, start: int, stop: int) -> Iterator[int]:
    """Yields where the text after the cursor stands in a line, as whole words and operators.

    `first` is the character before the line's first one; empty at the start of a line.

    If it begins with a mark that closes something (`>`, `</p>`), the mark is enough.
    """
    mark = _CLOSING_MARK.match(repeated)
    wanted = mark.group() if mark else repeated
    at = text.find(wanted, start, stop)
    while at >= 0:
        end = at + len(wanted)
        before, after = text[at - 1 : at] if at > start else first or " ", text[end : end + 1]
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
    """Returns whether the line has opened more than a repeated text closes: `<` for `>`, `<p` for
    `</p>`."""
    if repeated[0] == ">":
        return before.count("<") > len(re.findall(r"(?<![-=])>", before)) + 1
    tag = _CLOSING_TAG.match(repeated)
    if tag is None:
        return False
    name = re.escape(tag.group(1))
    return len(re.findall(f"<{name}\\b", before)) > len(re.findall(f"</{name}\\b", before)) + 1
