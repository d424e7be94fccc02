"""Contexts: windows within the limits, and marks that stay in place while the user types."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.messages import PREFIX_CHARS_MAX, SUFFIX_CHARS_MAX, GenerateBody, Marks
from dlm_lsp.session.context import (
    FAR_LINES,
    FAR_LINES_MAX,
    PREFIX_CHARS_MIN,
    AnchoredMarks,
    Context,
    anchored,
    gather,
    moved,
)
from dlm_lsp.session.document import Change, Document, Edit, Encoding, Position


def document(text: str) -> Document:
    return Document("file:///a.py", "python", 1, text)


def insert(before: Document, offset: int, text: str) -> tuple[Document, tuple[Edit, ...]]:
    position = before.position_at(offset, Encoding.UTF32)
    return before.apply([Change(position, position, text)], before.version + 1, Encoding.UTF32)


def check_context(subject: Document, context: Context) -> None:
    """Checks what holds for every context of a document."""
    cursor, text = context.offset, subject.text
    starts = {*subject.line_starts, len(text)}
    end = cursor + len(context.suffix)
    assert context.prefix == text[context.base : cursor]
    assert context.suffix == text[cursor:end]
    assert len(context.prefix) <= PREFIX_CHARS_MAX
    assert len(context.suffix) <= SUFFIX_CHARS_MAX
    assert context.base in starts or len(context.prefix) == PREFIX_CHARS_MAX
    assert end in starts or len(context.suffix) == SUFFIX_CHARS_MAX
    marks = anchored(context, context.marks)
    assert marks.prefix_start is None or context.base <= marks.prefix_start <= cursor
    assert marks.far_suffix_start is not None
    assert cursor <= marks.far_suffix_start <= end
    assert marks.far_suffix_start in {*starts, end}
    assert GenerateBody(prefix=context.prefix, suffix=context.suffix, marks=context.marks)


lines = st.lists(st.sampled_from(["", "a", "  bb", "c" * 40, "def f():"]), max_size=20)
texts = st.tuples(lines, st.sampled_from(["\n", "\r\n"])).map(lambda pair: pair[1].join(pair[0]))


@settings(max_examples=300, deadline=None)
@given(texts, st.data())
def test_every_context_is_a_window_with_marks_inside(text: str, data: st.DataObject) -> None:
    offsets = st.integers(0, len(text))
    marks = AnchoredMarks(
        data.draw(st.none() | offsets), data.draw(st.none() | st.integers(0, len(text) + 5))
    )
    subject = document(text)
    check_context(subject, gather(subject, data.draw(offsets), marks))


@settings(max_examples=300, deadline=None)
@given(texts, st.data())
def test_marks_outside_an_edit_keep_their_text(text: str, data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.tuples(*(st.integers(0, len(text)),) * 2)))
    mark = data.draw(st.integers(0, len(text)))
    inserted = data.draw(texts)
    after = text[:start] + inserted + text[end:]
    edit = Edit(start, end - start, len(inserted))
    place = moved(AnchoredMarks(mark, None), [edit]).prefix_start
    assert place is not None
    assert 0 <= place <= len(after)
    if mark <= start:
        assert after[:place] == text[:mark]
    elif mark >= end:
        assert after[place:] == text[mark:]


def test_an_open_mark_stays_open() -> None:
    assert moved(AnchoredMarks(None, None), [Edit(0, 1, 2)]) == AnchoredMarks(None, None)


def test_typing_keeps_both_marks() -> None:
    text = "".join(f"line {number}\n" for number in range(200))
    subject = document(text)
    cursor = subject.line_end(100)
    first = gather(subject, cursor, None)
    used = Marks(prefix_start=70, far_suffix_start=first.marks.far_suffix_start)
    marks = anchored(first, used)
    below = subject.text[marks.far_suffix_start :]
    above = subject.text[marks.prefix_start : cursor]
    for character in "\n    value = 1\n    more = 2\n":
        subject, edits = insert(subject, cursor, character)
        cursor, marks = cursor + 1, moved(marks, edits)
        context = gather(subject, cursor, marks)
        check_context(subject, context)
        assert marks == anchored(context, context.marks)
        assert context.prefix[context.marks.prefix_start :].startswith(above)
        assert context.suffix[context.marks.far_suffix_start :] == below


def test_the_far_suffix_is_set_two_lines_below_and_kept_for_eight() -> None:
    subject = document("x\n" * 50)

    def far_line(cursor_line: int, marked_line: int | None) -> int:
        mark = None if marked_line is None else subject.line_start(marked_line)
        offset = subject.line_start(cursor_line)
        context = gather(subject, offset, AnchoredMarks(None, mark))
        return subject.line_of(offset + (context.marks.far_suffix_start or 0))

    assert far_line(20, None) == 20 + FAR_LINES
    for distance in range(1, FAR_LINES_MAX + 1):
        assert far_line(20, 20 + distance) == 20 + distance
    for distance in (-3, 0, FAR_LINES_MAX + 1):
        assert far_line(20, 20 + distance) == 20 + FAR_LINES


def test_a_far_mark_that_lost_its_line_start_is_set_anew() -> None:
    subject = document("a\nb\nc\nd\ne\n")
    joined, edits = subject.apply([Change(Position(2, 1), Position(3, 0), "")], 2, Encoding.UTF16)
    marks = moved(AnchoredMarks(None, subject.line_start(3)), edits)
    context = gather(joined, 0, marks)
    assert context.offset + (context.marks.far_suffix_start or 0) == joined.line_start(2)


def test_at_the_end_of_the_document_there_is_no_far_suffix() -> None:
    subject = document("a\nb")
    for offset in (0, 2, 3):
        context = gather(subject, offset, None)
        assert context.marks.far_suffix_start == len(context.suffix)


def test_a_prefix_mark_in_a_line_goes_to_its_start() -> None:
    text = "first line\nsecond line\n" + "x\n" * PREFIX_CHARS_MIN
    context = gather(document(text), len(text), AnchoredMarks(15, None))
    assert context.marks.prefix_start == 11


def test_a_prefix_mark_is_dropped_where_it_does_not_serve() -> None:
    text = "x = 1\n" * 1_000
    subject = document(text)
    close = 6 * 500 + PREFIX_CHARS_MIN - 1
    assert gather(subject, 6 * 400, AnchoredMarks(6 * 500, None)).marks.prefix_start is None
    assert gather(subject, close, AnchoredMarks(6 * 500, None)).marks.prefix_start is None
    assert gather(subject, close + 1, AnchoredMarks(6 * 500, None)).marks.prefix_start == 6 * 500
    assert gather(subject, 12, AnchoredMarks(0, None)).marks.prefix_start == 0


def test_long_documents_are_cut_at_line_starts() -> None:
    line = "y" * 99 + "\n"
    text = line * 10_000
    subject = document(text)
    cursor = 500_050
    context = gather(subject, cursor, AnchoredMarks(100, None))
    check_context(subject, context)
    assert len(context.prefix) == PREFIX_CHARS_MAX - 50
    assert len(context.suffix) == SUFFIX_CHARS_MAX - 50
    assert context.marks.prefix_start is None


def test_a_line_longer_than_the_window_is_cut_inside() -> None:
    subject = document("y" * 1_000_000)
    context = gather(subject, 500_000, None)
    check_context(subject, context)
    assert len(context.prefix) == PREFIX_CHARS_MAX
    assert len(context.suffix) == SUFFIX_CHARS_MAX


def test_lone_surrogates_are_shown_as_replacements() -> None:
    context = gather(document("a\ud800b\udc00c"), 2, None)
    assert (context.prefix, context.suffix) == ("a\ufffd", "b\ufffdc")
    assert GenerateBody(prefix=context.prefix, suffix=context.suffix).model_dump_json()


@pytest.mark.parametrize(
    ("uri", "language", "name"),
    [
        ("file:///w/main.go", "go", "main.go"),
        ("untitled:Untitled-1", "python", "Untitled-1.py"),
        ("vscode-notebook-cell:/w/n.ipynb#W0", "python", "n.ipynb"),
        ("git:/w/a%20b.rs?ref", "rust", "a b.rs"),
        ("file:///w/Makefile", "makefile", "Makefile"),
        ("file:///w/\ud800x", "ruby", "\ufffdx.rb"),
    ],
)
def test_the_context_names_the_file_or_one_of_its_language(
    uri: str, language: str, name: str
) -> None:
    assert gather(Document(uri, language, 1, "x"), 0, None).name == name
