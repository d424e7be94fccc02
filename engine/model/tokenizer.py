"""Text to ids and back, by a tokenizer that never mistakes the user's text for a marker.

Wraps the `tokenizers` library. User text goes through an encoder that has no added tokens at all,
since the library spares only those that their file calls special: in Qwen2.5-Coder "<|fim_middle|>"
is not, and a source that holds the word would steer the model. Ids by name come from the tokenizer
as its file has it. Decoding goes through bytes, so that a character cut between two tokens is held
back rather than shown as U+FFFD.

Any text comes back as it was. For that, what a file does to text before it is encoded is left out
where it loses something: Unicode normalisation (Qwen's NFC; llama.cpp leaves it out as well) and
SentencePiece's blank in front. That blank is how a SentencePiece vocabulary writes a text's first
word, but a prompt's pieces start anywhere, in the middle of a line too, and a middle that is
generated has none: each piece is encoded as what it is, and " x" and "x" differ. Torch-free.
"""

from __future__ import annotations

import codecs
import copy
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path

from tokenizers import Tokenizer as _Backend
from tokenizers import normalizers, pre_tokenizers

from engine.errors import CheckpointError
from engine.model.spelling import BLANK, Spelling, byte_alphabet, read_spelling
from engine.prompt import (
    BEGIN,
    END_OF_MIDDLE,
    FAR,
    MIDDLE,
    NEAR,
    PREFIX,
    Infill,
    InfillFormat,
    sentinel_format,
)

__all__ = ["Tokenizer", "byte_alphabet", "read_tokenizer"]


