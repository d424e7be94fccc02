"""What the user has changed last in each document, and which words that replaced.

Edits that go on where the one before ended are one change, so that the words that it replaced are
known however they were typed. Owns the last changes of each document, moved along by later edits.
Decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from dlm_lsp.session.document import Change, Document, Edit

CHANGES_MAX = 32  # Of a document that are remembered.
EDITS_MAX = 100  # In one message; more are no typing, and tell nothing.
CHARS_MAX = 4000  # Of a change; a longer one, such as formatting a file, says nothing.
LINES_CHARS_MAX = 5 * CHARS_MAX  # Of the lines of a change; longer ones are generated.
# The product of the numbers of words that are compared; repetitive ones take 0.2 s then.
CELLS_MAX = 100_000

_WORDS = re.compile(r"\w+|\s+|.", re.DOTALL)
_LINE_END = re.compile(r"[\r\n]")


@dataclass(frozen=True, slots=True)
class Replaced:
    """A word that was replaced by another one."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Recent:
    """A change: `before` stood where text[start:end] stands now.

    Attributes:
        caret: where the last edit of it ended.
    """

    before: str
    start: int
    end: int
    caret: int

    def is_small(self, text: str) -> bool:
        """Returns whether the change and its lines in the document of this text are small enough
        to tell what it means."""
        start, end = self.lines(text)
        is_short = max(len(self.before), self.end - self.start) <= CHARS_MAX
        return is_short and end - start <= LINES_CHARS_MAX

    def lines(self, text: str) -> tuple[int, int]:
        """Returns where the lines of the change begin and end in the document of this text."""
        return lines_around(text, self.start, self.end)

    def undone(self, text: str) -> str:
        """Returns the document of this text without the change."""
        return text[: self.start] + self.before + text[self.end :]

    def replaced(self, text: str) -> tuple[Replaced, ...]:
        """Returns the words that were replaced in the document of this text, the last one first."""
        if not self.is_small(text):
            return ()
        start, end = self.lines(text)
        before = text[start : self.start] + self.before + text[self.end : end]
        return replaced_words(before, text[start:end])


class RecentChanges:
    """The last changes of the documents of one session, by URI, and what was offered after them."""

    def __init__(self) -> None:
        self._changes: dict[str, list[Recent]] = {}
        self._offered: dict[str, frozenset[int]] = {}

    def edited(self, document: Document, changes: Sequence[Change], edits: Sequence[Edit]) -> None:
        """Takes notice of edits of a document, which were made of these changes in this order.

        Args:
            document: as it was before them.
        """
        if len(edits) > EDITS_MAX:
            self.forget(document.uri)
            return
        text = document.text
        for change, edit in zip(changes, edits, strict=True):
            # A change of the whole text has the rest of it as well.
            at = edit.start if change.start is None else 0
            new = change.text[at : at + edit.inserted]
            if text[edit.start : edit.start + edit.removed] != new:
                self._edited(document.uri, text, edit)
                text = text[: edit.start] + new + text[edit.start + edit.removed :]

    def _edited(self, uri: str, text: str, edit: Edit) -> None:
        """
        Args:
            text: before the edit.
        """
        known = self._changes.setdefault(uri, [])
        ends = (edit.start, edit.start + edit.removed)
        # With several cursors each has a change of its own.
        last = next((one for one in known if one.caret in ends), None)
        if last is None:
            last = Recent("", edit.start, edit.start, edit.start)
        older = (_moved(one, edit) for one in known if one is not last)
        known[:] = [_with(text, last, edit), *(one for one in older if one is not None)]
        del known[CHANGES_MAX:]
        self._offered[uri] = frozenset(_at(start, edit) for start in self.offered(uri))

    def of(self, uri: str) -> tuple[Recent, ...]:
        """Returns the changes of a document, the last one first."""
        return tuple(self._changes.get(uri, ()))

    def offered(self, uri: str) -> frozenset[int]:
        """Returns the starts of the lines whose next edit was offered."""
        return self._offered.get(uri, frozenset())

    def offer(self, uri: str, start: int) -> None:
        """Remembers that an edit of the line at `start` was offered."""
        self._offered[uri] = self.offered(uri) | {start}

    def offer_again(self, uri: str) -> None:
        """Forgets what was offered."""
        self._offered.pop(uri, None)

    def forget(self, uri: str) -> None:
        """Drops what is known of a document."""
        self._changes.pop(uri, None)
        self._offered.pop(uri, None)


def replaced_words(before: str, after: str) -> tuple[Replaced, ...]:
    """Returns the words of `before` that others replaced, the last one first.

    A word that was exchanged with another is no replaced one, nor is one of which several others
    took the place. Where very many words were replaced, none is.
    """
    old, new = _different(_WORDS.findall(before), _WORDS.findall(after))
    if len(old) * len(new) > CELLS_MAX:
        return ()
    pairs: dict[str, str | None] = {}
    for tag, first, last, to, until in SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if tag != "replace" or last - first != until - to:
            continue
        for one, other in zip(old[first:last], new[to:until], strict=True):
            if one != other and _is_telling(one) and _is_telling(other):
                known = pairs.pop(one, other)
                pairs[one] = other if known == other else None
    return tuple(
        Replaced(one, other)
        for one, other in reversed(pairs.items())
        if other is not None and other not in pairs
    )


def _different(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Returns two lists of words without what both begin and end with."""
    for _ in range(2):
        same = next(
            (at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
            min(len(old), len(new)),
        )
        old, new = old[same:][::-1], new[same:][::-1]
    return old, new


def _is_telling(word: str) -> bool:
    """Whether it is a word, and no number of one digit, of which there are too many."""
    return (word[0].isalnum() or word[0] == "_") and not (word.isdigit() and len(word) < 2)


def lines_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Returns where the lines of text[start:end] begin and end, the last line end left out."""
    first = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    found = _LINE_END.search(text, end)
    return first, len(text) if found is None else found.start()


def _with(text: str, change: Recent, edit: Edit) -> Recent:
    """Returns a change that an edit goes on with.

    Args:
        text: the text before the edit.
    """
    start, end = min(change.start, edit.start), max(change.end, edit.start + edit.removed)
    before = text[start : change.start] + change.before + text[change.end : end]
    return Recent(
        before=before[: CHARS_MAX + 1],  # More tells nothing, and need not be kept.
        start=start,
        end=end + edit.inserted - edit.removed,
        caret=edit.start + edit.inserted,
    )


def _moved(change: Recent, edit: Edit) -> Recent | None:
    """Returns a change after an edit elsewhere; None if that was in its text."""
    end = edit.start + edit.removed
    is_before, is_behind = end <= change.start, edit.start >= change.end
    if not (is_before or is_behind):
        return None
    shift = 0 if is_behind else edit.inserted - edit.removed
    return Recent(
        before=change.before,
        start=change.start + shift,
        end=change.end + shift,
        caret=change.caret + shift,
    )


def _at(offset: int, edit: Edit) -> int:
    """Returns where an offset lies after an edit."""
    if offset <= edit.start:
        return offset
    return max(offset + edit.inserted - edit.removed, edit.start)
