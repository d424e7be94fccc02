"""The bytes that the tokens of a vocabulary spell, and the tokens that are markers.

There are two kinds of vocabulary. Byte-level BPE writes each byte as one printable character
(GPT-2, Qwen, Llama 3, Tekken). SentencePiece writes a blank as "▁" and has tokens such as "<0x0A>"
for the bytes of characters that it lacks (Llama 2, Code Llama, Codestral). Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import AddedToken
from tokenizers import Tokenizer as _Backend

from engine.errors import CheckpointError
from engine.prompt import SENTINEL_NAMES, SPECIAL_TOKENS

BLANK = "▁"  # SentencePiece's blank, U+2581
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
# No UTF-8 text contains these bytes, so vocabularies that were made from text lack them.
_NEVER_IN_TEXT = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
# By this llama.cpp's converter recognises control tokens that tokenizer.json calls ordinary.
_CONTROL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
_BETWEEN, _INVALID = "\U0010ffff", "\U0010fffe"  # characters that no byte-level token contains


@dataclass(frozen=True, slots=True)
class Spelling:
    """The bytes of all ids.

    Attributes:
        bytes_of: the bytes by id; empty for control tokens and ids that the vocabulary skips.
        markers: the ids that no text may be encoded as: all added tokens except runs of blanks.
        blanks: the added tokens that spell only blanks, by id. Some vocabularies indent code with
            them, and none of them can be meant as a marker.
        byte_ids: the ids of tokens that spell a single byte, by that byte.
        is_sentencepiece: whether the vocabulary is SentencePiece's.
    """

    bytes_of: list[bytes]
    markers: frozenset[int]
    blanks: dict[int, AddedToken]
    byte_ids: dict[int, int]
    is_sentencepiece: bool

    def in_bytes(self, token: str) -> list[int]:
        """The ids that spell each byte of a piece of the vocabulary."""
        if self.is_sentencepiece:
            spelled = token.replace(BLANK, " ").encode()
        else:
            spelled = bytes(_BYTE_OF[character] for character in token)
        return [self.byte_ids[byte] for byte in spelled]


def read_spelling(backend: _Backend, source: str, ids: Mapping[str, int] | None = None) -> Spelling:
    """The spelling of a tokenizer's ids.

    Added tokens that are not control tokens (Qwen's "<tool_call>") spell their name when a model
    writes them, although no text is encoded as one of them.

    Args:
        source: the vocabulary's name in errors.
        ids: the id of every token, if it is known already; the library is slow to list them.

    Raises:
        CheckpointError: the vocabulary is of neither kind, or lacks a byte that text can contain.
    """
    if ids is None:
        ids = backend.get_vocab(with_added_tokens=True)
    added: Mapping[int, AddedToken] = backend.get_added_tokens_decoder()
    is_sentencepiece = all(token in ids for token in BYTE_TOKENS)
    if is_sentencepiece and not getattr(backend.model, "byte_fallback", True):
        raise CheckpointError(
            f"{source} has byte tokens but byte_fallback off: characters that it lacks would be "
            "lost.",
            remedy="Set model.byte_fallback to true in tokenizer.json.",
            param="byte_fallback",
        )
    ordinary = dict(ids)
    for token in added.values():
        del ordinary[token.content]
    spelled = _sentencepiece(ordinary) if is_sentencepiece else _byte_level(ordinary, source)
    table = [b""] * (max(ids.values(), default=-1) + 1)
    for token_id, piece in zip(ordinary.values(), spelled, strict=True):
        table[token_id] = piece
    blanks: dict[int, AddedToken] = {}
    for token_id, token in added.items():
        if is_control(token.content, token.special):
            continue
        text = token.content.replace(BLANK, " ") if is_sentencepiece else token.content
        table[token_id] = text.encode()
        if token.content.isspace() and not (token.lstrip or token.rstrip or token.single_word):
            blanks[token_id] = token
    return Spelling(
        table,
        frozenset(added.keys() - blanks.keys()),
        blanks,
        _byte_ids(ordinary, is_sentencepiece, source),
        is_sentencepiece,
    )


def is_control(token: str, special: bool) -> bool:
    """Whether an added token steers the model and has no text, whatever its file says."""
    named = token in SENTINEL_NAMES or token in SPECIAL_TOKENS
    return special or named or looks_like_control(token)


def looks_like_control(token: str) -> bool:
    """Whether a token is spelled like control tokens and unlike program text."""
    return _CONTROL.fullmatch(token) is not None


def _byte_ids(ordinary: Mapping[str, int], is_sentencepiece: bool, source: str) -> dict[int, int]:
    names = dict(enumerate(BYTE_TOKENS)) if is_sentencepiece else byte_alphabet()
    found = {byte: ordinary[name] for byte, name in names.items() if name in ordinary}
    missing = sorted(set(range(256)) - found.keys() - _NEVER_IN_TEXT)
    if missing:
        raise CheckpointError(
            f"{source} has no token for byte 0x{missing[0]:02X}; text with it would be lost.",
            remedy="Use the checkpoint's own tokenizer, unshortened.",
            param="tokenizer",
        )
    return found


def _sentencepiece(tokens: Mapping[str, int]) -> list[bytes]:
    """The bytes of each token: "▁" is a blank, "<0x0A>" one byte."""
    of_byte = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}
    return [of_byte.get(token) or token.replace(BLANK, " ").encode() for token in tokens]


def _byte_level(tokens: Mapping[str, int], source: str) -> list[bytes]:
    """The bytes of all tokens in one pass; token by token would take most of the loading time."""
    from_character = {chr(code): _INVALID for code in range(256)}
    from_character |= {character: chr(byte) for byte, character in byte_alphabet().items()}
    table = str.maketrans(from_character)
    pieces = _BETWEEN.join(tokens).translate(table).split(_BETWEEN) if tokens else []
    try:
        if len(pieces) == len(tokens):
            return [piece.encode("latin-1") for piece in pieces]
    except UnicodeEncodeError:
        pass  # the token is named below
    alphabet = set(byte_alphabet().values())
    token = next(token for token in tokens if not alphabet.issuperset(token))
    raise CheckpointError(
        f"{source}: token {tokens[token]} ({token!r}) is not byte-level.",
        remedy="Only byte-level BPE (GPT-2, Tekken, Qwen, Llama 3) and SentencePiece vocabularies "
        "with byte tokens (Llama 2, Codestral) are read.",
        param="tokenizer",
    )


def byte_alphabet() -> dict[int, str]:
    """GPT-2's table from bytes to characters: printable Latin-1 characters stand for themselves,
    the others are numbered from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in table]
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return table


_BYTE_OF = {character: byte for byte, character in byte_alphabet().items()}
