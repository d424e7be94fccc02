"""The tokenizer gives text back, and takes no user text for a marker."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from engine.errors import CheckpointError
from engine.model.tokenizer import Tokenizer, byte_alphabet, read_tokenizer
from engine.prompt import SPECIAL_TOKENS, InfillFormat


def trained() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=list(byte_alphabet().values()),
        show_progress=False,
    )
    backend.train_from_iterator(
        ["def add(first, second):\n    return first + second\n"] * 5, trainer
    )
    return backend


TOKENIZER = Tokenizer(trained())
SPECIAL_IDS = {TOKENIZER.id_of(token) for token in SPECIAL_TOKENS}


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "x", "\n"])).map("".join))
def test_text_that_spells_a_marker_is_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert SPECIAL_IDS.isdisjoint(ids)
    assert TOKENIZER.decode(ids) == text
    assert SPECIAL_IDS.isdisjoint(TOKENIZER.encode_with_offsets(text)[0])


def test_unpaired_surrogates_become_replacement_characters() -> None:
    assert "�" in TOKENIZER.decode(TOKENIZER.encode("a\ud800b"))


def test_offsets_are_code_points() -> None:
    text = "é = '😀' + second"
    ids, starts = TOKENIZER.encode_with_offsets(text)
    assert ids == TOKENIZER.encode(text)
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert text[starts[-1] :] in text[-7:]


def test_special_tokens_have_no_text_and_unfinished_characters_are_held_back() -> None:
    first, *rest = TOKENIZER.encode("€")
    assert TOKENIZER.decode([*SPECIAL_IDS]) == ""
    if rest:
        assert TOKENIZER.decode([first], final=False) == ""
        assert TOKENIZER.decode([first], final=True) == "�"
    assert TOKENIZER.decode([first, *rest], final=False) == "€"


def test_the_infill_layout_is_found_by_its_markers() -> None:
    infill = TOKENIZER.infill
    assert isinstance(infill, InfillFormat)
    prompt = infill.prompt([100], [101, 102], [])
    names = [SPECIAL_TOKENS.index(name) for name in ("<s>", "[FAR]", "[PREFIX]", "[NEAR]")]
    assert prompt == (*names[:2], 100, names[2], 101, 102, names[3], infill.middle)


def test_a_tokenizer_without_markers_has_no_infilling() -> None:
    assert Tokenizer(trained_without_markers()).infill is None


def trained_without_markers() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=list(byte_alphabet().values()), show_progress=False
    )
    backend.train_from_iterator(["a = 1"], trainer)
    return backend


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no tokenizer.json"),
        ("{", "cannot be read"),
        ('{"version": "1.0"}', "cannot be read"),
        ("word-level", "not byte-level"),
    ],
)
def test_broken_tokenizers_are_named(tmp_path: Path, content: str | None, named: str) -> None:
    if content == "word-level":
        Backend(models.WordLevel({"▁day": 0}, unk_token="▁day")).save(
            str(tmp_path / "tokenizer.json")
        )
    elif content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=named):
        read_tokenizer(tmp_path)
