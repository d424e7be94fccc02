"""What becomes of suggestions, through real edits and with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.document import Change as Edited
from dlm_lsp.session.document import Document, Encoding
from dlm_lsp.session.fates import KEPT_SECONDS, Fates, kept_characters
from dlm_lsp.session.requests import Offer
from dlm_lsp.statistics.rows import Change, Row
from tests.dlm_lsp.statistics.made import row

URI = "file:///a.py"
SUGGESTED = "first + second"


@dataclass
class Timer:
    """One call that is due at a time."""

    due: float
    call: Callable[[], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class Time:
    """A clock that a test moves."""

    now: float = 1000.0
    timers: list[Timer] = field(default_factory=list)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [one for one in self.timers if one.due <= self.now and not one.is_cancelled]
        self.timers = [one for one in self.timers if one not in due]
        for one in due:
            one.call()


class Desk:
    """A user at a document, to whom suggestions are shown."""

    def __init__(self, text: str = "x = \n") -> None:
        self.time = Time()
        self.records: list[Row | Change] = []
        self.fates = Fates(self.records.append, lambda: self.time.now, self.time.later)
        self.document = Document(URI, "python", 1, text)
        self.ids = 0

    def show(
        self, text: str = SUGGESTED, at: int = 4, end: int | None = None, **values: int
    ) -> str:
        """Shows an offer; returns its id."""
        self.ids += 1
        offer = Offer(id=str(self.ids), text=text, start=at, end=at if end is None else end)
        self.fates.show(self.document, (offer,), row(characters=len(text)), **values)
        return offer.id

    def edit(self, *edits: tuple[int, int, str]) -> None:
        """Replaces start..end by a text, several of them in one message."""
        changes = [
            Edited(
                start=self.document.position_at(start, Encoding.UTF32),
                end=self.document.position_at(end, Encoding.UTF32),
                text=text,
            )
            for start, end, text in edits
        ]
        version = self.document.version + 1
        self.document, applied = self.document.apply(changes, version, Encoding.UTF32)
        self.fates.edited(self.document, applied)

    def replace_all(self, text: str) -> None:
        """Sends the whole text, as clients without ranges do."""
        version = self.document.version + 1
        changes = [Edited(start=None, end=None, text=text)]
        self.document, applied = self.document.apply(changes, version, Encoding.UTF32)
        self.fates.edited(self.document, applied)

    def type(self, text: str, at: int) -> None:
        for number, one in enumerate(text):
            self.edit((at + number, at + number, one))

    @property
    def rows(self) -> list[Row]:
        return [one for one in self.records if isinstance(one, Row)]

    def known(self, number: int = 0) -> tuple[str, int, int | None]:
        """Fate, accepted and kept characters of a suggestion."""
        fate, accepted, kept = "unknown", 0, None
        for one in self.records:
            if isinstance(one, Change) and one.id == self.rows[number].id:
                fate = fate if one.fate is None else one.fate
                accepted = accepted if one.accepted is None else one.accepted
                kept = kept if one.kept is None else one.kept
        return fate, accepted, kept


def test_typing_through_a_suggestion_counts_it_once() -> None:
    """Although each key is answered with what is left of it."""
    desk = Desk()
    desk.show()
    for number in range(1, len(SUGGESTED)):
        desk.edit((3 + number, 3 + number, SUGGESTED[number - 1]))
        desk.show(SUGGESTED[number:], at=4 + number)
    assert len(desk.rows) == 1
    assert desk.known() == ("unknown", 0, None)
    desk.edit((3 + len(SUGGESTED), 3 + len(SUGGESTED), SUGGESTED[-1]))
    assert desk.known() == ("typed", 0, None)


def test_removing_and_typing_again_counts_it_once() -> None:
    desk = Desk()
    desk.show()
    desk.type("fir", at=4)
    desk.show(SUGGESTED[3:], at=7)
    for end in (7, 6, 5, 4, 3):
        desk.edit((end - 1, end, ""))
        desk.show(f"x = {SUGGESTED}"[end - 1 :], at=end - 1)
    assert len(desk.rows) == 1
    desk.type("= f", at=2)
    offered = desk.show(SUGGESTED[1:], at=5)
    assert len(desk.rows) == 1
    desk.edit((5, 5, SUGGESTED[1:]))
    desk.fates.accepted(offered, None)
    assert desk.known() == ("accepted", len(SUGGESTED) - 1, None)


def test_an_offer_from_before_its_beginning_was_removed_is_accepted_at_its_place() -> None:
    desk = Desk()
    offered = desk.show()
    desk.edit((3, 4, ""))
    desk.edit((3, 3, " first"))
    desk.fates.accepted(offered, 5)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("partly", 5, 5)


def test_brackets_that_the_editor_closes_are_no_deviation() -> None:
    for edits in ([(4, 4, "f"), (5, 5, "()")], [(4, 4, "f"), (5, 5, "("), (6, 6, ")")]):
        desk = Desk()
        desk.show("f(a)")
        desk.edit(edits[0])
        desk.edit(*edits[1:])
        desk.show("a)", at=6, end=7)
        assert len(desk.rows) == 1
        assert desk.known() == ("unknown", 0, None)


def test_another_text_dismisses_it_and_the_next_one_is_its_own() -> None:
    desk = Desk()
    desk.show()
    desk.time.advance(0.2)
    desk.type("fo", at=4)
    assert desk.known() == ("dismissed", 0, None)
    (change,) = [one for one in desk.records if isinstance(one, Change)]
    assert change.fate_ms == pytest.approx(200, abs=1)
    desk.show("o()", at=6)
    assert len(desk.rows) == 2


def test_a_suggestion_elsewhere_dismisses_the_one_that_was_left() -> None:
    desk = Desk("x = \ny = \n")
    desk.show()
    desk.show("other", at=9)
    assert len(desk.rows) == 2
    assert desk.known(0) == ("dismissed", 0, None)
    assert desk.known(1) == ("unknown", 0, None)


@pytest.mark.parametrize("is_edit_first", [True, False])
def test_accepted_and_kept(is_edit_first: bool) -> None:
    desk = Desk()
    offered = desk.show()
    if not is_edit_first:
        desk.fates.accepted(offered, None)
    desk.edit((4, 4, SUGGESTED))
    if is_edit_first:
        desk.fates.accepted(offered, None)
    assert desk.known() == ("accepted", len(SUGGESTED), None)
    desk.edit((0, 0, "# above\n"))
    desk.time.advance(KEPT_SECONDS - 1)
    assert desk.known() == ("accepted", len(SUGGESTED), None)
    desk.time.advance(1)
    assert desk.known() == ("accepted", len(SUGGESTED), len(SUGGESTED))


def test_a_client_that_reports_nothing_accepts_by_inserting_all_at_once() -> None:
    desk = Desk()
    desk.show()
    desk.type("fi", at=4)
    desk.edit((6, 6, SUGGESTED[2:]))
    desk.time.advance(KEPT_SECONDS)
    left = len(SUGGESTED) - 2
    assert desk.known() == ("accepted", left, left)


def test_what_was_typed_before_is_not_accepted() -> None:
    """Although a client counts it as a part of the offer that is there by now."""
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, "fi"))
    desk.edit((6, 6, "rst"))
    desk.edit((9, 9, " +"))
    desk.edit((10, 11, ""))
    desk.edit((10, 10, "+ second"))
    desk.fates.accepted(offered, len(SUGGESTED))
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len("+ second"), len("+ second"))


def test_what_follows_by_chance_was_not_typed() -> None:
    desk = Desk("x = first\n")
    offered = desk.show("first + ", at=4)
    assert desk.known() == ("unknown", 0, None)
    desk.type("fir", at=4)
    desk.edit((7, 7, "st + "))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 5, 5)
    desk = Desk("x = f()\n")
    desk.show("a)", at=6, end=7)
    desk.type("a", at=6)
    assert desk.known() == ("unknown", 0, None)


def test_a_short_rest_that_comes_at_once_was_typed() -> None:
    """Some editors send several keys in one message."""
    desk = Desk()
    desk.show("f(ab)")
    desk.edit((4, 4, "f("))
    desk.edit((6, 6, "ab)"))
    assert desk.known() == ("typed", 0, None)


def test_a_late_report_of_what_was_changed_already_spoils_nothing() -> None:
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, SUGGESTED))
    desk.edit((4, 9, "third"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len(SUGGESTED), len(" + second"))


def test_what_is_changed_within_that_time_is_not_kept() -> None:
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, SUGGESTED))
    desk.fates.accepted(offered, None)
    desk.edit((4, 9, "third"))
    desk.edit((3, 3, "="))
    desk.time.advance(KEPT_SECONDS)
    assert desk.document.text == "x == third + second\n"
    assert desk.known() == ("accepted", len(SUGGESTED), len(" + second"))


def test_what_is_undone_is_not_kept_and_later_edits_do_not_count() -> None:
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, SUGGESTED))
    desk.fates.accepted(offered, None)
    desk.edit((4, 4 + len(SUGGESTED), ""))
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len(SUGGESTED), 0)
    desk.edit((4, 4, SUGGESTED))
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len(SUGGESTED), 0)


def test_a_formatter_that_writes_the_whole_text_keeps_what_it_keeps() -> None:
    desk = Desk()
    text = "f(a,b)"
    offered = desk.show(text)
    desk.edit((4, 4, text))
    desk.fates.accepted(offered, None)
    desk.replace_all("# formatted\nx = f(a, b)\n")
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len(text), len(text))


def test_parts_are_accepted_one_after_another() -> None:
    """The server is told how much of the offer is accepted so far."""
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, "first"))
    desk.fates.accepted(offered, 5)
    assert desk.known() == ("partly", 5, None)
    desk.time.advance(20)
    desk.edit((9, 9, " +"))
    desk.fates.accepted(offered, 7)
    assert desk.known() == ("partly", 7, None)
    desk.time.advance(20)
    assert desk.known() == ("partly", 7, None), "the time counts from the last part"
    desk.edit((11, 11, " third"))
    desk.time.advance(10)
    assert desk.known() == ("partly", 7, 7)
    assert len(desk.rows) == 1


def test_a_part_and_then_the_rest_of_a_newer_offer_is_all() -> None:
    desk = Desk()
    first = desk.show()
    desk.edit((4, 4, "first"))
    desk.fates.accepted(first, 5)
    rest = desk.show(" + second", at=9)
    desk.edit((9, 9, " + second"))
    desk.fates.accepted(rest, None)
    desk.time.advance(KEPT_SECONDS)
    assert len(desk.rows) == 1
    assert desk.known() == ("accepted", len(SUGGESTED), len(SUGGESTED))


def test_a_part_of_unknown_length_is_a_part() -> None:
    desk = Desk()
    desk.fates.accepted(desk.show(), 0)
    assert desk.known() == ("partly", 0, None)


def test_an_entry_of_a_popup_menu_replaces_the_word_before_it() -> None:
    desk = Desk("x = pa\n")
    offered = desk.show("th.join(a)", at=6)
    desk.edit((4, 6, "path.join(a)"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 10, 10)


def test_an_offer_that_extends_the_menus_entry_counts_without_it() -> None:
    desk = Desk("x = pa\n")
    offered = desk.show("path.join(a)", at=4, end=6, lead=4)
    desk.edit((4, 6, "path.join(a)"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 8, 8)


def test_what_stands_after_the_cursor_may_be_replaced() -> None:
    desk = Desk("x = f()\n")
    offered = desk.show("a, b)", at=6, end=7)
    desk.edit((6, 7, "a, b)"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 5, 5)


def test_line_ends_are_the_editors() -> None:
    desk = Desk("if a:\r\n    \r\n")
    offered = desk.show("b\r\n    c", at=11)
    desk.edit((11, 11, "b\r\n    c"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 7, 7)
    desk = Desk("if a:\r\n    \n")
    offered = desk.show("b\r\n    c", at=11)
    desk.edit((11, 11, "b\n    c"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 7, 7)
    desk = Desk("if a:\n    \n")
    offered = desk.show("b\n    c", at=10)
    desk.edit((10, 10, "b\r\n    c"))
    desk.fates.accepted(offered, None)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", 7, 7)


def test_another_alternative_that_is_taken_counts_as_the_suggestion() -> None:
    desk = Desk()
    offers = [Offer(id=name, text=name, start=4, end=4) for name in ("first()", "second()")]
    desk.fates.show(desk.document, offers, row())
    desk.edit((4, 4, "second()"))
    desk.fates.accepted("second()", None)
    desk.time.advance(KEPT_SECONDS)
    assert len(desk.rows) == 1
    assert desk.known() == ("accepted", 8, 8)


def test_a_closed_document_is_followed_no_longer() -> None:
    desk = Desk()
    offered = desk.show()
    desk.edit((4, 4, SUGGESTED))
    desk.fates.accepted(offered, None)
    desk.fates.forget(URI)
    desk.time.advance(KEPT_SECONDS)
    assert desk.known() == ("accepted", len(SUGGESTED), None)
    assert all(one.is_cancelled for one in desk.time.timers)


def test_many_accepted_ones_are_each_looked_at() -> None:
    desk = Desk("")
    for number in range(10):
        text = f"line{number}\n"  # At the top, so that it moves those that were accepted before.
        offered = desk.show(text, at=0)
        desk.edit((0, 0, text))
        desk.fates.accepted(offered, None)
        desk.time.advance(1)
    desk.time.advance(KEPT_SECONDS)
    assert [desk.known(number) for number in range(10)] == [("accepted", 6, 6)] * 10


words = st.text(st.sampled_from("ab \n()"), min_size=1, max_size=8)
acts = st.one_of(
    st.tuples(st.just("show"), words, st.integers(0, 30)),
    st.tuples(st.just("insert"), words, st.integers(0, 30)),
    st.tuples(st.just("remove"), words, st.integers(0, 30)),
    st.tuples(st.just("accept"), words, st.integers(0, 8)),
    st.tuples(st.just("follow"), words, st.integers(1, 8)),
    st.tuples(st.just("wait"), words, st.integers(0, 40)),
)


@given(st.lists(acts, max_size=40))
def test_whatever_is_typed_the_figures_make_sense(drawn: list[tuple[str, str, int]]) -> None:
    desk = Desk("")
    offers: list[tuple[str, str, int]] = []
    for act, text, number in drawn:
        length = len(desk.document.text)
        at = min(number, length)
        if act == "show":
            offers.append((desk.show(text, at=at), text, at))
        elif act == "insert":
            desk.edit((at, at, text))
        elif act == "remove":
            desk.edit((at, min(length, at + len(text)), ""))
        elif act == "wait":
            desk.time.advance(number)
        elif offers and act == "accept":
            offered, text, at = offers[number % len(offers)]
            desk.edit((min(at, length), min(at, length), text))
            desk.fates.accepted(offered, None if number > 4 else number)
        elif offers:
            offered, text, at = offers[-1]
            if desk.document.text[:at] and at <= length:
                desk.edit((at, at, text[:number]))
    desk.time.advance(KEPT_SECONDS)
    assert len(desk.rows) <= sum(act == "show" for act, _, _ in drawn)
    for number in range(len(desk.rows)):
        fate, accepted, kept = desk.known(number)
        assert 0 <= (kept or 0) <= accepted
        assert (accepted == 0) or fate in ("accepted", "partly")
        assert fate in ("unknown", "accepted", "partly", "typed", "dismissed")


def test_long_texts_of_which_much_has_changed_are_compared_soon() -> None:
    one = " ".join(f"word{number}" for number in range(3000))
    other = " ".join(f"word{number}" for number in range(2999, -1, -1))
    assert kept_characters(one, other) == len(one)


@given(words, words, words)
def test_kept_characters_are_no_more_than_either_text_has(one: str, two: str, other: str) -> None:
    kept = kept_characters(one + two, one + other)
    assert 0 <= kept <= min(len(one + two), len(one + other))
    assert kept_characters(one, one) == len(one)
    assert kept_characters(one, "") == 0
    assert kept_characters(f"q{one}q", f"{one}") <= len(one)
    assert kept_characters(f"{one} x", f"{one} x{other}"[: len(one)]) <= len(one)
