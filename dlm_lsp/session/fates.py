"""What becomes of suggestions: accepted, typed through, typed away, and how much of them is kept.

One suggestion is one offered text at one place, until it is accepted or anything else is written
there; what is asked anew while it is typed, or removed again, continues it. Accepted text is
followed through the edits and looked at a while later. Owns the texts for that long, and gives
away figures alone. Knows no engine and no LSP.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dlm_lsp.session.cache import closes
from dlm_lsp.session.document import Document, Edit
from dlm_lsp.session.offers import OFFERS_MAX
from dlm_lsp.session.requests import Offer
from dlm_lsp.statistics.rows import Change, Fate, Row

KEPT_SECONDS = 30.0  # Accepted text is looked at after this time.
_FOLLOWED = 4  # The latest suggestions of a document are followed, as reports may come late.

_AT_ONCE = 5  # So many characters at once are inserted and not typed, even by a fast hand.
_CELLS_MAX = 40_000  # Some 10 ms of the event loop.

_TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


class Stoppable(Protocol):
    """A timer."""

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Stoppable]


def on_loop(seconds: float, call: Callable[[], None]) -> Stoppable:
    """Calls back on the running event loop."""
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(slots=True)
class _Taken:
    """The accepted part of a suggestion: `text`, which stands at start..end once it is found."""

    text: str
    timer: Stoppable
    start: int = 0
    end: int = 0
    is_found: bool = False


@dataclass(slots=True)
class _Suggestion:
    """A suggestion that is followed.

    Attributes:
        origin: the offset in the document where `text` begins.
        typed: the characters of `text` that stand there already.
        before: how many of them stood there before the last edit of it.
        regained: how many characters that stood before it have become its beginning.
        began: when it was shown first.
        first, last: the beginning and the end of what is accepted of `text`; equal if nothing is.
        accepted: the characters that count as accepted.
        is_over: whether it is accepted whole, typed to its end or typed away.
    """

    id: int
    uri: str
    origin: int
    text: str
    typed: int
    began: float
    before: int = 0
    regained: int = 0
    first: int = 0
    last: int = 0
    accepted: int = 0
    is_over: bool = False
    taken: _Taken | None = None


@dataclass(frozen=True, slots=True)
class _Offered:
    """An offer of a suggestion.

    Attributes:
        place: where the offer begins in the suggestion's text, without what that has regained.
        lead: the length of the popup menu's entry with which it begins.
    """

    suggestion: _Suggestion
    text: str
    place: int
    lead: int


class Fates:
    """The suggestions of one session.

    Args:
        record: receives the row of each suggestion, and what becomes of it.
        clock: returns a time in seconds.
        later: calls back after some seconds.
    """

    def __init__(
        self,
        record: Callable[[Row | Change], None],
        clock: Callable[[], float] = time.monotonic,
        later: Later = on_loop,
    ) -> None:
        self._record = record
        self._clock = clock
        self._later = later
        self._followed: dict[str, list[_Suggestion]] = {}
        self._documents: dict[str, Document] = {}
        self._offers: OrderedDict[str, _Offered] = OrderedDict()

    def show(self, document: Document, offers: Sequence[Offer], row: Row, lead: int = 0) -> None:
        """Notes that offers are shown in a document, the first of them foremost.

        Args:
            row: what is recorded of them, unless they continue what is shown already.
            lead: the length of the popup menu's entry with which each begins.
        """
        uri, first = document.uri, offers[0]
        self._documents[uri] = document
        followed = self._followed.setdefault(uri, [])
        current = followed[-1] if followed else None
        offset = None if current is None else _continued(current, document, first)
        if current is None or offset is None:
            if current is not None:
                self._end(current, "dismissed")
            # Of a popup menu's entry the user may have typed a part.
            end = first.end if lead else first.start
            typed = _reach(document.text, first.start, first.text, end)[0]
            current = _Suggestion(row.id, uri, first.start, first.text, typed, self._clock())
            accepted = [one for one in followed[:-_FOLLOWED] if one.taken is not None]
            followed[:] = [*accepted, *followed[-_FOLLOWED:], current]
            self._record(row)
            offset = 0
        for offer in offers:
            place = offset - current.regained
            self._offers[offer.id] = _Offered(current, offer.text, place, lead)
        while len(self._offers) > OFFERS_MAX:
            self._offers.popitem(last=False)

    def edited(self, document: Document, edits: Sequence[Edit]) -> None:
        """Follows the edits of a document, which turn its last text into this one."""
        before = self._documents.get(document.uri)
        if before is None or not edits:
            return
        self._documents[document.uri] = document
        for suggestion in self._followed.get(document.uri, ()):
            if suggestion.taken is not None:
                _follow(suggestion.taken, edits)
            self._follow(suggestion, before, document, edits)
            _find(suggestion, document)

    def accepted(self, offer_id: str, length: int | None) -> None:
        """Notes that a part of an offer was accepted.

        Args:
            length: the characters of the offer that are accepted so far; None means all of them.
        """
        offered = self._offers.get(offer_id)
        if offered is None:
            return
        suggestion = offered.suggestion
        offset = offered.place + suggestion.regained
        whole = offset + len(offered.text)
        last = whole if length is None else min(whole, offset + offered.lead + length)
        is_first = suggestion.first == suggestion.last
        # What was typed before is not accepted, although clients count it as a part of the offer.
        # The edit comes before the report or after it.
        typed = suggestion.before if suggestion.typed >= last else suggestion.typed
        begins = max(offset, typed) if typed < last else offset
        suggestion.first = begins if is_first else min(begins, suggestion.first)
        suggestion.last = max(last, suggestion.last)
        # The text of another alternative stands in the place of the first one's.
        suggestion.text = suggestion.text[:offset] + offered.text
        lead = min(offered.lead, max(0, offset + offered.lead - suggestion.first))
        self._take(suggestion, lead)

    def _take(self, suggestion: _Suggestion, lead: int = 0) -> None:
        """Records that first..last of a suggestion's text is accepted, and follows it from now on.

        Args:
            lead: the characters of it that the popup menu would have written.
        """
        is_whole = suggestion.last >= len(suggestion.text)
        suggestion.is_over |= is_whole
        text = suggestion.text[suggestion.first : suggestion.last]
        suggestion.accepted = accepted = max(0, len(text.replace("\r", "")) - lead)
        fate: Fate = "accepted" if is_whole else "partly"
        elapsed = self._since(suggestion)
        self._record(Change(id=suggestion.id, fate=fate, fate_ms=elapsed, accepted=accepted))
        taken, document = suggestion.taken, self._documents.get(suggestion.uri)
        if taken is not None and taken.is_found and taken.text == text:
            return  # The report of what was seen already.
        _let_go(suggestion)
        if accepted and document is not None:
            timer = self._later(KEPT_SECONDS, lambda: self._look(suggestion))
            suggestion.taken = _Taken(text, timer)
            _find(suggestion, document)

    def forget(self, uri: str) -> None:
        """Follows nothing of a document any longer; what is not known by now stays unknown."""
        for suggestion in self._followed.pop(uri, ()):
            _let_go(suggestion)
            suggestion.is_over = True
        self._documents.pop(uri, None)

    def close(self) -> None:
        """Forgets everything."""
        for uri in list(self._followed):
            self.forget(uri)
        self._offers.clear()

    def _follow(
        self, suggestion: _Suggestion, before: Document, document: Document, edits: Sequence[Edit]
    ) -> None:
        """Moves a suggestion with the edits, and ends it if they have written anything else."""
        # Where what was written at the suggestion ends, from its origin on; None: nothing was.
        written: int | None = None
        for edit in edits:
            origin, end = suggestion.origin, edit.start + edit.removed
            behind = max(suggestion.typed, written or 0)
            if edit.start >= origin:
                if edit.start <= origin + behind:
                    written = edit.start + edit.inserted - origin
            elif end < origin:
                suggestion.origin += edit.inserted - edit.removed
            elif _stands(before.text, document.text, edit, origin):
                written = edit.start + edit.inserted - origin
            else:
                suggestion.origin, written = edit.start, edit.inserted
                lost = before.text[edit.start : origin]
                if end > origin or edit.inserted or len(edits) > 1 or not lost.isprintable():
                    self._end(suggestion, "dismissed")
                elif not suggestion.is_over and suggestion.last == 0:
                    # What is removed before it is offered again as its beginning.
                    suggestion.text = lost + suggestion.text
                    suggestion.regained += len(lost)
        if written is None or suggestion.is_over:
            return
        typed = suggestion.typed
        end = suggestion.origin + written  # What follows may begin like the rest by chance.
        reached, at = _reach(document.text, suggestion.origin, suggestion.text, end)
        suggestion.before, suggestion.typed = typed, reached
        left = document.text[at:end]
        if reached == len(suggestion.text) and reached >= typed + _AT_ONCE:
            # No report may come, as not all clients run the command of an item.
            if suggestion.first == suggestion.last:
                suggestion.first = typed
            suggestion.last = reached
            self._take(suggestion)
        elif reached == len(suggestion.text):
            self._end(suggestion, "typed")
        elif not closes(left, suggestion.text[reached:]):
            self._end(suggestion, "dismissed")

    def _end(self, suggestion: _Suggestion, fate: Fate) -> None:
        """Records the fate of a suggestion; what is accepted in part stays so."""
        if suggestion.is_over:
            return
        suggestion.is_over = True
        if suggestion.first == suggestion.last:
            self._record(Change(id=suggestion.id, fate=fate, fate_ms=self._since(suggestion)))

    def _look(self, suggestion: _Suggestion) -> None:
        """Records how much of the accepted text is still there."""
        taken, document = suggestion.taken, self._documents.get(suggestion.uri)
        suggestion.taken = None
        if taken is None or document is None or not taken.is_found:
            return
        # Where the whole document was replaced, its text is of no use beyond some length.
        end = min(taken.end, taken.start + 4 * len(taken.text) + 1000)
        now = document.text[taken.start : end].replace("\r", "")
        kept = kept_characters(taken.text.replace("\r", ""), now)
        self._record(Change(id=suggestion.id, kept=min(kept, suggestion.accepted)))

    def _since(self, suggestion: _Suggestion) -> float:
        return round((self._clock() - suggestion.began) * 1000, 1)


def kept_characters(accepted: str, now: str) -> int:
    """Returns how many characters of an accepted text are in what stands in its place now: those
    of the words, signs and runs of spaces that both have in the same order.

    In long texts, of which much has changed, their order is not looked at.
    """
    first, second = _TOKEN.findall(accepted), _TOKEN.findall(now)
    kept = 0
    for _ in range(2):  # What both begin with, and then what both end with.
        same = 0
        while same < min(len(first), len(second)) and first[same] == second[same]:
            kept += len(first[same])
            same += 1
        first, second = first[same:][::-1], second[same:][::-1]
    if len(first) * len(second) > _CELLS_MAX:
        common = Counter(first) & Counter(second)
        return kept + sum(len(token) * count for token, count in common.items())
    best = [0] * (len(second) + 1)  # The most characters of the beginnings of both.
    for token in first:
        row = [0]
        for at, other in enumerate(second):
            longer = best[at] + len(token) if token == other else 0
            row.append(max(longer, best[at + 1], row[at]))
        best = row
    return kept + best[-1]


def _stands(before: str, now: str, edit: Edit, origin: int) -> bool:
    """Returns whether an edit writes the text up to `origin` as it was, as an entry of a popup menu
    does, which replaces the word before it as well."""
    is_long_enough = edit.start + edit.inserted >= origin
    return is_long_enough and now[edit.start : origin] == before[edit.start : origin]


def _continued(current: _Suggestion, document: Document, offer: Offer) -> int | None:
    """Returns where an offer begins in the text of the suggestion that it continues, or None."""
    offset = offer.start - current.origin
    if current.is_over or not 0 <= offset <= len(current.text):
        return None
    whole = document.text[current.origin : offer.start] + offer.text
    if not (whole.startswith(current.text) or current.text.startswith(whole)):
        return None
    current.text = max(whole, current.text, key=len)
    return offset


def _reach(text: str, start: int, wanted: str, end: int | None = None) -> tuple[int, int]:
    """Returns how many characters of `wanted` stand in a text from `start` on, and where they end;
    a carriage return counts as nothing, because editors write line ends in their own way."""
    end = len(text) if end is None else min(end, len(text))
    if text.startswith(wanted, start, end):
        return len(wanted), start + len(wanted)
    read, at = 0, start
    while read < len(wanted):
        if at < end and text[at] == wanted[read]:
            read, at = read + 1, at + 1
        elif wanted[read] == "\r":
            read += 1
        elif at < end and text[at] == "\r":
            at += 1
        else:
            break
    return read, at


def _find(suggestion: _Suggestion, document: Document) -> None:
    """Finds accepted text in the document, where its edit has come by now."""
    taken = suggestion.taken
    if taken is None or taken.is_found:
        return
    reached, end = _reach(document.text, suggestion.origin, suggestion.text[: suggestion.last])
    if reached == suggestion.last:
        skipped = _reach(document.text, suggestion.origin, suggestion.text[: suggestion.first])
        taken.start, taken.end, taken.is_found = skipped[1], end, True


def _follow(taken: _Taken, edits: Sequence[Edit]) -> None:
    """Moves the range of accepted text with edits; what takes the place of its parts is in it."""
    if not taken.is_found:
        return
    for edit in edits:
        end, moved = edit.start + edit.removed, edit.inserted - edit.removed
        if end <= taken.start:
            taken.start, taken.end = taken.start + moved, taken.end + moved
        elif edit.start < taken.end:
            taken.start = min(taken.start, edit.start)
            taken.end = max(taken.end, end) + moved


def _let_go(suggestion: _Suggestion) -> None:
    if suggestion.taken is not None:
        suggestion.taken.timer.cancel()
        suggestion.taken = None
