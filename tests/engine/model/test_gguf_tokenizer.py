"""A tokenizer from GGUF metadata returns text unchanged, and errors name damaged keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CheckpointError
from engine.model.gguf_tokenizer import tokenizer_from_gguf
from engine.model.tokenizer import read_tokenizer
from engine.prompt import SentinelFormat
from tests.engine.model.test_tokenizer import check_round_trip
from tests.vocabularies import (
    CONTROL,
    MARKERS,
    NORMAL,
    USER_DEFINED,
    byte_level_metadata,
    sentencepiece_metadata,
)

# A family's sentinels that an old converter called ordinary, and runs of blanks.
_GEMMA = {
    "<|fim_prefix|>": NORMAL,
    "<|fim_suffix|>": NORMAL,
    "<|fim_middle|>": NORMAL,
    "<h1>": USER_DEFINED,
    "  ": USER_DEFINED,
    "    ": USER_DEFINED,
    "\n\n": USER_DEFINED,
}


def deepseek_metadata() -> dict[str, Any]:
    """DeepSeek-Coder adds characters as tokens that elsewhere spell bytes which no text has."""
    data = byte_level_metadata("deepseek-coder")
    tokens = data["tokenizer.ggml.tokens"]
    for character in "õöÀ":
        data["tokenizer.ggml.token_type"][tokens.index(character)] = USER_DEFINED
    return data


METADATA = {
    "qwen2": byte_level_metadata(),
    "llama-bpe": byte_level_metadata("llama-bpe"),
    "tekken": byte_level_metadata("tekken", markers={"<s>": CONTROL, "[PREFIX]": CONTROL}),
    "starcoder": byte_level_metadata("starcoder"),
    "deepseek-coder": deepseek_metadata(),
    "default": byte_level_metadata("default", markers=_GEMMA),
    "code llama": sentencepiece_metadata(),
    "gemma": sentencepiece_metadata(markers=_GEMMA),
}
TOKENIZERS = {name: tokenizer_from_gguf(data, name) for name, data in METADATA.items()}


def marked(name: str) -> dict[int, str]:
    """Added, control and unused tokens by id; byte tokens and runs of blanks are text."""
    data = METADATA[name]
    tokens, types = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    found = {i: t for i, t in enumerate(tokens) if types[i] in (2, 3, 4, 5) or t in _GEMMA}
    return {token_id: token for token_id, token in found.items() if not token.isspace()}


def texts(name: str) -> st.SearchStrategy[str]:
    """Any text, with names of the vocabulary's markers at any place."""
    names = [*marked(name).values(), "▁", " ", "  ", "\n\n", "<0x0A>", "e\u0301", "returns"]
    return st.lists(st.sampled_from(names) | st.text(max_size=8), max_size=8).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_text_comes_back_and_no_marker_is_read_out_of_it(name: str, data: Any) -> None:
    check_round_trip(TOKENIZERS[name], data.draw(texts(name)), set(marked(name)))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_streaming_holds_back_no_more_than_one_character(name: str, data: Any) -> None:
    tokenizer = TOKENIZERS[name]
    text = data.draw(texts(name))
    ids = tokenizer.encode(text)
    for end in range(len(ids) + 1):
        shown = tokenizer.decode(ids[:end], final=False)
        assert text.startswith(shown)
        assert len(tokenizer.to_bytes(ids[:end])) - len(shown.encode()) < 4


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_tokens_have_no_text_and_other_added_tokens_have_theirs(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    types = METADATA[name]["tokenizer.ggml.token_type"]
    for token_id, token in marked(name).items():
        has_text = types[token_id] == USER_DEFINED
        assert tokenizer.decode([token_id]) == (token if has_text else "")
        assert tokenizer.id_of(token) == token_id
    assert tokenizer.size == len(types)


def test_qwens_sentinels_are_found() -> None:
    infill = TOKENIZERS["qwen2"].infill
    assert isinstance(infill, SentinelFormat)
    ids = {name: TOKENIZERS["qwen2"].id_of(name) for name in MARKERS}
    ends = {ids[name] for name in MARKERS if name.startswith("<|")}
    assert set(infill.end_ids) == ends
    assert infill.prompt([], [7], [8]) == (
        ids["<|fim_prefix|>"],
        7,
        ids["<|fim_suffix|>"],
        8,
        ids["<|fim_middle|>"],
    )


def test_an_ordinary_piece_that_is_spelled_like_an_end_is_text() -> None:
    """Qwen's vocabulary has "</s>" as an ordinary piece."""
    tokenizer = tokenizer_from_gguf(byte_level_metadata(markers={**MARKERS, "</s>": NORMAL}), "x")
    end = tokenizer.id_of("</s>")
    assert end is not None
    assert tokenizer.decode([end]) == "</s>"
    assert tokenizer.infill is not None
    assert end not in tokenizer.infill.end_ids


def test_sentencepiece_pieces_begin_with_a_blank_only_where_the_text_does() -> None:
    tokenizer = TOKENIZERS["code llama"]
    with_blank, without = tokenizer.encode(" return"), tokenizer.encode("return")
    assert with_blank != without
    assert tokenizer.to_bytes(with_blank[:1]).startswith(b" ")
    assert tokenizer.decode([*without, *with_blank]) == "return return"


def test_runs_of_blanks_that_are_added_tokens_are_used() -> None:
    """They are the only added tokens that cannot be meant as markers."""
    for name in ("gemma", "default"):
        tokenizer = TOKENIZERS[name]
        assert tokenizer.encode("\n\n") == [tokenizer.id_of("\n\n")]


def test_byte_tokens_spell_bytes_and_their_names_are_text() -> None:
    tokenizer = TOKENIZERS["code llama"]
    euro = tokenizer.encode("\u20aa")
    assert euro == [tokenizer.id_of(f"<0x{byte:02X}>") for byte in "\u20aa".encode()]
    assert tokenizer.decode(euro[:2], final=False) == ""
    assert tokenizer.id_of("<0x0A>") not in tokenizer.encode("<0x0A>")


def test_what_is_saved_is_read_as_the_same_tokenizer(tmp_path: Any) -> None:
    text = "def f():\n    return 'Größe <|fim_middle|> 12'\n"
    for name in ("qwen2", "code llama"):
        TOKENIZERS[name].save(tmp_path)
        again = read_tokenizer(tmp_path)
        assert again.encode(text) == TOKENIZERS[name].encode(text)
        assert again.infill == TOKENIZERS[name].infill


def test_files_without_a_pre_tokenizer_get_llama_cpps() -> None:
    data = byte_level_metadata("default")
    del data["tokenizer.ggml.pre"]
    expected = tokenizer_from_gguf(byte_level_metadata("default"), "x").encode("a+=12345")
    assert tokenizer_from_gguf(data, "x").encode("a+=12345") == expected


KEY = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("changes", "named", "key"),
    [
        ({"model": None}, "model is missing", "model"),
        ({"model": "bert"}, "is 'bert'", "model"),
        ({"model": 3}, "is of type int", "model"),
        ({"pre": "chameleon"}, "'chameleon', an unknown way of splitting", "pre"),
        ({"tokens": None}, "tokens is missing", "tokens"),
        ({"tokens": ["a", 3]}, "not a list of str", "tokens"),
        ({"tokens": "ab"}, "not a list of str", "tokens"),
        ({"tokens": []}, "is empty", "tokens"),
        ({"tokens": ["a", "b", "a"]}, "'a' twice, as 0 and 2", "tokens"),
        ({"token_type": [1, 1]}, "has 2 items", "token_type"),
        ({"token_type": ["1"]}, "not a list of int", "token_type"),
        ({"merges": None}, "merges is missing", "merges"),
        ({"merges": ["a ▁day"]}, "names '▁day', which is not a token", "merges"),
        ({"merges": ["ab"]}, "names 'ab', which is not a token", "merges"),
        ({"merges": ["a b c"]}, "names 'b c', which is not a token", "merges"),
        ({"merges": [("a", "b")]}, "not a list of str", "merges"),
    ],
)
def test_damage_is_named(changes: dict[str, object], named: str, key: str) -> None:
    check_damage(byte_level_metadata(), changes, named, key)


