"""Where the user's last change asks for another edit, one place at a time.

A word that was replaced is looked for elsewhere, first in the definition that was changed and then
in others near it. The text of a definition is scored as it stands and with the word replaced in all
its lines: the model has to find that more probable by a margin, and the offered line more probable
than the old one in its midst. So a new name follows where the old one meant the same, and stays
away from another function's variable of that name. Where no word was replaced, the lines that the
change concerns are scored before and after it: words that have become improbable are written anew,
as refining does. Knows no requests; `session.py` decides when it may run.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dlm_lsp.client.messages import GIVEN_CHARS_MAX
from dlm_lsp.postprocess.texts import texts_in
from dlm_lsp.session.document import Document
from dlm_lsp.session.recent import Recent, Replaced
from dlm_lsp.session.refine import MARGIN, Doubt, Fill, Refining, SelectionRun, doubted, total
from engine.api import LogProbs

READ_CHARS_MAX = 200_000  # From the document's beginning, to tell code from strings.
REACH_CHARS_MAX = 100_000  # Above and below a change; scanning as many takes 0.1 s.
LINES_MAX = 200  # How far from the change a word is looked for.
SCOPES_MAX = 3  # The definitions that are looked at in one run.
WORDS_MAX = 2  # The replaced words that are looked for.
PLACES_MAX = 12  # The lines of one definition that are changed together.
SCORED_CHARS_MAX = GIVEN_CHARS_MAX // 2
# In nats, how much more probable a definition has to be with all its lines changed: the one that
# the user changed, and another one, whose word may as well be one of its own (measured).
OWN_MARGIN, OTHER_MARGIN = 2.0, 5.0
# In nats, how much more probable a definition has to be with one more line changed.
LINE_MARGIN = 1.0
# In nats, how much less probable a word has to be than before the change to be written anew.
DROP = 2.0
NEAR_LINES = 6  # The lines above and below a change that it concerns at any rate.
NAME_CHARS_MAX = 200  # Of what is called.
CALLS_MAX = 2  # The calls of what was changed that it concerns.
DOUBTS_MAX = 2  # The words that are written anew in one run, those that fell furthest first.

# What the model is shown above and below the lines that it scores, and around the change.
LINES_AROUND, LINES_AROUND_CHANGE = 24, 6

NO_CHANGE = "Change something first; the next edit follows from that."
NOTHING_LEFT = "The model sees no other place to change after the last edits."
SEEN_ALL = "There is no other place to change; the next request begins again."

_DEFINITION = re.compile(
    r"\s*(?=\S)(?:(?:[\w<>,*&\[\]:.\"' ]+ )?"
    r"(?:def|class|func|fn|fun|function|struct|enum|trait|impl|interface|module|sub|proc)\b"
    r"|(?!(?:if|for|while|switch|catch|else|elif|try|with|match|do|return|case|until|unless)\b)"
    r"[\w<>,*&\[\]:.~ ]+\([^;]*[{:]\s*$)"
)
_HEADER_END = re.compile(r"\s*[)\]].*[:{]\s*$")  # Of a definition whose first line is cut.
_CALL = re.compile(r"([^\W\d]\w*)\s*\($")


@dataclass(frozen=True, slots=True)
class Proposal:
    """An edit that replaces text[start:end] of the document, one line.

    Attributes:
        gain: how many nats more probable it makes the text around it.
    """

    start: int
    end: int
    text: str
    gain: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What the next edit is looked for in.

    Attributes:
        changes: the last changes of the document, the last one first.
        cursor: the offset of the cursor; nearer places come first.
        offered: the starts of lines that are left out.
    """

    document: Document
    changes: Sequence[Recent]
    cursor: int
    offered: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Lines:
    """The numbers of some lines, the first and the last one."""

    first: int
    last: int

    def __contains__(self, line: int) -> bool:
        return self.first <= line <= self.last


async def next_edit(asked: Asked, with_: Refining) -> Proposal | None:
    """Returns the next edit that the last changes ask for, the nearest to the cursor; or None.

    Raises:
        HostError: the host cannot be used, or could not complete a request.
    """
    seen: set[Replaced] = set()
    for change in asked.changes:
        for replaced in change.replaced(asked.document.text):
            if replaced in seen or len(seen) == WORDS_MAX:
                continue
            seen.add(replaced)
            search = _Search(asked, change, replaced, with_)
            for place in search.places():
                found = await search.spread(place)
                if found is not None:
                    return found
    last = asked.changes[0] if asked.changes else None
    if last is None or not last.is_small(asked.document.text):
        return None
    if last.replaced(asked.document.text):
        return None
    return await _of_doubts(asked, last, with_)


