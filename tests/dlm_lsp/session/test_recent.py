"""What the user has changed last: however it was typed, the words before it are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.document import Change, Document, Encoding
from dlm_lsp.session.recent import CHANGES_MAX, RecentChanges, Replaced, replaced_words

URI = "file:///a.py"
TEXT = "total = 0\nfor v in vs:\n    total += v\nreturn total\n"


class Typing:
    """A document that is edited, and what is known of its last changes."""

    def __init__(self, text: str = TEXT) -> None:
        self.document = Document(URI, "python", 1, text)
        self.recent = RecentChanges()

    def edit(self, *edits: tuple[int, int, str]) -> None:
        """Puts texts in the place of text[start:end], in one message."""
        changes = [
            Change(
                self.document.position_at(start, Encoding.UTF32),
                self.document.position_at(end, Encoding.UTF32),
                text,
            )
            for start, end, text in edits
        ]
        before = self.document
        self.document, made = before.apply(changes, before.version + 1, Encoding.UTF32)
        self.recent.edited(before, self.document, made)

    def type(self, at: int, text: str) -> None:
        for index, character in enumerate(text):
            self.edit((at + index, at + index, character))

    def replaced(self, index: int = 0) -> tuple[Replaced, ...]:
        return self.recent.of(URI)[index].replaced(self.document.text)


def test_a_word_that_is_removed_and_typed_anew_is_replaced() -> None:
    typing = Typing()
    typing.edit((0, 5, ""))
    typing.type(0, "amount")
    assert typing.replaced() == (Replaced("total", "amount"),)
    assert len(typing.recent.of(URI)) == 1


def test_a_word_that_is_removed_by_backspace_is_replaced() -> None:
    typing = Typing()
    for end in range(5, 2, -1):
        typing.edit((end - 1, end, ""))
    typing.type(2, "ps")
    assert typing.replaced() == (Replaced("total", "tops"),)


def test_a_part_of_a_word_that_is_changed_replaces_the_word() -> None:
    typing = Typing("my_total = 1\n")
    typing.edit((3, 8, "sum"))
    assert typing.replaced() == (Replaced("my_total", "my_sum"),)


def test_a_change_elsewhere_is_another_one_and_moves_the_first() -> None:
    typing = Typing()
    typing.edit((TEXT.rindex("total"), TEXT.rindex("total") + 5, "amount"))
    typing.edit((0, 0, "# sum\n"))
    assert typing.replaced(0) == ()
    assert typing.replaced(1) == (Replaced("total", "amount"),)
    start = typing.document.text.index("amount")
    assert (typing.recent.of(URI)[1].start, typing.recent.of(URI)[1].end) == (start, start + 6)


def test_code_that_was_just_written_has_names_that_can_be_replaced() -> None:
    """Else writing it and changing it would be one change, before which there was nothing."""
    typing = Typing("")
    typing.type(0, TEXT)
    typing.edit((0, 5, ""))
    typing.type(0, "amount")
    assert typing.replaced() == (Replaced("total", "amount"),)


def test_several_cursors_make_one_change() -> None:
    typing = Typing()
    places = [at for at in range(len(TEXT)) if TEXT.startswith("total", at)][:2]
    typing.edit(*((at, at + 5, "") for at in reversed(places)))
    places[1] -= 5
    for index, character in enumerate("sum"):
        typing.edit(*((at + index, at + index, character) for at in reversed(places)))
        places[1] += 1
    assert typing.document.text.count("sum") == 2
    assert typing.replaced() == (Replaced("total", "sum"),)


def test_a_change_that_is_undone_replaces_nothing() -> None:
    typing = Typing()
    typing.edit((0, 5, "amount"))
    typing.edit((0, 6, "total"))
    assert typing.replaced() == ()


def test_a_long_change_says_nothing() -> None:
    typing = Typing(TEXT * 200)
    typing.edit((0, len(typing.document.text), TEXT.replace("total", "amount") * 200))
    assert typing.replaced() == ()


def test_what_was_offered_moves_with_the_text_until_it_may_be_offered_again() -> None:
    typing = Typing()
    typing.recent.offer(URI, 10)
    typing.recent.offer(URI, 24)
    typing.edit((12, 12, "abc"))
    assert typing.recent.offered(URI) == {10, 27}
    typing.recent.offer_again(URI)
    assert typing.recent.offered(URI) == frozenset()


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a = total + total", "a = amount + amount", [("total", "amount")]),
        ("x = first + 20", "y = first + 30", [("20", "30"), ("x", "y")]),
        ("a + b", "b + a", []),
        ("f(a, a)", "f(b, c)", []),
        ("f(a)", "f(a, b)", []),
        ("x = 1", "x = 2", []),
        ("x == y", "x != y", []),
        ("größe = 1", "höhe = 1", [("größe", "höhe")]),
        ("", "x = 1", []),
    ],
)
def test_which_words_were_replaced(before: str, after: str, found: list[tuple[str, str]]) -> None:
    assert replaced_words(before, after) == tuple(Replaced(*pair) for pair in found)


@given(st.data())
def test_whatever_is_edited_each_change_can_be_undone(data: st.DataObject) -> None:
    """Without the last change the text is one that stood before it, and others stand in order."""
    characters = st.text(alphabet="ab é表\n\r ", max_size=6)
    typing = Typing(data.draw(characters))
    texts = [typing.document.text]
    for _ in range(data.draw(st.integers(1, 12))):
        text = typing.document.text
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 3)))
        # A change within \\r\\n would be clamped to the line's end.
        start, end = (
            typing.document.offset_at(
                typing.document.position_at(at, Encoding.UTF32), Encoding.UTF32
            )
            for at in (start, end)
        )
        typing.edit((start, end, data.draw(characters)))
        texts.append(typing.document.text)
        known = typing.recent.of(URI)
        assert len(known) <= CHANGES_MAX
        now = typing.document.text
        assert all(0 <= one.start <= one.end <= len(now) for one in known)
        if known:
            assert known[0].undone(now) in texts
            start, end = known[0].lines(now)
            assert start <= known[0].start <= known[0].end <= end
