"""The place of a completion: a snapshot of the document and an offset in it.

Converts a request's positions into offsets, and computes which completions still fit after the
document has changed. Pure. Knows no engine and no other request.
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
    """The place to complete at: in the snapshot, or in it with a popup menu's entry inserted.

    Attributes:
        snapshot: the document as the editor has it.
        document, offset: the document to complete and the offset in it.
        edits: the edits that turn `snapshot` into `document`.
        lead: the text of the popup menu's entry, with which every offer begins.
        start, end: the range of the snapshot that an offer replaces; shaping may extend it.
        cursor, first, last: the cursor, `start` and `end` as positions in the editor's encoding.
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
        """Returns the snapshot's marks as marks of `document`."""
        return marks and moved(marks, self.edits)

    @property
    def undoing(self) -> list[Edit]:
        """Returns the edits that turn `document` back into `snapshot`."""
        return [Edit(edit.start, edit.inserted, edit.removed) for edit in reversed(self.edits)]


def place_of(document: Document, ask: Ask, encoding: Encoding) -> CompletionPlace:
    """Returns the place of a request. Raises DocumentError on an impossible position."""
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


def place_after(document: Document, shown: Completion, encoding: Encoding) -> CompletionPlace:
    """Returns the place after a suggestion, which is shown in the document, is accepted."""
    start = len(shown.prefix)
    end = start + shown.replaced
    first, last = document.position_at(start, encoding), document.position_at(end, encoding)
    changed, edits = document.apply([Change(first, last, shown.text)], document.version, encoding)
    offset = start + len(shown.text)
    return CompletionPlace(document, changed, offset, edits, "", start, end, first, first, last)


def standing(
    place: CompletionPlace, completions: Sequence[Completion], document: Document
) -> list[Completion]:
    """Returns the rest of each completion in a newer text in which its beginning was typed."""
    shift = len(document.text) - len(place.snapshot.text)
    if shift < 0 or place.lead:
        return []
    offset = place.offset + shift
    prefix, suffix = document.text[:offset], document.text[offset:]
    left = [remainder(completion, prefix, suffix) for completion in completions]
    return [one for one in left if one is not None]