def scope_of(document: Document, line: int, *, is_inside: bool = True) -> Lines:
    """Returns the lines of the innermost definition around a line, or of the whole document.

    What a definition is is told by its first line and by indentation, in any language.

    Args:
        is_inside: whether a definition's first line belongs to itself, and not to what is around
            it.
    """
    lowest = _indentation(_line(document, line))
    for above in range(line, -1, -1):
        if lowest == 0 and above < line:
            break  # No line is indented less.
        text = _line(document, above)
        if not text.strip() or (above == line and not is_inside):
            continue
        indentation = _indentation(text)
        if (indentation < lowest or above == line) and _DEFINITION.match(text):
            return Lines(above, _last_inside(document, above, indentation))
        # What a closing bracket closes may be the definition's first line: `def f(⏎ a⏎):`.
        is_closing = text.lstrip()[0] in ")]}"
        lowest = min(lowest, indentation + 1 if is_closing else indentation)
    return Lines(0, document.line_count - 1)


def _last_inside(document: Document, header: int, indentation: int) -> int:
    """Returns the last line that is indented more than the header, or closes its block."""
    last = header
    for line in range(header + 1, document.line_count):
        text = _line(document, line)
        if not text.strip():
            continue
        if _indentation(text) == indentation and _HEADER_END.match(text):
            continue
        if _indentation(text) <= indentation:
            return line if text.lstrip()[0] in "}])" or text.strip() == "end" else last
        last = line
    return last


@dataclass(frozen=True, slots=True)
class _Place:
    """Lines of one definition in which a replaced word stands, the nearest to the cursor first.

    Attributes:
        margin: how much more probable they have to be with the new word, in nats.
    """

    lines: tuple[int, ...]
    margin: float


