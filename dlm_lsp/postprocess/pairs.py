"""Fits the brackets and strings of a completion into those around the cursor.

The editor inserts `)` for the user, and the model writes it again. Knows which of the frames that
are open at the cursor the text after it closes, and keeps one law: a completion closes none of
these, unless it replaces the closer right of the cursor or opens another frame for it. Brackets and
strings are read by `scanner.py`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dlm_lsp.postprocess.languages import UNKNOWN, Language, language_named
from dlm_lsp.postprocess.scanner import HEREDOC, Event, Frame, Kind, Scan, What, scan, undecided

_ONLY_CLOSERS = re.compile(r"[\s)\]}\"'`]*[:;,]?")
_PUNCTUATION = re.compile(r"[:;,](?=[ \t]*(?:\n|\Z))")
_STRAY_QUOTES = ('"""', "'''", '"', "'", "`")
_LOOKBEHIND_CHARS = 80
# The text that is read above and below the cursor; the first begins at a multiple of _STEP_CHARS.
_ABOVE_CHARS, _BELOW_CHARS, _STEP_CHARS = 40_000, 20_000, 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A closer right of the cursor: line_after[at:end] is `text`.

    `frame` is the index of the open frame that it closes; None for one that closes nothing known.
    """

    text: str
    at: int
    end: int
    frame: int | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is open at a cursor, and what the text after it closes.

    Attributes:
        before: the end of the text before the cursor.
        frames: what is open, outermost first.
        closed: the indices of the frames that the text after the cursor closes.
        head: the closers right of the cursor; empty if there is other text on the line.
        line_after: the text right of the cursor on its line.
        wanted: the closers after the cursor that close nothing yet, so that a completion has to
            open what they close; None if they are not known.
    """

    language: Language
    before: str
    frames: tuple[Frame, ...]
    closed: frozenset[int]
    head: tuple[Mark, ...]
    line_after: str
    wanted: tuple[str, ...] | None = None

    @property
    def in_string(self) -> bool:
        """Whether the innermost frame at the cursor is a string."""
        return bool(self.frames) and self.frames[-1].kind is Kind.STRING


def is_only_closers(line_after: str) -> bool:
    """Returns whether only closers, spaces and one punctuation mark are right of the cursor."""
    return _ONLY_CLOSERS.fullmatch(line_after.rstrip()) is not None


def pairs_for(language: Language, before: str, after: str) -> Pairs:
    """Returns the pairs at a cursor between two parts of a document.

    Only the text near the cursor is read, and what has not changed since the last keystroke is not
    read again.
    """
    skipped = max(len(before) - _ABOVE_CHARS, 0) // _STEP_CHARS * _STEP_CHARS
    before = before[before.find("\n", skipped) + 1 if skipped else 0 :]
    line = max(before.rfind("\n"), before.rfind("\r")) + 1
    line_after = re.split(r"[\r\n]", after, maxsplit=1)[0]
    below = after[len(line_after) : len(line_after) + _BELOW_CHARS]
    text, cursor = before + line_after + below, len(before)
    if language is UNKNOWN:  # Whether a quote opens a string depends on all that follows.
        frames = scan(language, text, 0, cursor).frames
    else:
        above = _scanned(language, before[:line], ())
        frames = scan(language, text, line, cursor, above.frames, line, is_draft=True).frames
    found, num_closable = _after_cursor(language, text, after, cursor, frames)
    head = _head(found.events, cursor, line_after) if is_only_closers(line_after) else ()
    before = before[-_LOOKBEHIND_CHARS:]
    pairs = Pairs(language, before, frames, frozenset(), head, line_after)
    closers = _closers(found.events, num_closable)
    if len(below) == _BELOW_CHARS:  # What is further below is not known.
        return replace(pairs, closed=frozenset(closers))
    strays = (event for event in found.events if event.what is What.STRAY)
    wanted = tuple(text[event.start : event.end] for event in strays)
    return _aligned(replace(pairs, wanted=wanted), closers, num_closable, line)


def _after_cursor(
    language: Language, text: str, after: str, cursor: int, frames: tuple[Frame, ...]
) -> tuple[Scan, int]:
    """Scans text[cursor:], and returns how many of the frames it can close, outermost first.

    A string of several lines that is open at the cursor may be closed below, or the completion has
    to close it and the next quote opens another. What leaves no string open at the end is right; of
    `after`, the whole text after the cursor, only the quotes are counted where it is longer.
    """
    length = len(re.split(r"[\r\n]", after, maxsplit=1)[0])
    whole = _scan_after(language, text, cursor, length, frames)
    at = len(frames) - 1
    while at >= 0 and not (frames[at].is_text and frames[at].closer):
        at -= 1
    closing = next((e for e in whole.events if e.what is What.CLOSE and e.depth <= at), None)
    is_real = closing is not None and closing.end > closing.start
    if at < 0 or (is_real and closing is not None and closing.start < cursor + length):
        return whole, len(frames)
    frame = frames[at]
    without = _scan_after(language, text, cursor, length, frames[:at])
    if frame.kind is Kind.COMMENT:
        opener = next((one for one, other in language.block_comments if other == frame.closer), "")
        is_below = closing is not None and opener not in text[cursor : closing.start]
    elif frame.form is HEREDOC:
        is_below = is_real
    elif len(after) > len(text) - cursor:
        is_below = is_real and after.count(frame.closer) % 2 == 1
    elif frame.ends_with_line:
        is_below = False
    else:
        is_below = closing is not None and not _is_in_string(whole) and _is_in_string(without)
    return (whole, len(frames)) if is_below else (without, at)


def _scan_after(
    language: Language, text: str, cursor: int, length: int, frames: tuple[Frame, ...]
) -> Scan:
    """Scans the rest of the cursor's line and the lines below; the latter from memory."""
    end = cursor + length
    rest = scan(language, text, cursor, end, frames, is_draft=True)
    below = _scanned(language, text[end:], rest.frames)
    moved = tuple(  # `replace` would take three times as long, for some thousand events at a key.
        Event(one.what, one.start + end, one.end + end, one.frame, one.depth)
        for one in below.events
    )
    return Scan(rest.events + moved, below.frames)


def _is_in_string(found: Scan) -> bool:
    return any(frame.kind is Kind.STRING and not frame.ends_with_line for frame in found.frames)


@lru_cache(maxsize=16)
def _scanned(language: Language, text: str, frames: tuple[Frame, ...]) -> Scan:
    """Scans lines above or below the cursor's, which mostly stay as they are."""
    return scan(language, text, 0, len(text), frames, is_draft=True)


def text_around(language_id: str, before: str, after: str) -> Literal["comment", "string"] | None:
    """Returns in what kind of text a cursor stands; None in code, also in code within a string."""
    frames = pairs_for(language_named(language_id), before, after).frames
    for frame in reversed(frames):
        if frame.kind is not Kind.SOFT:
            break
    else:
        return None
    if frame.kind is Kind.COMMENT:
        return "comment"
    return "string" if frame.kind is Kind.STRING else None


def _head(events: tuple[Event, ...], cursor: int, line_after: str) -> tuple[Mark, ...]:
    """Returns the closers of a line that has only closers, each as long as its token."""
    marks: list[Mark] = []
    found = {event.start - cursor: event for event in events}
    at = 0
    while at < len(line_after.rstrip()):
        event = found.get(at)
        text, frame = line_after[at], None
        if event is not None and event.end > event.start:
            text = line_after[at : event.end - cursor]
            frame = event.depth if event.what is What.CLOSE else None
        elif event is None and text in "\"'`":
            text = next(quote for quote in _STRAY_QUOTES if line_after.startswith(quote, at))
        if not text.isspace():
            marks.append(Mark(text, at, at + len(text), frame))
        at += len(text)
    return tuple(marks)


