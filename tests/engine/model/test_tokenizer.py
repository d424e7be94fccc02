"""The tokenizer returns every text unchanged and takes no user text for a marker."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.errors import CheckpointError
from engine.model.spelling import byte_alphabet
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.prompt import SPECIAL_TOKENS, InfillFormat, SentinelFormat
from tests.vocabularies import sentencepiece_metadata

ADD = "def add(first, second):\n    return first + second\n"


def trained(text: str, special_tokens: tuple[str, ...] = (), size: int = 300) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special_tokens),
        initial_alphabet=list(byte_alphabet().values()),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    return backend


TOKENIZER = Tokenizer(trained(ADD * 5, SPECIAL_TOKENS, size=400))
SPECIAL_IDS = {TOKENIZER.id_of(token) for token in SPECIAL_TOKENS}


def test_unpaired_surrogates_become_replacement_characters() -> None:
    assert "�" in TOKENIZER.decode(TOKENIZER.encode("a\ud800b"))


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
    assert Tokenizer(trained("a = 1")).infill is None


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
    """Like Qwen2.5-Coder's file: it normalises to NFC, and its FIM tokens are not special."""
    backend = trained(ADD * 9)
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken(name, special=special) for name, special in ADDED.items()])
    return Tokenizer(backend)


def llama_like() -> Tokenizer:
    """Like Llama 2's file: a blank before every text, byte tokens, no pre-tokenizer."""
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
    """Like newer files of this kind: the pre-tokenizer adds the blank before a text."""
    backend = Backend.from_str(llama_like()._backend.to_str())
    plain = Backend(backend.model)
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    plain.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(plain)


def with_first_blank() -> Tokenizer:
    """Byte-level with a blank in front of the first word, and words whole that are in the
    vocabulary, a marker's name among them."""
    backend = trained("a marker, a marker")
    vocabulary = {**backend.get_vocab(), "Ġmarker": 990, "marker": 991}
    whole = Backend(models.BPE(vocabulary, [], ignore_merges=True))
    whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    whole.add_special_tokens(["marker"])
    return Tokenizer(whole)


TOKENIZERS = {
    "ours": TOKENIZER,
    "qwen": qwen_like(),
    "llama": llama_like(),
    "metaspace": metaspace_like(),
    "blank": with_first_blank(),
}
NAMES = [
    *("▁", " ", "    ", "e\u0301", "marker", "</s>", "▁<PRE>", "<0x0A>", "\r\n"),
    *SPECIAL_TOKENS,
    *ADDED,
]


def markers_of(tokenizer: Tokenizer) -> set[int]:
    """All added tokens of the library's tokenizer except runs of blanks."""
    added = tokenizer._backend.get_added_tokens_decoder()
    return {token_id for token_id, token in added.items() if not token.content.isspace()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(parts=st.lists(st.sampled_from(NAMES) | st.text(max_size=6), max_size=8))
def test_no_added_token_is_read_out_of_text_and_all_of_it_comes_back(
    kind: str, parts: list[str]
) -> None:
    tokenizer = TOKENIZERS[kind]
    check_round_trip(tokenizer, "".join(parts), markers_of(tokenizer))


def check_round_trip(tokenizer: Tokenizer, text: str, markers: set[int]) -> None:
    """The text comes back, none of its ids is a marker, and each token starts in the character in
    which, by the bytes before it, it begins."""
    ids, starts = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert markers.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    at = 0
    for token_id, start in zip(ids, starts, strict=True):
        assert len(text[:start].encode()) <= at < len(text[: start + 1].encode())
        at += len(tokenizer.to_bytes([token_id]))


def test_added_tokens_have_text_unless_they_are_control_tokens() -> None:
    tokenizer = TOKENIZERS["qwen"]
    texts = {name: tokenizer.decode([tokenizer.id_of(name) or 0]) for name in ADDED}
    with_text = {"<tool_call>", "    ", "add"}
    assert texts == {name: name if name in with_text else "" for name in ADDED}


def test_sentinels_that_are_not_special_are_found() -> None:
    infill = TOKENIZERS["qwen"].infill
    assert isinstance(infill, SentinelFormat)
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    prefix, suffix, middle = (TOKENIZERS["qwen"].id_of(name) for name in names)
    assert infill.prompt([7], [8, 9], [10]) == (prefix, 8, 9, suffix, 10, 7, middle)
    others = ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>")
    assert {TOKENIZERS["qwen"].id_of(name) for name in others} <= set(infill.end_ids)


def test_sentencepiece_without_byte_tokens_in_use_is_refused() -> None:
    backend = llama_like()._backend
    assert isinstance(backend.model, models.BPE)
    backend.model.byte_fallback = False
    with pytest.raises(CheckpointError, match="byte_fallback"):
        Tokenizer(backend)
