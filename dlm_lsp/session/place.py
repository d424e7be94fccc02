"""Where a request wants a completion: a snapshot of its document, and an offset in it.

Owns the one conversion of a request's positions into offsets, and what is left of completions once
the document has changed since. Pure. Knows no engine and no other request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.session.cache import Completion, remainder
from dlm_lsp.session.context import AnchoredMarks, moved
from dlm_lsp.session.document import Change, Document, Edit, Encoding, Position
from dlm_lsp.session.requests import Ask


@dataclass(frozen=True, slots=True)
class CompletionPlace:
    """Where to complete: in the snapshot as it is, or with a popup menu's entry inserted.

    Attributes:
        snapshot: the document that the editor has.
        document, offset: the text to complete, and where.
        edits: that make `document` of `snapshot`.
        lead: the entry's text, with which every offer begins.
        start, end: what an offer replaces in the snapshot, apart from what shaping adds.
        cursor, first, last: the request's position, `start` and `end` as the editor counts.
    """

    snapshot: Document
    document: Document
    offset: int
    edits: tuple[Edit, ...]
    lead: str
    start: int
    end: int
    cursor: Position
    first: Position
    last: Position

    @property
    def prefix(self) -> str:
        return self.document.text[: self.offset]

    @property
    def suffix(self) -> str:
        return self.document.text[self.offset :]

    def moved_in(self, marks: AnchoredMarks | None) -> AnchoredMarks | None:
        """Marks of the snapshot as marks of the text to complete."""
        return marks and moved(marks, self.edits)

    @property
    def undoing(self) -> list[Edit]:
        """The edits that make `snapshot` of `document`."""
        return [Edit(edit.start, edit.inserted, edit.removed) for edit in reversed(self.edits)]


def place_of(document: Document, ask: Ask, encoding: Encoding) -> CompletionPlace:
    """Where an ask wants a completion. Raises DocumentError on an impossible position."""
    at = document.offset_at(ask.position, encoding)
    cursor = document.position_at(at, encoding)
    if ask.selected is None:
        return CompletionPlace(document, document, at, (), "", at, at, cursor, cursor, cursor)
    lead = ask.selected.text
    change = Change(ask.selected.start, ask.selected.end, lead)
    changed, edits = document.apply([change], document.version, encoding)
    start = document.offset_at(ask.selected.start, encoding)
    end = document.offset_at(ask.selected.end, encoding)
    return CompletionPlace(
        snapshot=document,
        document=changed,
        offset=start + len(lead),
        edits=edits,
        lead=lead,
        start=start,
        end=end,
        cursor=cursor,
        first=document.position_at(start, encoding),
        last=document.position_at(end, encoding),
    )


def standing(
    place: CompletionPlace, completions: Sequence[Completion], document: Document
) -> list[Completion]:
    """What is left of completions in a newer text, in which their beginning was typed."""
    shift = len(document.text) - len(place.snapshot.text)
    if shift < 0 or place.lead:
        return []
    offset = place.offset + shift
    prefix, suffix = document.text[:offset], document.text[offset:]
    left = [remainder(completion, prefix, suffix) for completion in completions]
    return [one for one in left if one is not None]