class _Search:
    """The search for the places of a word that was replaced.

    The same word means something else in strings and comments than in the code, and as a member of
    something (`a.total`) than by itself. The name of a definition is both.
    """

    def __init__(self, asked: Asked, change: Recent, replaced: Replaced, with_: Refining) -> None:
        self._asked, self._change, self._replaced = asked, change, replaced
        self._document, self._with = asked.document, with_
        self._old, self._new = (
            re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in (replaced.old, replaced.new)
        )
        reach = _reach(asked.document, change)
        start = asked.document.line_start(reach.start)
        start, end = 0 if start < READ_CHARS_MAX else start, asked.document.line_start(reach.stop)
        read = texts_in(asked.document.language_id, asked.document.text[start:end])
        self._texts = [(start + first, start + last) for first, last in read]
        changed = self._new.search(asked.document.text, *change.lines(asked.document.text))
        self._is_in_text = changed is not None and self._is_text(changed)
        self._is_name = changed is not None and self._is_defined(changed)
        self._is_member = changed is not None and self._is_of(changed)

    def places(self) -> Iterator[_Place]:
        """Yields the lines of each definition in which the old word stands.

        The first definition is the changed one; the others come by their distance.
        """
        found = [
            line for line in _reach(self._document, self._change) if self._changed(line) is not None
        ]
        scope = self._scope()
        groups: dict[Lines, list[int]] = {scope: []}
        for line in _nearest(self._asked, found):
            inner = scope if line in scope else scope_of(self._document, line)
            groups.setdefault(inner, []).append(line)
        for inner, lines in [*groups.items()][:SCOPES_MAX]:
            if lines and not self._is_taken(inner):
                margin = OWN_MARGIN if inner is scope else OTHER_MARGIN
                yield _Place(tuple(lines[:PLACES_MAX]), margin)

    async def spread(self, place: _Place) -> Proposal | None:
        """Returns the edit of the first line in which the old word is to be replaced, or None."""
        document, change, lines = self._document, self._change, place.lines
        last_changed = document.line_of(change.end)
        first, last = min(lines), max(lines)
        if first < last_changed <= last + PLACES_MAX:
            last = max(last, last_changed)  # What is changed above speaks for the change as well.
        start, end = document.line_start(first), document.line_end(last)
        if end - start > SCORED_CHARS_MAX:
            return None
        run = _run(self._asked, change, (start, end), self._with)

        async def total_with(chosen: Sequence[int]) -> float:
            """Returns the log probability with the word replaced in some lines."""
            text, at = "", start
            for line in sorted(chosen):
                text += document.text[at : document.line_start(line)] + (self._changed(line) or "")
                at = document.line_end(line)
            return total(await run.scored(text + document.text[at:end]), 0)

        old, new = await total_with(()), await total_with(lines)
        if new - old <= place.margin:
            return None
        for line in lines:
            at, to = document.line_start(line), document.line_end(line)
            if at in self._asked.offered:
                continue
            others = [one for one in lines if one != line]
            gain = new - (await total_with(others) if others else old)
            if gain > LINE_MARGIN:
                return Proposal(at, to, self._changed(line) or "", gain)
        return None

    def _changed(self, line: int) -> str | None:
        """Returns a line with the new word for the old one; None if that is not in it."""
        start, end = self._document.line_start(line), self._document.line_end(line)
        text, at = "", start
        for found in self._old.finditer(self._document.text, start, end):
            if self._is_meant(found):
                text += self._document.text[at : found.start()] + self._replaced.new
                at = found.end()
        return text + self._document.text[at:end] if at > start else None

    def _is_meant(self, found: re.Match[str]) -> bool:
        """Returns whether a word stands where it can mean what was changed."""
        if self._is_text(found) or self._is_in_text:
            return self._is_text(found) and self._is_in_text
        if self._is_name or self._is_of(found) == self._is_member:
            return True
        return self._is_member and self._is_defined(found)

    def _is_of(self, found: re.Match[str]) -> bool:
        """Returns whether a word is a member of what stands before it."""
        return found.string.endswith((".", "->", "::"), 0, found.start())

    def _is_defined(self, found: re.Match[str]) -> bool:
        """Returns whether a word is the name of a definition."""
        line = _line(self._document, self._document.line_of(found.start()))
        start = self._document.line_start(self._document.line_of(found.start()))
        return "(" not in line[: found.start() - start] and _DEFINITION.match(line) is not None

    def _is_text(self, found: re.Match[str]) -> bool:
        """Returns whether a word stands in a string or a comment."""
        index = bisect_right(self._texts, (found.start(), math.inf)) - 1
        return index >= 0 and found.end() <= self._texts[index][1]

    def _is_taken(self, scope: Lines) -> bool:
        """Returns whether the new word stood in a definition before it replaced the old one.

        It is another variable then, which the user has put in the place of the first in some lines.
        """
        text = self._document.text
        start, end = self._document.line_start(scope.first), self._document.line_end(scope.last)
        changes = [one for one in self._asked.changes if self._replaced in one.replaced(text)]
        return any(
            self._is_meant(found)
            and all(found.end() <= one.start or one.end <= found.start() for one in changes)
            for found in self._new.finditer(text, start, end)
        )

    def _scope(self) -> Lines:
        """Returns the definition that the change is in; the name of a definition is known around
        it."""
        line = self._document.line_of(self._change.start)
        return scope_of(self._document, line, is_inside=not self._is_name)


async def _of_doubts(asked: Asked, change: Recent, with_: Refining) -> Proposal | None:
    """Returns an edit of what a change has made improbable in the lines that it concerns."""
    document = asked.document
    for lines in _concerned(asked, change):
        start, end = document.line_start(lines.first), document.line_end(lines.last)
        text = document.text[start:end]
        if not text.strip() or len(text) > SCORED_CHARS_MAX:
            continue
        was = await _run(asked, change, (start, end), with_, is_undone=True).scored(text)
        run = _run(asked, change, (start, end), with_)
        now = await run.scored(text)
        for doubt in _fallen(text, was, now, with_.threshold)[:DOUBTS_MAX]:
            line = document.line_of(start + doubt.start)
            at, to = document.line_start(line), document.line_end(line)
            fill = Fill("")
            if at not in asked.offered:
                fill = await _filled(run, text, now, doubt)
            changed = text[: doubt.start] + fill.text + text[doubt.end :]
            if fill.probability <= 0 or changed == text:
                continue
            gain = total(await run.scored(changed), doubt.start) - total(now, doubt.start)
            gain += math.log(fill.probability)
            if gain > MARGIN:
                new = document.text[at : start + doubt.start] + fill.text
                return Proposal(at, to, new + document.text[start + doubt.end : to], gain)
    return None


