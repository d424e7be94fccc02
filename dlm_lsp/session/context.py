"""The context of a completion: the text around the cursor, and marks that stay in place.

Moves the marks along with edits. Deliberately knows no tokens: the host sets the token budget,
lays out the prompt and returns the marks it used. All offsets count code points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.client.messages import (
    NAME_CHARS_MAX,
    PREFIX_CHARS_MAX,
    SUFFIX_CHARS_MAX,
    Marks,
    RelatedFile,
)
from dlm_lsp.session.document import Document, Edit
from dlm_lsp.session.uris import name_of

# A new far-suffix mark is set FAR_LINES below the cursor and stays while it is 1 to FAR_LINES_MAX
# lines below. In simulated typing 0.7 % of keystrokes then recompute more than 256 tokens, against
# 31 % for windows that slide with every token.
FAR_LINES = 2
FAR_LINES_MAX = 8
# If fewer characters than this lie between the prefix mark and the cursor, the cursor has moved up
# to the mark, and the text above the mark is worth more than the cache.
PREFIX_CHARS_MIN = 400

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class AnchoredMarks:
    """Offsets into the document at which the prompt's pieces begin; None lets the host choose."""

    prefix_start: int | None
    far_suffix_start: int | None


@dataclass(frozen=True, slots=True)
class Context:
    """The text of a completion request at `offset`.

    Attributes:
        prefix: the text before the cursor from a line start, at most PREFIX_CHARS_MAX characters.
        suffix: the text after the cursor up to a line start, at most SUFFIX_CHARS_MAX characters.
        marks: the marks as offsets into `prefix` and `suffix`.
        base: the offset of `prefix[0]` in the document.
        offset: the offset of the cursor in the document.
        name: the file's name, or one that files of the language could have.
        related: text of other files, the most useful one last (`session/related.py`).
        repository: the name of the folder that holds them all.
    """

    prefix: str
    suffix: str
    marks: Marks
    base: int
    offset: int
    language_id: str
    name: str = ""
    related: tuple[RelatedFile, ...] = ()
    repository: str = ""


def moved(marks: AnchoredMarks, edits: Sequence[Edit]) -> AnchoredMarks:
    """Returns the marks after the edits, which are applied in order.

    A mark inside replaced text moves to the start of the replacement; `gather` moves it back to a
    line start or drops it.
    """
    prefix_start, far_suffix_start = marks.prefix_start, marks.far_suffix_start
    for edit in edits:
        prefix_start = _moved(prefix_start, edit)
        far_suffix_start = _moved(far_suffix_start, edit)
    return AnchoredMarks(prefix_start, far_suffix_start)


def _moved(mark: int | None, edit: Edit) -> int | None:
    if mark is None or mark <= edit.start:
        return mark
    if mark < edit.start + edit.removed:
        return edit.start
    return mark + edit.inserted - edit.removed


def gather(document: Document, offset: int, marks: AnchoredMarks | None) -> Context:
    """Returns the context at an offset and keeps earlier marks where they are still useful.

    Lone surrogates, which neither tokenizers nor UTF-8 can represent, become U+FFFD.
    """
    assert 0 <= offset <= len(document.text)
    base = _prefix_base(document, offset)
    end = _suffix_end(document, offset)
    prefix_start = far_suffix_start = None
    if marks is not None:
        prefix_start = _prefix_mark(document, offset, base, marks.prefix_start)
        far_suffix_start = marks.far_suffix_start
    far_suffix_start = min(_far_mark(document, offset, far_suffix_start), end)
    return Context(
        prefix=encodable(document.text[base:offset]),
        suffix=encodable(document.text[offset:end]),
        marks=Marks(
            prefix_start=None if prefix_start is None else prefix_start - base,
            far_suffix_start=far_suffix_start - offset,
        ),
        base=base,
        offset=offset,
        language_id=document.language_id,
        name=encodable(name_of(document.uri, document.language_id))[-NAME_CHARS_MAX:],
    )


def anchored(context: Context, used: Marks) -> AnchoredMarks:
    """Returns the marks of the host's answer as offsets into the document of the context."""
    return AnchoredMarks(
        None if used.prefix_start is None else context.base + used.prefix_start,
        None if used.far_suffix_start is None else context.offset + used.far_suffix_start,
    )


def _prefix_base(document: Document, offset: int) -> int:
    """Returns the first line start within PREFIX_CHARS_MAX; a longer line is cut inside."""
    reach = max(offset - PREFIX_CHARS_MAX, 0)
    line = document.line_of(reach)
    if document.line_start(line) == reach:
        return reach
    following = document.line_start(line + 1)
    return following if following <= offset else reach


def _suffix_end(document: Document, offset: int) -> int:
    """Returns the last line start within SUFFIX_CHARS_MAX, or the document's end.

    A longer line is cut inside.
    """
    reach = offset + SUFFIX_CHARS_MAX
    if reach >= len(document.text):
        return len(document.text)
    start = document.line_start(document.line_of(reach))
    return start if start > offset else reach


def _prefix_mark(document: Document, offset: int, base: int, mark: int | None) -> int | None:
    """Returns the mark, moved to a line start, or None outside the prefix or near the cursor."""
    if mark is None or not base <= mark <= offset:
        return None
    mark = max(document.line_start(document.line_of(mark)), base)
    return None if mark > base and offset - mark < PREFIX_CHARS_MIN else mark


def _far_mark(document: Document, offset: int, mark: int | None) -> int:
    """Returns the mark by the rule at FAR_LINES; the document's end counts as a line start."""
    line = document.line_of(offset)
    if mark is not None and offset < mark <= len(document.text):
        marked_line = document.line_of(mark)
        at_start = mark in (document.line_start(marked_line), len(document.text))
        if at_start and 1 <= marked_line - line <= FAR_LINES_MAX:
            return mark
    return document.line_start(line + FAR_LINES)


def encodable(text: str) -> str:
    """Returns the text with lone surrogates, which UTF-8 cannot represent, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
