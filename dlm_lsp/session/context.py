"""What the model is shown of a document: the text around the cursor with marks that stay put.

Owns the marks' way through edits. Deliberately knows no tokens: the host budgets and lays out, and
answers with the marks it used. All offsets are code points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.client.messages import PREFIX_CHARS_MAX, SUFFIX_CHARS_MAX, Marks
from dlm_lsp.session.document import Document, Edit

# The far suffix starts FAR_LINES below the cursor when its mark is set, and the mark stays while
# it is 1 to FAR_LINES_MAX below: in simulated typing 0.7 % of keystrokes then recompute more than
# 256 tokens, against 31 % for windows that slide with every token.
FAR_LINES = 2
FAR_LINES_MAX = 8
# With less than this between the prefix mark and the cursor the cursor has moved up to the mark,
# and the text above it is worth more than the cache.
PREFIX_CHARS_MIN = 400

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class AnchoredMarks:
    """Where the prompt's pieces begin, as offsets into the document; None where it is open."""

    prefix_start: int | None
    far_suffix_start: int | None


@dataclass(frozen=True, slots=True)
class Context:
    """What a request for a completion at `offset` says.

    Attributes:
        prefix: document text before the cursor, at most PREFIX_CHARS_MAX, from a line start.
        suffix: document text after it, at most SUFFIX_CHARS_MAX, up to a line start.
        marks: relative to prefix and suffix.
        base: the document's offset of prefix[0].
        offset: the document's offset of the cursor.
    """

    prefix: str
    suffix: str
    marks: Marks
    base: int
    offset: int
    language_id: str


def moved(marks: AnchoredMarks, edits: Sequence[Edit]) -> AnchoredMarks:
    """The marks where they are after the edits, made one after the other.

    A mark inside replaced text goes to the replacement's start; `gather` brings it back to a line
    start or drops it.
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
    """The context at an offset, with earlier marks kept where they still serve.

    Lone surrogates, which no tokenizer and no UTF-8 can carry, are shown as U+FFFD.
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
        prefix=_encodable(document.text[base:offset]),
        suffix=_encodable(document.text[offset:end]),
        marks=Marks(
            prefix_start=None if prefix_start is None else prefix_start - base,
            far_suffix_start=far_suffix_start - offset,
        ),
        base=base,
        offset=offset,
        language_id=document.language_id,
    )


def anchored(context: Context, used: Marks) -> AnchoredMarks:
    """The marks that the host answered with, as places in the document of the context."""
    return AnchoredMarks(
        None if used.prefix_start is None else context.base + used.prefix_start,
        None if used.far_suffix_start is None else context.offset + used.far_suffix_start,
    )


def _prefix_base(document: Document, offset: int) -> int:
    """The first line start that is in reach; a line longer than the reach is cut inside."""
    reach = max(offset - PREFIX_CHARS_MAX, 0)
    line = document.line_of(reach)
    if document.line_start(line) == reach:
        return reach
    following = document.line_start(line + 1)
    return following if following <= offset else reach


def _suffix_end(document: Document, offset: int) -> int:
    """The last line start that is in reach, or the document's end; as `_prefix_base`."""
    reach = offset + SUFFIX_CHARS_MAX
    if reach >= len(document.text):
        return len(document.text)
    start = document.line_start(document.line_of(reach))
    return start if start > offset else reach


def _prefix_mark(document: Document, offset: int, base: int, mark: int | None) -> int | None:
    """The mark while it lies in the prefix, at a line start, with enough text after it."""
    if mark is None or not base <= mark <= offset:
        return None
    mark = max(document.line_start(document.line_of(mark)), base)
    return None if mark > base and offset - mark < PREFIX_CHARS_MIN else mark


def _far_mark(document: Document, offset: int, mark: int | None) -> int:
    """The mark by the rule of FAR_LINES; the document's end counts as a line start."""
    line = document.line_of(offset)
    if mark is not None and offset < mark <= len(document.text):
        marked_line = document.line_of(mark)
        at_start = mark in (document.line_start(marked_line), len(document.text))
        if at_start and 1 <= marked_line - line <= FAR_LINES_MAX:
            return mark
    return document.line_start(line + FAR_LINES)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
