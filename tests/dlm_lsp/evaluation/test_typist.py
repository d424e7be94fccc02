"""The typist: whatever is typed, mistyped and accepted, the file is restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.evaluation.typist import (
    Manuscript,
    Part,
    accept,
    continues,
    keys_to,
    open_manuscript,
    press,
)

ROOT = Path(__file__).parents[3]
FILES = (
    "dlm_lsp/lsp/convert.py",
    "engine/sampling.py",
    "dlm_lsp/client/paths.py",
    "dlm_lsp/cli/main.py",
)
TEXTS = [(ROOT / name).read_text("utf-8") for name in FILES]
TEXTS.append(TEXTS[1].replace("    ", "\t"))
PRESSES_MAX = 20_000


def spliced(text: str, splice: object) -> str:
    start, removed, new = splice.start, splice.removed, splice.text  # type: ignore[attr-defined]
    return text[:start] + new + text[start + removed :]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_the_file_comes_out_as_it_was(text: str, seed: int, jumps: bool, accepts: bool) -> None:
    rng = np.random.default_rng(seed)
    manuscript = open_manuscript(text, rng)
    assert manuscript is not None
    assert manuscript.final_text == text
    document = manuscript.text
    assert len(document) < len(text)
    for _ in range(PRESSES_MAX):
        open_parts = [i for i, part in enumerate(manuscript.parts) if not part.is_complete]
        if not open_parts:
            break
        if manuscript.part.is_complete or (jumps and rng.random() < 0.1):
            manuscript.at = open_parts[rng.integers(len(open_parts))]
        part = manuscript.part
        suggestion = part.rest[: rng.integers(1, 40)]
        if accepts and rng.random() < 0.2 and continues(part, suggestion, len(part.pending)):
            splice = accept(manuscript, suggestion, len(part.pending))
        else:
            keys, splice = press(manuscript, rng)
            assert keys > 0
        if splice is not None:
            document = spliced(document, splice)
        assert document == manuscript.text
        assert 0 <= manuscript.cursor <= len(document)
        assert document[: manuscript.cursor].endswith(part.before)
    assert document == text


def typed(target: str, before: str = "\n", after: str = "\n") -> tuple[list[str], int]:
    """Returns the text around the cursor (|) after every action, and the number of keys."""
    manuscript = Manuscript((before, after), [Part(target)], "    ")
    shown, total = [], 0
    while not manuscript.part.is_complete:
        keys, _ = press(manuscript, None)
        total += keys
        text, at = manuscript.text, manuscript.cursor
        shown.append(text[len(before) : at] + "|" + text[at : len(text) - len(after)])
    return shown, total


def test_brackets_close_themselves_and_are_typed_over() -> None:
    shown, keys = typed("f([1])")
    assert shown == ["f|", "f(|)", "f([|])", "f([1|])", "f([1]|)", "f([1])|"]
    assert keys == 6


def test_quotes_close_themselves_but_not_in_words() -> None:
    assert typed('"a"')[0] == ['"|"', '"a|"', '"a"|']
    assert typed("don't")[0][3] == "don'|"
    assert typed('"""a"""')[0][:4] == ['"|"', '""|', '"""|', '"""a|']


def test_nothing_closes_itself_before_a_word() -> None:
    assert typed("f(", after="x)\n")[0][-1] == "f(|"


def test_enter_keeps_the_indentation_and_a_block_takes_a_step() -> None:
    shown, keys = typed("\n    if a:\n        b\n\n    c", before="\nx:", after="\n")
    assert shown[0] == "\n    |"
    assert shown[6] == "\n    if a:\n        |"
    # A blank line loses the indentation that the editor gave it; the next line keeps it.
    assert "\n    if a:\n        b\n        |" in shown
    assert "\n    if a:\n        b\n\n        |" in shown
    assert "\n    if a:\n        b\n\n    |" in shown
    assert shown[-1] == "\n    if a:\n        b\n\n    c|"
    assert keys == 12


def test_enter_between_brackets_opens_them_and_the_typist_walks_out() -> None:
    shown, keys = typed("f(\n    a,\n)\nb")
    assert shown[1:3] == ["f(|)", "f(\n    |\n)"]
    assert shown[5] == "f(\n    a,\n)|"
    assert keys == 2 + 1 + 2 + 2 + 1 + 1  # f( Enter a, Down End Enter b


def test_what_the_editor_closed_in_vain_is_deleted() -> None:
    shown, _ = typed("x = '(")
    assert shown[-1] == "x = '(|"


def test_a_typo_is_taken_back() -> None:
    class Clumsy:
        def random(self) -> float:
            return 0.0

        def integers(self, high: int) -> int:
            return high - 1  # z

    manuscript = Manuscript(("", "\n"), [Part("ab")], "    ")
    press(manuscript, Clumsy())  # type: ignore[arg-type]
    assert (manuscript.text, manuscript.part.surplus) == ("z\n", "z")
    press(manuscript, None)
    assert (manuscript.text, manuscript.cursor) == ("\n", 0)


@pytest.mark.parametrize(
    ("text", "replaced", "is_right"),
    [
        ("a, b", 0, True),  # the closer stays and is typed over
        ("a, b)", 1, True),
        ("a, b)", 0, False),  # One closer too many remains.
        ("a, b) + 1", 1, True),
        ("a, b) + 1", 0, False),
        ("a, c)", 1, False),
        ("a, b) + 1\n", 1, False),  # This goes beyond the missing part.
        ("a", 2, False),  # This replaces text that the editor did not insert.
    ],
)
def test_a_suggestion_is_right_if_nothing_is_left_to_mend(
    text: str, replaced: int, is_right: bool
) -> None:
    part = Part("f(a, b) + 1", done=2, pending=")")
    assert continues(part, text, replaced) == is_right


def test_keys_of_what_is_accepted_are_those_of_typing_it() -> None:
    manuscript = Manuscript(("\n", "\n"), [Part("f(a)\n    b")], "    ")
    press(manuscript, None)
    assert keys_to(manuscript, len("f(a)")) == 3
    assert keys_to(manuscript, len("f(a)\n    b")) == 3 + 1 + 4 + 1  # Enter, spaces, b
    assert manuscript.text == "\nf\n"  # only counted


def test_a_short_file_is_not_opened() -> None:
    assert open_manuscript("a\nb\n" * 10, np.random.default_rng(0)) is None
