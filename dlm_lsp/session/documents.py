"""The open documents of one editor, kept in step with its edits or marked as out of step.

Owns the current version and the marks of each document. An impossible edit is reported once, and
its document gets no completions until the editor sends the whole text again, because the server's
text may differ from what the user sees. Knows no requests and no LSP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlm_lsp.session.context import AnchoredMarks, moved
from dlm_lsp.session.document import Change, Document, DocumentError, Edit, Encoding

logger = logging.getLogger(__name__)

DOCUMENT_CHARS_MAX = 50_000_000  # Longer texts are not kept; no setting allows completing them.
_UNKNOWN_MAX = 1000  # Documents that are remembered as reported.


@dataclass(slots=True)
class _Open:
    """One open document; `problem` says why its text cannot be trusted, or is None."""

    document: Document
    problem: str | None = None
    marks: AnchoredMarks | None = None
    used: int = 0  # A larger number means that it was opened or changed later.


class Documents:
    """Open documents by URI. `report` writes a sentence to the editor's log."""

    def __init__(self, encoding: Encoding, report: Callable[[str], None]) -> None:
        self._encoding = encoding
        self._report = report
        self._open: dict[str, _Open] = {}
        self._unknown: set[str] = set()
        self._uses = 0

    def open(self, document: Document) -> None:
        """Adds a document; it replaces an open one with the same URI."""
        self._unknown.discard(document.uri)
        opened = _Open(document)
        self._open[document.uri] = opened
        self._use(opened)
        self._bound(opened)

    def change(self, uri: str, version: int, changes: Sequence[Change]) -> tuple[Edit, ...] | None:
        """Applies edits; returns None if the document gets no completions after them."""
        opened = self._open.get(uri)
        if opened is None:
            self._report_unknown(uri, "changed")
            return None
        if opened.problem is not None:
            whole = [i for i, change in enumerate(changes) if change.start is None]
            if not whole:
                return None
            # The whole text puts the document in step again, whatever was missed before.
            changes = changes[whole[0] :]
            opened.document = Document(uri, opened.document.language_id, version, "")
            opened.problem = opened.marks = None
        try:
            opened.document, edits = opened.document.apply(changes, version, self._encoding)
        except DocumentError as error:
            self._lose(opened, str(error))
            return None
        if opened.marks is not None:
            opened.marks = moved(opened.marks, edits)
        self._use(opened)
        self._bound(opened)
        return edits if opened.problem is None else None

    def close(self, uri: str) -> None:
        """Removes a document."""
        if self._open.pop(uri, None) is None:
            self._report_unknown(uri, "closed")

    def lose(self, uri: str, why: str) -> None:
        """Marks a document as out of step because an edit of it could not be read."""
        opened = self._open.get(uri)
        if opened is None:
            self._report_unknown(uri, "changed")
        elif opened.problem is None:
            self._lose(opened, why)

    def get(self, uri: str) -> Document | None:
        """Returns the document as the editor has it now, or None if that is not known."""
        opened = self._open.get(uri)
        return opened.document if opened is not None and opened.problem is None else None

    def others(self, uri: str) -> list[Document]:
        """Returns all other documents whose text is known, the latest opened or changed first."""
        known = [one for at, one in self._open.items() if at != uri and one.problem is None]
        return [one.document for one in sorted(known, key=lambda one: -one.used)]

    def problem(self, uri: str) -> str:
        """Returns why `get` returns None; reports a document that was never opened once."""
        opened = self._open.get(uri)
        if opened is None:
            self._report_unknown(uri, "asked about")
            return "The document is not open."
        return opened.problem or ""

    def marks(self, uri: str) -> AnchoredMarks | None:
        """Returns the marks of the document's latest prompt, moved by the edits since then."""
        opened = self._open.get(uri)
        return opened.marks if opened is not None else None

    def set_marks(self, uri: str, marks: AnchoredMarks) -> None:
        """Stores the marks for the document as it is now."""
        opened = self._open.get(uri)
        if opened is not None and opened.problem is None:
            opened.marks = marks

    def _use(self, opened: _Open) -> None:
        self._uses += 1
        opened.used = self._uses

    def _lose(self, opened: _Open, why: str) -> None:
        opened.problem = f"The document is out of step with the editor: {why}"
        opened.document = Document(
            opened.document.uri, opened.document.language_id, opened.document.version, ""
        )
        opened.marks = None
        self._report(
            f"{opened.document.uri}: {why} Nothing is suggested there until the whole text is sent"
            " again: reopen it."
        )

    def _bound(self, opened: _Open) -> None:
        """Drops a text that is too large to be kept."""
        count = len(opened.document.text)
        if count > DOCUMENT_CHARS_MAX:
            self._lose(opened, f"it has {count} characters, more than {DOCUMENT_CHARS_MAX}.")

    def _report_unknown(self, uri: str, what: str) -> None:
        if uri not in self._unknown and len(self._unknown) < _UNKNOWN_MAX:
            self._unknown.add(uri)
            self._report(f"{uri} was {what} without being open. Send textDocument/didOpen first.")
