"""The vocabulary we train: bytes come back, markers are never text, line breaks stand alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lab.data.vocabulary import train_tokenizer
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.prompt import SPECIAL_TOKENS

TEXT = "def value(self):\n        return self.value_of(12)\n\n\n" * 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 350)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_come_first_in_the_prompt_modules_order(tokenizer: Tokenizer):
    assert [tokenizer.id_of(name) for name in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_text_that_spells_a_marker_is_text(tokenizer: Tokenizer, tmp_path: Path, name: str):
    tokenizer.save(tmp_path)
    for each in (tokenizer, read_tokenizer(tmp_path)):
        ids = each.encode(f"x = '{name}'")
        assert min(ids) >= len(SPECIAL_TOKENS)
        assert each.decode(ids) == f"x = '{name}'"


def test_line_breaks_indentation_and_digits_stand_alone(tokenizer: Tokenizer):
    got = pieces(tokenizer, "\n\n        return self.value_of(12)\n")
    assert got[:4] == ["\n", "\n", "        ", "return"]
    assert got[-4:] == ["1", "2", ")", "\n"]


@given(
    before=st.text(alphabet="ab (\n", max_size=30),
    after=st.text(alphabet="ab (\n", max_size=30),
)
def test_cutting_at_a_line_break_cuts_between_tokens(tokenizer: Tokenizer, before: str, after: str):
    whole = tokenizer.encode(before + "\n" + after)
    assert whole == [*tokenizer.encode(before), *tokenizer.encode("\n"), *tokenizer.encode(after)]


def test_the_size_is_what_was_asked_for_or_what_the_text_yields():
    assert train_tokenizer([TEXT], 275).size == 275
    assert 275 < train_tokenizer([TEXT], 10_000).size < 350