@pytest.mark.parametrize(
    ("changes", "named", "key"),
    [
        ({"scores": None}, "scores is missing", "scores"),
        ({"scores": [1.0]}, "has 1 items", "scores"),
        ({"scores": [1]}, "not a list of float", "scores"),
        ({"tokens": ["<unk>"], "token_type": [2], "scores": [0.0]}, "no byte token", "tokens"),
    ],
)
def test_damage_to_sentencepiece_is_named(changes: dict[str, object], named: str, key: str) -> None:
    check_damage(sentencepiece_metadata(), changes, named, key)


def check_damage(
    metadata: dict[str, Any], changes: dict[str, object], named: str, key: str
) -> None:
    for name, value in changes.items():
        metadata.pop(KEY + name)
        if value is not None:
            metadata[KEY + name] = value
    with pytest.raises(CheckpointError, match=r"x\.gguf: ") as caught:
        tokenizer_from_gguf(metadata, "x.gguf")
    assert named in caught.value.message
    assert caught.value.param == KEY + key
    assert caught.value.remedy


def test_a_vocabulary_that_is_not_byte_level_or_lacks_bytes_is_refused() -> None:
    data = byte_level_metadata()
    data["tokenizer.ggml.tokens"][300] = "▁day"
    data["tokenizer.ggml.merges"] = []
    with pytest.raises(CheckpointError, match=r"token 300 \('▁day'\) is not byte-level"):
        tokenizer_from_gguf(data, "x.gguf")
    data = byte_level_metadata()
    newline = data["tokenizer.ggml.tokens"].index("Ċ")
    data["tokenizer.ggml.tokens"][newline] = "ĊĊĊĊĊĊ"
    data["tokenizer.ggml.merges"] = []
    with pytest.raises(CheckpointError, match="no token for byte 0x0A"):
        tokenizer_from_gguf(data, "x.gguf")


def test_tokens_without_a_name_get_one() -> None:
    data = byte_level_metadata(markers={**MARKERS, "": CONTROL})
    assert tokenizer_from_gguf(data, "x").size == len(data["tokenizer.ggml.tokens"])
