"""Documents: any sequence of edits equals the full text, in every encoding; then examples."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlm_lsp.session.document import Change, Document, DocumentError, Edit, Encoding, Position

UNITS = {
    Encoding.UTF8: lambda character: len(character.encode("utf-8", "surrogatepass")),
    Encoding.UTF16: lambda character: 2 if character > "\uffff" else 1,
    Encoding.UTF32: lambda character: 1,
}
# All line ends of LSP and two of str.splitlines, characters of 1 to 4 bytes, lone surrogates.
PIECES = ["a", "b", "\r", "\n", "\r\n", "\u2028", "\x0c", "é", "語", "𝒳", "\ud83d", "\ude00"]

texts = st.lists(st.sampled_from(PIECES), max_size=16).map("".join)
encodings = st.sampled_from(list(Encoding))
positions = st.builds(Position, st.integers(0, 6), st.integers(0, 8))
ranges = st.tuples(positions, positions).map(sorted)
changes = st.one_of(
    st.builds(lambda ends, text: Change(*ends, text), ranges, texts),
    st.builds(lambda text: Change(None, None, text), texts),
)


def document(text: str) -> Document:
    return Document("file:///a.py", "python", 1, text)


def naive_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\r\n|\r|\n", text))]


def naive_offset(text: str, position: Position, encoding: Encoding) -> int:
    """Walks the line character by character."""
    starts = naive_starts(text)
    if position.line >= len(starts):
        return len(text)
    offset, used = starts[position.line], 0
    while offset < len(text) and text[offset] not in "\r\n":
        used += UNITS[encoding](text[offset])
        if used > position.character:
            break
        offset += 1
    return offset


def cuts_a_character(text: str, change: Change, encoding: Encoding) -> bool:
    """Whether a position of the change lies inside a character."""
    for position in (change.start, change.end):
        starts = naive_starts(text)
        if position is None or position.line >= len(starts):
            continue
        offset = naive_offset(text, position, encoding)
        before = text[starts[position.line] : offset]
        reached = sum(map(UNITS[encoding], before))
        is_at_end = offset == len(text) or text[offset] in "\r\n"
        if reached < position.character and not is_at_end:
            return True
    return False


def naive_apply(text: str, change: Change, encoding: Encoding) -> str:
    if change.start is None or change.end is None:
        return change.text
    start = naive_offset(text, change.start, encoding)
    end = naive_offset(text, change.end, encoding)
    return text[:start] + change.text + text[end:]


@settings(max_examples=600, deadline=None)
@given(texts, st.lists(changes, max_size=6), encodings)
def test_edits_equal_the_full_text(text: str, edits: list[Change], encoding: Encoding) -> None:
    expected = text
    for change in edits:
        if cuts_a_character(expected, change, encoding):
            with pytest.raises(DocumentError, match="inside a character"):
                document(text).apply(edits, 2, encoding)
            return
        expected = naive_apply(expected, change, encoding)
    result, _ = document(text).apply(edits, 2, encoding)
    assert result.text == expected
    assert list(result.line_starts) == naive_starts(expected)
    assert result == Document("file:///a.py", "python", 2, expected)


@settings(max_examples=300, deadline=None)
@given(texts, st.lists(changes, max_size=6), encodings)
def test_edits_say_what_changed(text: str, edits: list[Change], encoding: Encoding) -> None:
    before, expected = document(text), text
    for change in edits:
        assume(not cuts_a_character(expected, change, encoding))
        expected = naive_apply(expected, change, encoding)
    result, made = before.apply(edits, 2, encoding)
    assert len(made) == len(edits)
    replayed = text
    for number, edit in enumerate(made):
        after, _ = before.apply(edits[: number + 1], 2, encoding)
        inserted = after.text[edit.start : edit.start + edit.inserted]
        replayed = replayed[: edit.start] + inserted + replayed[edit.start + edit.removed :]
    assert replayed == result.text


@settings(max_examples=300, deadline=None)
@given(texts, positions, encodings)
def test_positions_clamp_as_a_walk_along_the_line_does(
    text: str, position: Position, encoding: Encoding
) -> None:
    subject = document(text)
    offset = subject.offset_at(position, encoding)
    assert offset == naive_offset(text, position, encoding)
    back = subject.position_at(offset, encoding)
    assert back <= position
    assert subject.offset_at(back, encoding) == offset


@settings(max_examples=300, deadline=None)
@given(texts)
def test_lines_cover_the_text(text: str) -> None:
    subject = document(text)
    starts = naive_starts(text)
    assert subject.line_count == len(starts)
    for line, start in enumerate(starts):
        assert subject.line_start(line) == start
        assert not re.search("[\r\n]", text[start : subject.line_end(line)])
        assert re.fullmatch(
            "|\r|\n|\r\n", text[subject.line_end(line) : subject.line_start(line + 1)]
        )
    for offset in range(len(text) + 1):
        assert starts[subject.line_of(offset)] <= offset


def test_line_separators_of_unicode_are_no_line_ends() -> None:
    subject = document("a\u2028b\x0cc\x85d\ne")
    assert subject.line_count == 2
    assert subject.offset_at(Position(1, 0), Encoding.UTF16) == 8


@pytest.mark.parametrize(
    ("encoding", "character"),
    [(Encoding.UTF8, 6), (Encoding.UTF16, 3), (Encoding.UTF32, 2)],
)
def test_characters_beyond_the_basic_plane_count_by_encoding(
    encoding: Encoding, character: int
) -> None:
    subject = document("é𝒳b")
    assert subject.position_at(2, encoding) == Position(0, character)
    assert subject.offset_at(Position(0, character), encoding) == 2
    assert subject.offset_at(Position(0, character - 1), encoding) == 1


@pytest.mark.parametrize(
    ("text", "start", "end", "encoding"),
    [
        ("a😀b", 1, 2, Encoding.UTF16),
        ("a😀b", 2, 3, Encoding.UTF16),
        ("😀", 1, 1, Encoding.UTF16),
        ("é", 1, 2, Encoding.UTF8),
        ("語a", 0, 2, Encoding.UTF8),
    ],
)
def test_an_edit_that_cuts_a_character_in_two_is_refused(
    text: str, start: int, end: int, encoding: Encoding
) -> None:
    """Half a character cannot be kept, so that the text would differ from the editor's."""
    change = Change(Position(0, start), Position(0, end), "z")
    with pytest.raises(DocumentError, match=r"contentChanges\[0\].range.* inside a character"):
        document(text).apply([change], 2, encoding)