def _concerned(asked: Asked, change: Recent) -> Iterator[Lines]:
    """Yields the lines that a change concerns: calls of what was changed, and its neighbours."""
    document = asked.document
    first, last = (document.line_of(at) for at in (change.start, change.end))
    near = Lines(max(first - NEAR_LINES, 0), min(last + NEAR_LINES, document.line_count - 1))
    before = document.text[document.line_start(first) : change.start]
    name = _CALL.search(before[: before.rfind("(") + 1][-NAME_CHARS_MAX:])
    if name is not None:
        call = re.compile(rf"(?<!\w){re.escape(name[1])}\s*\(")
        reach = _reach(document, change)
        calls = [line for line in reach if line not in near and call.search(_line(document, line))]
        for line in _nearest(asked, calls)[:CALLS_MAX]:
            yield Lines(line, line)
    for lines in (Lines(last + 1, near.last), Lines(near.first, first - 1)):
        if lines.first <= lines.last:
            yield lines


def _run(
    asked: Asked,
    change: Recent,
    place: tuple[int, int],
    with_: Refining,
    *,
    is_undone: bool = False,
) -> SelectionRun:
    """Returns a run for the text of a place, whose prompt is the lines around it and the change.

    It need not have been computed before, as a longer prompt would have to be.

    Args:
        is_undone: whether the text is to be as it was before the change.
    """
    document, (start, end) = asked.document, place
    text, last_line = document.text, document.line_count - 1

    def around(first: int, last: int, lines: int) -> tuple[int, int]:
        first, last = document.line_of(first) - lines, document.line_of(last) + lines
        return document.line_start(max(first, 0)), document.line_start(min(last, last_line) + 1)

    parts = sorted(
        (
            around(start, end, LINES_AROUND),
            around(change.start, change.end, LINES_AROUND_CHANGE),
        )
    )
    if parts[1][0] <= parts[0][1]:
        parts = [(parts[0][0], max(parts[0][1], parts[1][1]))]
    excerpt, at = "", 0
    for first, last in parts:
        part = text[first:last]
        is_here = first <= start and end <= last
        if is_here:
            at = len(excerpt) + start - first
        if is_undone and first <= change.start and change.end <= last:
            shift = len(change.before) - (change.end - change.start)
            part = text[first : change.start] + change.before + text[change.end : last]
            at += shift if is_here and change.end <= start else 0
        excerpt += part
    shown = Document(document.uri, document.language_id, document.version, excerpt)
    return SelectionRun(shown, at, at + end - start, with_)


def _reach(document: Document, change: Recent) -> range:
    """Returns the lines in which what a change concerns is looked for, up to a very long one."""
    first, last = (document.line_of(at) for at in (change.start, change.end))
    lowest = document.line_start(first) - REACH_CHARS_MAX
    highest = document.line_end(last) + REACH_CHARS_MAX
    above = bisect_left(document.line_starts, lowest)
    below = bisect_right(document.line_starts, highest)
    if below < document.line_count or len(document.text) > highest:
        below -= 1  # Its end is further away.
    return range(max(first - LINES_MAX, above), min(last + LINES_MAX + 1, below))


def _nearest(asked: Asked, lines: Sequence[int]) -> list[int]:
    """Returns lines by their distance from the cursor."""
    here = asked.document.line_of(asked.cursor)
    return sorted(lines, key=lambda line: abs(line - here))


def _fallen(text: str, was: LogProbs, now: LogProbs, threshold: float) -> list[Doubt]:
    """Returns the doubted words that were less doubted before, those that fell furthest first."""

    def fall(doubt: Doubt) -> float:
        pairs = zip(was, now, strict=True)
        return sum(old - new for (end, old), (_, new) in pairs if doubt.start < end <= doubt.end)

    found = [(fall(one), one) for one in doubted(text, now, threshold)]
    fallen = sorted((one for one in found if one[0] > DROP), key=lambda one: -one[0])
    return [doubt for _, doubt in fallen]


async def _filled(run: SelectionRun, text: str, scores: LogProbs, doubt: Doubt) -> Fill:
    fill = Fill("")
    async with aclosing(run.filled(text, scores, doubt)) as fills:
        async for latest in fills:
            fill = latest
    return fill


def _line(document: Document, line: int) -> str:
    return document.text[document.line_start(line) : document.line_end(line)]


def _indentation(text: str) -> int:
    return len(text.expandtabs()) - len(text.expandtabs().lstrip())
