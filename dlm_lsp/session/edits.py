"""The edits that are asked for by hand: a selection refined, and the next edit after a change.

Owns what the user has changed last. Decides which edit is offered, or why none is; `session.py`
decides whether it may be, and whether it still fits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from dlm_lsp.session.document import Change, Document, Edit, Encoding
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.next_edit import NO_CHANGE, NOTHING_LEFT, SEEN_ALL, Asked
from dlm_lsp.session.recent import RecentChanges
from dlm_lsp.session.refine import UNCHANGED, why_not_refined
from dlm_lsp.session.requests import NextEditAsk, RefineAsk
from dlm_lsp.session.runs import EngineRuns

# Where an edit begins and ends in the document, and its text; or why there is none.
Found = tuple[int, int, str] | str


class Edits:
    """The edits of one session.

    Args:
        start: brings the engine up.
    """

    def __init__(
        self,
        encoding: Encoding,
        documents: Documents,
        runs: EngineRuns,
        start: Callable[[], Awaitable[None]],
    ) -> None:
        self._encoding = encoding
        self._documents = documents
        self._runs = runs
        self._start = start
        self._recent = RecentChanges()

    def edited(
        self, document: Document | None, changes: Sequence[Change], edits: Sequence[Edit] | None
    ) -> None:
        """Takes notice of the edits that were made of these changes.

        Args:
            document: as it was before them; None if that was not known, and then they tell nothing.
            edits: None if they were not possible.
        """
        if document is not None and edits is not None:
            self._recent.edited(document, changes, edits)
        elif document is not None:
            self._recent.forget(document.uri)

    def forget(self, uri: str) -> None:
        """Drops what is known of a document."""
        self._recent.forget(uri)

    def may_follow(self, uri: str) -> bool:
        """Whether a document was changed, so that a next edit may follow."""
        return bool(self._recent.of(uri))

    async def refined(self, document: Document, ask: RefineAsk) -> Found:
        """Returns a selection refined.

        Raises: HostError if the host fails.
        """
        start, end = (document.offset_at(at, self._encoding) for at in (ask.start, ask.end))
        text = document.text[start:end]
        if (reason := why_not_refined(text)) is not None:
            return reason
        await self._start()
        state = await self._runs.refine(document, start, end, ask)
        return UNCHANGED if state.text == text else (start, end, state.text)

    async def next(self, document: Document, ask: NextEditAsk) -> Found:
        """Returns the next edit of a document, which is not offered again until no other is left.

        Raises: HostError if the host fails.
        """
        cursor = document.offset_at(ask.position, self._encoding)
        changes, offered = self._recent.of(ask.uri), self._recent.offered(ask.uri)
        if not changes:
            return NO_CHANGE
        await self._start()
        found = await self._runs.next_edit(Asked(document, changes, cursor, offered))
        if self._documents.get(ask.uri) is not document:
            return NOTHING_LEFT  # Nobody is told, since the text has changed meanwhile.
        if found is None:
            self._recent.offer_again(ask.uri)
            return SEEN_ALL if offered else NOTHING_LEFT
        self._recent.offer(ask.uri, found.start)
        return found.start, found.end, found.text