def _closers(events: tuple[Event, ...], depth: int) -> dict[int, Event]:
    """Returns the events that close frames of before the text, innermost first, by the frame."""
    found: dict[int, Event] = {}
    for event in events:
        if event.what is What.CLOSE and event.depth < depth:
            depth = event.depth
            if event.end > event.start:  # A string that only its line's end closes stays open.
                found[depth] = event
    return found


def _aligned(pairs: Pairs, closers: dict[int, Event], num_closable: int, line: int) -> Pairs:
    """Returns the pairs with the closers shared out among the frames.

    Where the document lacks closers, those of the innermost frames are missing, since a completion
    stands before all others. Next to closers only frames of the cursor's own line lack any: the
    editor has put them there, whatever is wrong in the rest of the document.
    """
    frames = pairs.frames[:num_closable]
    marked = [mark.frame for mark in pairs.head if mark.frame is not None]
    if len(closers) == len(frames):
        return replace(pairs, closed=frozenset(closers))
    here = [at for at, frame in enumerate(frames) if frame.start >= line] if marked else None
    candidates = list(range(len(frames))) if here is None else here
    given = [at for at in (closers if here is None else marked) if at in candidates]
    moved: dict[int, int] = {}
    for at in reversed(given):  # From the outermost closer on, each takes the outermost frame.
        place = next(
            (
                each
                for each in candidates
                if each not in moved.values()
                and each >= max(moved.values(), default=0)
                and frames[each].closer == frames[at].closer
            ),
            at,
        )
        moved[at] = place
    head = tuple(
        replace(mark, frame=moved.get(mark.frame, mark.frame)) if mark.frame is not None else mark
        for mark in pairs.head
    )
    closed = frozenset(moved.get(at, at) for at in closers)
    return replace(pairs, closed=closed, head=head)


