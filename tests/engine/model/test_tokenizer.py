"""The tokenizer gives text back, and takes no user text for a marker."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.errors import CheckpointError
from engine.model.tokenizer import Tokenizer, byte_alphabet, read_tokenizer
from engine.prompt import SPECIAL_TOKENS, InfillFormat, SentinelFormat
from tests.vocabularies import sentencepiece_metadata


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


def trained_without_markers(text: str = "a = 1") -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=list(byte_alphabet().values()), show_progress=False
    )
    backend.train_from_iterator([text], trainer)
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


# Added tokens as in tokenizer.json files of released models, and whether they are special there.
ADDED = {
    "<|endoftext|>": True,
    "<|fim_prefix|>": False,
    "<|fim_suffix|>": False,
    "<|fim_middle|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<tool_call>": False,
    "    ": False,
    "add": False,  # a piece that merges lead to
}


def qwen_like() -> Tokenizer:
    """As Qwen2.5-Coder's file: normalises to NFC, FIM tokens are added but not special."""
    backend = trained_without_markers("def add(first, second):\n    return first + second\n" * 9)
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken(name, special=special) for name, special in ADDED.items()])
    return Tokenizer(backend)


def llama_like() -> Tokenizer:
    """As Llama 2's file: a blank in front of every text, byte tokens, no pre-tokenizer."""
    data = sentencepiece_metadata()
    pieces = data["tokenizer.ggml.tokens"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    merges = [(piece[0], piece[1]) for piece in pieces[259:] if len(piece) == 2]
    backend = Backend(models.BPE(ids, merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"])
    return Tokenizer(backend)


def metaspace_like() -> Tokenizer:
    """The newer form of such files: the blank in front is the pre-tokenizer's."""
    backend = Backend.from_str(llama_like()._backend.to_str())
    plain = Backend(backend.model)
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    plain.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(plain)


def with_first_blank() -> Tokenizer:
    """Byte-level with a blank in front of the first word, and words whole that are in the
    vocabulary, a marker's name among them."""
    backend = trained_without_markers("a marker, a marker")
    vocabulary = {**backend.get_vocab(), "Ġmarker": 990, "marker": 991}
    whole = Backend(models.BPE(vocabulary, [], ignore_merges=True))
    whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    whole.add_special_tokens(["marker"])
    return Tokenizer(whole)


RELEASED = {
    "qwen": qwen_like(),
    "llama": llama_like(),
    "metaspace": metaspace_like(),
    "blank": with_first_blank(),
}
NAMES = ["▁", " ", "    ", "e\u0301", "marker", "</s>", "▁<PRE>", "<0x0A>", "\r\n", *ADDED]


def markers_of(tokenizer: Tokenizer) -> set[int]:
    """Every added token but runs of blanks, as the library has it."""
    added = tokenizer._backend.get_added_tokens_decoder()
    return {token_id for token_id, token in added.items() if not token.content.isspace()}


@pytest.mark.parametrize("kind", RELEASED)
@given(parts=st.lists(st.sampled_from(NAMES) | st.text(max_size=6), max_size=8))
def test_no_added_token_is_read_out_of_text_and_all_of_it_comes_back(
    kind: str, parts: list[str]
) -> None:
    tokenizer, text = RELEASED[kind], "".join(parts)
    ids, starts = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text) == tokenizer.encode_batch([text])[0]
    assert markers_of(tokenizer).isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    at = 0
    for token_id, start in zip(ids, starts, strict=True):
        assert len(text[:start].encode()) <= at < len(text[: start + 1].encode())
        at += len(tokenizer.to_bytes([token_id]))


def test_added_tokens_have_text_unless_they_are_control_tokens() -> None:
    tokenizer = RELEASED["qwen"]
    texts = {name: tokenizer.decode([tokenizer.id_of(name) or 0]) for name in ADDED}
    with_text = {"<tool_call>", "    ", "add"}
    assert texts == {name: name if name in with_text else "" for name in ADDED}


def test_sentinels_that_are_not_special_are_found() -> None:
    infill = RELEASED["qwen"].infill
    assert isinstance(infill, SentinelFormat)
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    prefix, suffix, middle = (RELEASED["qwen"].id_of(name) for name in names)
    assert infill.prompt([7], [8, 9], [10]) == (prefix, 8, 9, suffix, 10, 7, middle)
    others = ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>")
    assert {RELEASED["qwen"].id_of(name) for name in others} <= set(infill.end_ids)


def test_sentencepiece_without_byte_tokens_in_use_is_refused() -> None:
    backend = llama_like()._backend
    assert isinstance(backend.model, models.BPE)
    backend.model.byte_fallback = False
    with pytest.raises(CheckpointError, match="byte_fallback"):
        Tokenizer(backend)