class Tokenizer:
    """Text to ids and back. Immutable after construction; safe to share between threads.

    Args:
        backend: as its file has it, with added tokens. Owned from here on.
        source: names the vocabulary in errors.
        ids: every token's id, where they are known already.

    Raises:
        CheckpointError: a vocabulary of neither kind that `engine.model.spelling` knows.
    """

    def __init__(
        self,
        backend: _Backend,
        source: str = "tokenizer.json",
        ids: Mapping[str, int] | None = None,
    ) -> None:
        backend.encode_special_tokens = True  # for whoever reads the file that `save` writes
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._spelling = read_spelling(backend, source, ids)
        self._encoder = _encoder(backend, self._spelling)
        self._bytes = self._spelling.bytes_of

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self._bytes)

    @property
    def infill(self) -> Infill | None:
        """The infilling layout this tokenizer has markers for, or None."""
        ours = self._ids_of((BEGIN, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE))
        if ours is not None:
            return InfillFormat(*ours)
        return sentinel_format(self._marker, is_sentencepiece=self._spelling.is_sentencepiece)

    def id_of(self, token: str) -> int | None:
        """The id of a special token by its exact name, or None."""
        return self._backend.token_to_id(token)

    def _marker(self, name: str) -> int | None:
        """The id of a marker; None for an ordinary piece that is spelled so ("</s>" in Qwen's)."""
        token_id = self.id_of(name)
        return token_id if token_id in self._spelling.markers else None

    def _ids_of(self, tokens: tuple[str, ...]) -> list[int] | None:
        """Their ids, or None if one is missing."""
        ids = [token_id for token in tokens if (token_id := self.id_of(token)) is not None]
        return ids if len(ids) == len(tokens) else None

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; adds no special token. Unpaired surrogates become U+FFFD."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        if self._needs_care(clean):
            return self._with_blanks(clean)
        return self._checked(self._encoder.encode(clean, add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores. They must hold no unpaired surrogate."""
        encodings = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        return [
            self._with_blanks(text) if self._needs_care(text) else self._checked(encoding.ids)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and the code point at which each starts; cut the text there and the rest is whole.

        Of several tokens within one character all have the character's start. `text` must hold no
        unpaired surrogate.
        """
        if not self._needs_care(text):
            encoding = self._encoder.encode(text, add_special_tokens=False)
            if self._spelling.markers.isdisjoint(encoding.ids):
                return encoding.ids, [start for start, _ in encoding.offsets]
        ids = self.encode(text)
        return ids, self._starts(text, ids)

    def _needs_care(self, text: str) -> bool:
        """Whether the text holds the character that a SentencePiece vocabulary writes blanks as,
        and would come back with a blank instead."""
        return self._spelling.is_sentencepiece and BLANK in text

    def _with_blanks(self, text: str) -> list[int]:
        """Ids of a text that holds "▁" itself, which is spelled in bytes."""
        ids: list[int] = []
        for index, piece in enumerate(text.split(BLANK)):
            if index:
                ids += [self._spelling.byte_ids[byte] for byte in BLANK.encode()]
            ids += self._checked(self._encoder.encode(piece, add_special_tokens=False).ids)
        return ids

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids, with each marker among them spelled out in bytes.

        An encoder without added tokens hardly ever gives one: only where a marker's name is also a
        piece of the vocabulary that merges lead to.
        """
        markers = self._spelling.markers
        if markers.isdisjoint(ids):
            return ids
        spelled: list[int] = []
        for token_id in ids:
            if token_id in markers:
                spelled += self._spelling.in_bytes(self._backend.id_to_token(token_id) or "")
            else:
                spelled.append(token_id)
        return spelled

    def _starts(self, text: str, ids: list[int]) -> list[int]:
        """Where each id starts in a text of which nothing is lost."""
        character_starts = [0, *accumulate(len(character.encode()) for character in text)]
        ends = accumulate(len(self._bytes[token_id]) for token_id in ids)
        starts = [0, *ends][: len(ids)]
        return [bisect_right(character_starts, start) - 1 for start in starts]

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens; control tokens and ids past the table have none."""
        table = self._bytes
        return b"".join(table[i] for i in ids if i < len(table))

    def decode(self, ids: Iterable[int], *, final: bool = True) -> str:
        """Text of the ids. With `final` false, bytes of an unfinished last character are held
        back; otherwise, and for bytes that can be no character, U+FFFD stands in."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(self.to_bytes(ids), final=final)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` into the folder."""
        self._backend.save(str(folder / "tokenizer.json"))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads `folder/tokenizer.json`.

    Raises:
        CheckpointError: missing, malformed, or no byte-level tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json.",
            remedy="Convert the tokenizer to the Hugging Face fast format.",
            param="tokenizer.json",
        )
    try:
        backend = _Backend.from_buffer(path.read_bytes())  # not by name: it may be no UTF-8
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise CheckpointError(
            f"{path} cannot be read: {error}.",
            remedy="Copy the checkpoint again.",
            param="tokenizer.json",
        ) from None
    return Tokenizer(backend)


def _encoder(backend: _Backend, spelling: Spelling) -> _Backend:
    """The encoder of user text: the tokenizer without added tokens, and without what loses text.

    It keeps those added tokens that are nothing but blanks if it gives them their ids; else such a
    run is encoded like other text.
    """
    encoder = _without_added_tokens(backend, spelling)
    if not spelling.blanks:
        return encoder
    blanks = dict(sorted(spelling.blanks.items()))
    encoder.add_tokens(list(blanks.values()))
    if all(encoder.token_to_id(token.content) == number for number, token in blanks.items()):
        return encoder
    return _without_added_tokens(backend, spelling)


def _without_added_tokens(backend: _Backend, spelling: Spelling) -> _Backend:
    encoder = _Backend(backend.model)  # shares the vocabulary
    normalizer = backend.normalizer
    pre_tokenizer = copy.deepcopy(backend.pre_tokenizer)  # not shared: it is changed here
    if spelling.is_sentencepiece:
        normalizer = normalizers.Replace(" ", BLANK)
        if isinstance(pre_tokenizer, pre_tokenizers.Metaspace):
            never = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
            pre_tokenizer = never if pre_tokenizer.split else None
    else:
        if isinstance(normalizer, normalizers.NFC):
            normalizer = None
        _without_first_blank(pre_tokenizer)
    # The library's setters take no None.
    if normalizer is not None:
        encoder.normalizer = normalizer
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    return encoder


def _without_first_blank(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> None:
    """Switches a byte-level pre-tokenizer's blank in front of the first word off."""
    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        pre_tokenizer.add_prefix_space = False
    elif isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        for part in pre_tokenizer:
            _without_first_blank(part)