@dataclass(frozen=True, slots=True)
class _State:
    """What a completion has done up to an event.

    Attributes:
        floor: the number of frames of before the cursor that are still open.
        own: the completion's own open frames, outermost first.
        pairs: for each closer of the head that the completion has written: its start and end in
            the completion, and its index in the head.
        is_sound: whether all that the text after the cursor closes is still open, or can be.
        kept: the frames, outermost first, whose closers after the cursor the outermost of the
            completion's own frames take.
        is_lost: whether the end of a line has closed a string that is closed after the cursor.
    """

    floor: int
    own: tuple[Frame, ...] = ()
    pairs: tuple[tuple[int, int, int], ...] = ()
    is_sound: bool = True
    kept: tuple[int, ...] = ()
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a completion ends: text[:end], which replaces `replaced` characters after the cursor.

    Attributes:
        closers: what its own open frames need after a cut, innermost first.
    """

    end: int
    replaced: int
    closers: str


class Fit:
    """A completion, read between the frames at its cursor.

    Args:
        is_whole: whether no more text follows.
    """

    def __init__(self, pairs: Pairs, text: str, is_whole: bool) -> None:
        self._pairs = pairs
        self._text = text
        full, base = pairs.before + text, len(pairs.before)
        last_line = None if is_whole else max(full.rfind("\n") + 1, base)
        found = scan(pairs.language, full, base, len(full), pairs.frames, last_line, is_draft=True)
        self._events = [
            replace(event, start=event.start - base, end=event.end - base) for event in found.events
        ]
        self._starts = [event.start for event in self._events]
        self._states = [_State(len(pairs.frames))]
        for event in self._events:
            self._states.append(self._after(self._states[-1], event))

    def lacks(self, closer: str) -> bool:
        """Returns whether the text after the cursor leaves something open that this closes."""
        frames, closed = self._pairs.frames, self._pairs.closed
        return any(frame.closer == closer for at, frame in enumerate(frames) if at not in closed)

    def is_open_below(self, closer: str, index: int) -> bool:
        """Returns whether this closes the innermost open bracket at an index, and the text after
        the cursor does not."""
        at = self._closable(closer, index)
        return at is not None and at not in self._pairs.closed

    def is_closed_below(self, closer: str, index: int) -> bool:
        """Returns whether this closes the innermost open bracket at an index, which a line below
        the cursor's closes."""
        at = self._closable(closer, index)
        is_head = any(mark.frame == at for mark in self._pairs.head)
        return at is not None and at in self._pairs.closed and not is_head

    def _closable(self, closer: str, index: int) -> int | None:
        """Returns the frame of before the cursor that a closing bracket at an index closes."""
        state = self._states[bisect_left(self._starts, index)]
        if state.own or not state.floor:
            return None
        frame = self._pairs.frames[state.floor - 1]
        is_bracket = frame.kind in (Kind.BRACKET, Kind.CODE)
        return state.floor - 1 if is_bracket and frame.closer == closer else None

    def is_code(self, index: int) -> bool:
        """Returns whether an index is neither in a string nor in a comment."""
        state = self._states[bisect_left(self._starts, index)]
        for frame in reversed((*self._pairs.frames[: state.floor], *state.own)):
            if frame.kind is not Kind.SOFT:
                return not frame.is_text
        return True

    def escaped(self, index: int) -> int | None:
        """Returns where the text has begun to close what the text after the cursor closes, if it is
        not open again before an index; None otherwise."""
        at = bisect_left(self._starts, index)
        if self._states[at].is_sound:
            return None
        while not self._states[at].is_sound:
            at -= 1
        return self._starts[at]

    def is_outside(self, index: int, in_text: bool = False) -> bool:
        """Returns whether no frame is open before an index that the completion has opened and has
        to close itself.

        Args:
            in_text: whether strings and comments do not count, but only the brackets around them.
        """
        state = self._states[bisect_left(self._starts, index)]
        own = state.own
        if in_text:
            own = tuple(frame for frame in own if frame.kind in (Kind.BRACKET, Kind.CODE))
        return len(own) <= max(len(state.kept), self._num_wanted(own))

    def _num_wanted(self, own: tuple[Frame, ...]) -> int:
        """Returns how many of these frames, outermost first, closers after the cursor close."""
        wanted = self._pairs.wanted
        return len(own) if wanted is None else min(len(own), len(wanted))

    def decided(self) -> int:
        """Returns the end of the part that no further text can read otherwise."""
        state = self._states[-1]
        own = state.own
        frames = (*self._pairs.frames[: state.floor], *own)
        end = len(self._text) - undecided(self._pairs.language, self._text, frames, self._events)
        for mark in self._pairs.head:  # Three quotes come one after another.
            if mark.frame is None and len(mark.text) > 1:
                end = min(end, len(self._text.rstrip(mark.text[0])))
        begun = next((f for f in own if f.form is not None and f.form.is_line_bound), None)
        if begun is not None:  # If its line does not close it, it was no string.
            start = begun.start - len(self._pairs.before)
            if self._pairs.line_after.strip():
                return min(end, start)
            after = bisect_left(self._starts, start + 1)
            return min(end, *self._starts[after:], len(self._text))
        return end

    def ending(self, end: int, is_cut: bool, closes_text: bool = False) -> Ending:
        """Returns how the completion ends if it is cut at an index.

        Args:
            is_cut: whether the model's text goes on after the index.
            closes_text: whether a string or comment that is open at the cut is closed, too.
        """
        at = bisect_left(self._starts, end)
        if at and self._events[at - 1].end > end:  # No token is shown in part.
            at, end = at - 1, self._starts[at - 1]
        while not self._states[at].is_sound:
            at -= 1
            end, is_cut = self._starts[at], True
        end = len(self._text[:end].rstrip())
        pairs = self._pairs_before(end)
        while (shorter := self._shorter(end, pairs)) < end:
            end = len(self._text[:shorter].rstrip())
            pairs = self._pairs_before(end)
        state = self._states[bisect_left(self._starts, end)]
        num_taken = len(state.kept) or (0 if closes_text else self._num_wanted(state.own))
        left = [frame for frame in state.own[num_taken:] if frame.kind is not Kind.SOFT]
        if any(frame.is_text and not frame.ends_with_line for frame in left) and not closes_text:
            left = []  # The text after the cursor may go on with it.
        if any(frame.form is HEREDOC for frame in left):
            left = []  # A line of its own would end it.
        closers = "".join(frame.closer for frame in reversed(left))
        replaced = self._pairs.head[pairs[-1][2]].end if pairs else 0
        return Ending(end, replaced, closers if is_cut else "")

    def _shorter(self, end: int, pairs: Sequence[tuple[int, int, int]]) -> int:
        """Returns the end without a last closer that is right of the cursor, too."""
        if pairs and pairs[-1][1] == end:
            return pairs[-1][0]
        rest = self._pairs.head[pairs[-1][2] + 1 :] if pairs else self._pairs.head
        # Outside a string, a quote right of the cursor may close one that the completion opens.
        if rest and rest[0].frame is None and rest[0].text in _STRAY_QUOTES:
            return end - len(rest[0].text) * self._text[:end].endswith(rest[0].text)
        return end

    def _pairs_before(self, end: int) -> list[tuple[int, int, int]]:
        """Returns the closers of the head that the completion up to an index replaces."""
        state = self._states[bisect_left(self._starts, end)]
        head, pairs = self._pairs.head, list(state.pairs)
        kept = [at for at, pair in enumerate(pairs) if head[pair[2]].frame in state.kept]
        del pairs[kept[0] if kept else len(pairs) :]
        if not head or head[-1].text not in ":;," or len(head) - 1 != len(pairs):
            return pairs
        for found in _PUNCTUATION.finditer(self._text, pairs[-1][1] if pairs else 0, end):
            if found.group() == head[-1].text and self._is_plain(found.start()):
                return [*pairs, (found.start(), found.end(), len(head) - 1)]
        return pairs

    def _is_plain(self, index: int) -> bool:
        """Returns whether an index is in code outside everything that the completion opened."""
        state = self._states[bisect_left(self._starts, index)]
        frames = self._pairs.frames[: state.floor]
        return not state.own and not (frames and frames[-1].is_text)

    def _after(self, state: _State, event: Event) -> _State:
        if event.what is What.STRAY:
            return replace(state, pairs=self._paired(state, event, None))
        if event.what is What.OPEN:
            assert event.frame is not None
            return self._judged(replace(state, own=(*state.own, event.frame)))
        if event.depth >= state.floor:
            return self._judged(replace(state, own=state.own[: event.depth - state.floor]))
        pairs = state.pairs
        is_lost = state.is_lost
        if event.end > event.start:
            pairs = self._paired(state, event, event.depth)
        else:  # The end of a line closes a string that the text after the cursor closes.
            is_lost = is_lost or event.depth in self._pairs.closed
        return self._judged(_State(event.depth, (), pairs, is_lost=is_lost))

    def _paired(
        self, state: _State, event: Event, frame: int | None
    ) -> tuple[tuple[int, int, int], ...]:
        """Returns the pairs, with the event's closer if the head has it next."""
        first = state.pairs[-1][2] + 1 if state.pairs else 0
        for at, mark in enumerate(self._pairs.head[first:], first):
            is_next = at == first and not state.own and mark.text == self._text_of(event)
            if mark.frame == frame and (frame is not None or is_next):
                return (*state.pairs, (event.start, event.end, at))
        return state.pairs

    def _text_of(self, event: Event) -> str:
        return self._text[event.start : event.end]

    def _judged(self, state: _State) -> _State:
        """Returns the state with its verdict: is what the text after the cursor closes open?"""
        frames, own = self._pairs.frames, state.own
        gone = [
            at for at in range(len(frames) - 1, state.floor - 1, -1) if at in self._pairs.closed
        ]
        replaced = {self._pairs.head[pair[2]].frame for pair in state.pairs}
        last = max((place + 1 for place, at in enumerate(gone) if at in replaced), default=0)
        for kept in range(min(len(own), len(gone)), len(gone) - last - 1, -1):
            taken = tuple(reversed(gone[len(gone) - kept :])) if kept else ()
            if [frame.closer for frame in own[:kept]] == [frames[at].closer for at in taken]:
                return replace(state, is_sound=not state.is_lost, kept=taken)
        return replace(state, is_sound=False, kept=())
