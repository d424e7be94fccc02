"""Texts of other documents in a prompt: which are chosen, how long they stay, and what never is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.related import (
    STRIDE_LINES,
    WINDOW_LINES,
    RelatedDocuments,
    best_windows,
    windows_in,
)
from dlm_lsp.session.uris import shared_folder

HERE = "file:///w/shop/app.py"
HELPER = "file:///w/shop/prices/tax.py"
TAX = "import decimal\n\n\ndef tax_of(price, country):\n    return price * RATES[country]\n"
USE = "from prices.tax import tax_of\n\n\ndef total(price):\n    return price + tax_of("


def make(
    *others: tuple[str, str], forbidden: set[str] | None = None
) -> tuple[RelatedDocuments, Documents]:
    documents = Documents(Encoding.UTF16, lambda sentence: None)
    documents.open(Document(HERE, "python", 1, USE))
    for uri, text in others:
        documents.open(Document(uri, "python", 1, text))
    blocked = forbidden if forbidden is not None else set[str]()
    return RelatedDocuments(documents, lambda one: one.uri not in blocked), documents


async def chosen(related: RelatedDocuments, documents: Documents) -> list[str]:
    here = documents.get(HERE)
    assert here is not None
    await related.choose(here, len(here.text))
    return [file.name for file in related.of(here).files]


async def test_what_defines_the_used_name_is_chosen_and_named_by_its_place() -> None:
    noise = "".join(f"def other_{number}(value):\n    return value\n\n" for number in range(60))
    related, documents = make((HELPER, TAX), ("file:///w/shop/noise.py", noise))
    assert (await chosen(related, documents))[-1] == "prices/tax.py"
    here = documents.get(HERE)
    assert here is not None
    found = related.of(here)
    assert (found.repository, found.name) == ("shop", "app.py")
    assert "def tax_of(price, country):" in found.files[-1].text


async def test_nothing_is_chosen_where_nothing_fits() -> None:
    related, documents = make((HELPER, "alpha = beta\ngamma = delta\n"))
    assert await chosen(related, documents) == []


async def test_files_of_another_language_are_left_out() -> None:
    related, documents = make()
    documents.open(Document("file:///w/shop/tax.md", "markdown", 1, TAX))
    assert await chosen(related, documents) == []


async def test_what_is_there_already_is_left_out() -> None:
    related, documents = make((HELPER, USE))
    assert await chosen(related, documents) == []


async def test_a_document_that_is_silenced_later_is_left_out_at_once() -> None:
    """Also where it was chosen before: each request asks again."""
    forbidden: set[str] = set()
    related, documents = make((HELPER, TAX), forbidden=forbidden)
    assert await chosen(related, documents)
    forbidden.add(HELPER)
    here = documents.get(HERE)
    assert here is not None
    assert related.of(here).files == ()
    forbidden.clear()
    documents.close(HELPER)
    assert related.of(here).files == ()


async def test_the_choice_stays_while_the_user_types_and_follows_other_documents() -> None:
    """Each change of it would change the prompt from its beginning."""
    related, documents = make((HELPER, TAX))
    first = await chosen(related, documents)
    end = Position(4, 26)
    documents.change(HERE, 2, [Change(end, end, "price, unheard_of_name")])
    here = documents.get(HERE)
    assert here is not None
    before = related.of(here)
    await related.choose(here, len(here.text))
    assert related.of(here) == before
    assert first
    start = Position(3, 0)
    documents.change(HELPER, 2, [Change(start, start, "# of each country\n")])
    await related.choose(here, len(here.text))
    assert "# of each country" in related.of(here).files[-1].text


async def test_the_prompt_does_not_depend_on_what_was_visited_last() -> None:
    others = [(f"file:///w/{name}.py", TAX + f"{name} = 1\n") for name in ("red", "green", "blue")]
    one, two = make(*others), make(*reversed(others))
    assert await chosen(*one) == await chosen(*two)


lines = st.lists(st.sampled_from(("alpha beta", "def gamma():", "", "delta\r", "x")), max_size=90)


@given(lines)
def test_windows_cover_the_text_in_its_order(some: list[str]) -> None:
    text = "".join(f"{line}\n" for line in some)
    for window in windows_in(text):
        assert text.count(window.text) >= 1
        assert len(window.text.splitlines()) <= 2 * WINDOW_LINES
        assert window.start % STRIDE_LINES == 0


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_overlapping_windows_become_one_text_without_repeats(starts: list[int]) -> None:
    text = "".join(f"name_{number} = 1\n" for number in range(130))
    windows = tuple(one for one in windows_in(text) if one.start // STRIDE_LINES in starts)
    around = {name: 1.0 for one in windows for name in one.names}
    rows = [row for one in best_windows(around, {"a": windows}, "") for row in one.text.split("\n")]
    kept = [row for row in rows if row]
    assert len(kept) == len(set(kept))
    assert kept == sorted(kept, key=lambda row: int(row[5:].split()[0]))


def test_the_folder_that_files_share() -> None:
    assert shared_folder(["file:///a/b/c.py", "file:///a/b/d/e.py"]) == ("b", ["c.py", "d/e.py"])
    assert shared_folder(["file:///c.py", "file:///a/d.py"]) == ("", ["c.py", "d.py"])
    assert shared_folder(["untitled:one", "file:///a/d.py"]) == ("", ["one", "d.py"])


async def test_what_is_used_at_the_cursor_comes_before_what_is_used_around_it() -> None:
    prices = "def price_of(item, country, currency, date):\n    return item.price\n"
    related, documents = make((HELPER, TAX), ("file:///w/shop/prices/table.py", prices))
    text = "".join(f"    country, currency, date = price_of(item_{row})\n" for row in range(12))
    text = f"def total(item):\n{text}{'    pass' * 1}\n{USE}"
    documents.open(Document(HERE, "python", 2, text))
    assert (await chosen(related, documents))[-1] == "prices/tax.py"


async def test_by_hand_a_text_that_fits_better_by_now_is_taken_and_otherwise_the_choice_stays() -> (
    None
):
    prices = "def price_of(item, country):\n    return item.price\n"
    related, documents = make((HELPER, TAX), ("file:///w/shop/prices/table.py", prices))
    before = await chosen(related, documents)
    assert before[-1] == "prices/tax.py"
    end = Position(4, 26)
    documents.change(HERE, 2, [Change(end, end, "price_of(")])
    here = documents.get(HERE)
    assert here is not None
    await related.choose(here, len(here.text))
    assert [file.name for file in related.of(here).files] == before
    line = Position(4, 0)
    documents.change(HERE, 3, [Change(line, Position(4, 35), "    return price_of(")])
    here = documents.get(HERE)
    assert here is not None
    await related.choose(here, len(here.text), by_hand=True)
    assert related.of(here).files[-1].name == "prices/table.py"
