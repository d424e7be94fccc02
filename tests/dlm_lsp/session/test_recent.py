"""What the user has changed last: however it was typed, the words before it are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.document import Change, Document, Encoding
from dlm_lsp.session.recent import RecentChanges, Replaced, replaced_words

URI = "file:///a.py"
TEXT = "total = 0\nfor v in vs:\n    total += v\nreturn total\n"


class Typing:
    """A document that is edited, and what is known of its last changes."""

    def __init__(self, text: str = TEXT) -> None:
        self.document = Document(URI, "python", 1, text)
        self.recent = RecentChanges()

    def edit(self, *edits: tuple[int, int, str]) -> None:
        """Puts texts in the place of text[start:end], one after the other, in one message."""
        before, changes = self.document, list[Change]()
        for start, end, text in edits:
            place = (self.document.position_at(at, Encoding.UTF32) for at in (start, end))
            changes.append(Change(*place, text))
            self.document, _ = self.document.apply(changes[-1:], before.version, Encoding.UTF32)
        self.document, made = before.apply(changes, before.version + 1, Encoding.UTF32)
        self.recent.edited(before, changes, made)

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


def test_edits_that_come_in_one_message_are_as_many() -> None:
    """As from Neovim, which waits a little before it tells of them."""
    typing = Typing()
    at = TEXT.rindex("total")
    typing.edit((0, 0, "# sum\n"), (at + 6, at + 11, ""), (at + 6, at + 6, "al"))
    typing.edit((at + 8, at + 8, "l"))
    assert typing.replaced() == (Replaced("total", "all"),)
    assert len(typing.recent.of(URI)) == 2


def test_a_message_of_very_many_edits_tells_nothing() -> None:
    typing = Typing("total\n" * 200)
    typing.edit((0, 5, "amount"))
    typing.edit(*((6 * line + 1, 6 * line + 6, "sum") for line in range(199, 0, -1)))
    assert typing.recent.of(URI) == ()


def test_a_change_that_is_undone_replaces_nothing() -> None:
    typing = Typing()
    typing.edit((0, 5, "amount"))
    typing.edit((0, 6, "total"))
    assert typing.replaced() == ()


def test_a_long_change_says_nothing() -> None:
    typing = Typing(TEXT * 200)
    typing.edit((0, len(typing.document.text), TEXT.replace("total", "amount") * 200))
    assert typing.replaced() == ()


def test_a_word_in_a_line_of_very_many_is_found_and_no_more_words_are_compared() -> None:
    """In repetitive text comparing takes far longer than it has words."""
    typing = Typing("a b " * 1000 + "total" + " c d" * 1000)
    typing.edit((4000, 4005, "amount"))
    assert typing.replaced() == (Replaced("total", "amount"),)
    old, new = (" ".join(f"{name}{n}" for n in range(200)) for name in "ab")
    assert replaced_words(old, new) == ()
    assert len(replaced_words(old[:500], new[:500])) > 50


def test_a_change_in_a_very_long_line_says_nothing() -> None:
    typing = Typing("total;" * 5000)
    typing.edit((0, 5, "amount"))
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
def test_whatever_is_edited_undoing_all_changes_gives_the_first_text(data: st.DataObject) -> None:
    """As long as no edit is of another change's text, or beside it, where their order is open."""
    characters = st.text(alphabet="ab é表\n\r ", max_size=6)
    typing = Typing(data.draw(characters) + "abc abc\nabc abc")
    first = typing.document.text
    for _ in range(data.draw(st.integers(1, 12))):
        text = typing.document.text
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 3)))
        position_at, offset_at = typing.document.position_at, typing.document.offset_at
        # A place within \\r\\n is clamped to the line's end.
        start, end = (
            offset_at(position_at(at, Encoding.UTF32), Encoding.UTF32) for at in (start, end)
        )
        known = typing.recent.of(URI)
        last = next((one for one in known if one.caret in (start, end)), None)
        if any(start <= one.end and end >= one.start for one in known if one is not last):
            continue
        typing.edit((start, end, data.draw(characters)))
        undone = typing.document.text
        changes = sorted(typing.recent.of(URI), key=lambda one: -one.start)
        for change in changes:
            assert 0 <= change.start <= change.caret <= change.end <= len(undone)
            undone = change.undone(undone)
        assert undone == first