def test_an_offset_inside_a_line_end_is_the_line_s_end() -> None:
    assert document("a\r\nb").position_at(2, Encoding.UTF16) == Position(0, 1)


def test_changes_from_the_bottom_up_are_made_in_one_splice() -> None:
    lines = 2_000
    before = document("value = value\n" * lines)
    bottom_up = [
        Change(Position(line, start), Position(line, start + 5), "result")
        for line in reversed(range(lines))
        for start in (8, 0)
    ]
    after, edits = before.apply(bottom_up, 2, Encoding.UTF16)
    assert after.text == "result = result\n" * lines
    assert after.line_start(lines) == len(after.text)
    assert edits[0] == Edit(14 * (lines - 1) + 8, 5, 6)


def test_full_text_changes_become_the_smallest_edit() -> None:
    before = document("one\ntwo\nthree\n")
    _, edits = before.apply([Change(None, None, "one\ntwo and\nthree\n")], 2, Encoding.UTF16)
    assert edits == (Edit(7, 0, 4),)


def test_carriage_return_and_line_feed_join_and_part() -> None:
    before = document("a\rb")
    joined, _ = before.apply([Change(Position(1, 0), Position(1, 0), "\n")], 2, Encoding.UTF16)
    assert (joined.text, joined.line_count) == ("a\r\nb", 2)
    parted, _ = joined.apply([Change(Position(0, 1), Position(1, 0), "\rx\n")], 3, Encoding.UTF16)
    assert (parted.text, parted.line_count) == ("a\rx\nb", 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(Position(1, 0), Position(0, 0), ""), r"contentChanges\[0\].range is reversed"),
        (Change(Position(0, 3), Position(0, 2), ""), r"contentChanges\[0\].range is reversed"),
        (Change(Position(-1, 0), Position(0, 0), ""), r"range\.start\.line is -1"),
        (Change(Position(0, 0), Position(0, -4), ""), r"range\.end\.character is -4"),
        (Change(Position(0, 0), None, ""), "needs both start and end"),
    ],
)
def test_impossible_ranges_name_the_field(change: Change, words: str) -> None:
    before = document("abc\ndef\n")
    with pytest.raises(DocumentError, match=words):
        before.apply([change], 2, Encoding.UTF16)
    assert before.text == "abc\ndef\n"


def test_versions_do_not_go_back() -> None:
    with pytest.raises(DocumentError, match=r"textDocument\.version went back from 1 to 0"):
        document("").apply([], 0, Encoding.UTF16)


@pytest.mark.parametrize("position", [Position(-1, 0), Position(0, -1)])
def test_negative_positions_are_refused(position: Position) -> None:
    with pytest.raises(DocumentError, match="counts from 0"):
        document("abc").offset_at(position, Encoding.UTF8)


def test_a_document_of_100_megabytes_is_edited() -> None:
    line = "x" * 79 + "\n"
    lines = 1_250_000
    before = document(line * lines)
    after, _ = before.apply([Change(Position(3, 5), Position(3, 5), "new\n")], 2, Encoding.UTF16)
    assert after.line_count == before.line_count + 1
    assert after.offset_at(Position(lines, 2), Encoding.UTF16) == 80 * (lines - 1) + 4 + 2
    assert after.position_at(len(after.text), Encoding.UTF8) == Position(lines + 1, 0)


def test_one_endless_line_is_measured() -> None:
    subject = document("é" * 5_000_000)
    assert subject.position_at(4_000_000, Encoding.UTF8) == Position(0, 8_000_000)
    assert subject.offset_at(Position(0, 8_000_001), Encoding.UTF8) == 4_000_000
