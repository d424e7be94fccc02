"""Converts text to ids and back, and never mistakes the user's text for a marker.

Wraps the `tokenizers` library. User text is encoded without added tokens, because the library
ignores in text only those that their file calls special. In Qwen2.5-Coder "<|fim_middle|>" is not
special, so that source code with this word would steer the model. Ids by name come from the
tokenizer as its file describes it. Decoding works on bytes, so that a character that is split
between two tokens is held back and not shown as U+FFFD.

Every text comes back unchanged. Steps of a file's encoding that lose something are therefore left
out: Unicode normalisation (Qwen's NFC, which llama.cpp leaves out too) and SentencePiece's blank at
the beginning. SentencePiece writes the first word of a text with that blank, but the pieces of a
prompt start anywhere, even within a line, and a generated middle has no such blank. Each piece is
encoded as it is, so that " x" and "x" differ. Torch-free.
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
from engine.model.spelling import BLANK, Spelling, read_spelling
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


class Tokenizer:
    """A tokenizer. Immutable after construction and safe to share between threads.

    Args:
        backend: the tokenizer as its file describes it, with added tokens. Its ownership passes to
            this object.
        source: the vocabulary's name in errors.
        ids: the id of every token, if it is known already.

    Raises:
        CheckpointError: the vocabulary is of neither kind that `engine.model.spelling` knows.
    """

    def __init__(
        self,
        backend: _Backend,
        source: str = "tokenizer.json",
        ids: Mapping[str, int] | None = None,
    ) -> None:
        backend.encode_special_tokens = True  # matters to readers of the file that `save` writes
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._spelling = read_spelling(backend, source, ids)
        self._encoder = _encoder(backend, self._spelling)
        self._bytes = self._spelling.bytes_of

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self._bytes)

    @property
    def infill(self) -> Infill | None:
        """The infilling format for which this tokenizer has markers, or None."""
        ours = self._ids_of((BEGIN, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE))
        if ours is not None:
            return InfillFormat(*ours)
        return sentinel_format(self._marker, is_sentencepiece=self._spelling.is_sentencepiece)

    def id_of(self, token: str) -> int | None:
        """The id of a special token by its exact name, or None."""
        return self._backend.token_to_id(token)

    def _marker(self, name: str) -> int | None:
        """The id of a marker; None for an ordinary piece with this name (such as Qwen's "</s>")."""
        token_id = self.id_of(name)
        return token_id if token_id in self._spelling.markers else None

    def _ids_of(self, tokens: tuple[str, ...]) -> list[int] | None:
        """The ids of these tokens, or None if one is missing."""
        ids = [token_id for token in tokens if (token_id := self.id_of(token)) is not None]
        return ids if len(ids) == len(tokens) else None

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text, without special tokens. Unpaired surrogates become U+FFFD."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        if self._needs_care(clean):
            return self._with_blanks(clean)
        return self._checked(self._encoder.encode(clean, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and the code point at which each of them starts.

        Tokens that start within a character have the start of that character. `text` must contain
        no unpaired surrogate.
        """
        if not self._needs_care(text):
            encoding = self._encoder.encode(text, add_special_tokens=False)
            if self._spelling.markers.isdisjoint(encoding.ids):
                return encoding.ids, [start for start, _ in encoding.offsets]
        ids = self.encode(text)
        return ids, self._starts(text, ids)

    def _needs_care(self, text: str) -> bool:
        """Whether the text contains "▁", which SentencePiece would return as a blank."""
        return self._spelling.is_sentencepiece and BLANK in text

    def _with_blanks(self, text: str) -> list[int]:
        """The ids of a text that contains "▁", which is spelled in bytes."""
        ids: list[int] = []
        for index, piece in enumerate(text.split(BLANK)):
            if index:
                ids += [self._spelling.byte_ids[byte] for byte in BLANK.encode()]
            ids += self._checked(self._encoder.encode(piece, add_special_tokens=False).ids)
        return ids

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids, with each marker among them replaced by the ids of its bytes.

        An encoder without added tokens gives a marker only if the marker's name is also a piece of
        the vocabulary to which merges lead.
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
        """The code point at which each id starts; the ids must spell the whole text."""
        character_starts = [0, *accumulate(len(character.encode()) for character in text)]
        ends = accumulate(len(self._bytes[token_id]) for token_id in ids)
        starts = [0, *ends][: len(ids)]
        return [bisect_right(character_starts, start) - 1 for start in starts]

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens; control tokens and ids after the last one have none."""
        table = self._bytes
        return b"".join(table[i] for i in ids if i < len(table))

    def decode(self, ids: Iterable[int], *, final: bool = True) -> str:
        """The text of the ids, with U+FFFD for bytes that form no character. If `final` is false,
        the bytes of an unfinished last character are held back."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(self.to_bytes(ids), final=final)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` into the folder."""
        self._backend.save(str(folder / "tokenizer.json"))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads `folder/tokenizer.json`.

    Raises:
        CheckpointError: the file is missing or malformed, or its vocabulary is not supported.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json.",
            remedy="Convert the tokenizer to the Hugging Face fast format.",
            param="tokenizer.json",
        )
    try:
        backend = _Backend.from_buffer(path.read_bytes())  # the path may not be valid UTF-8
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise CheckpointError(
            f"{path} cannot be read: {error}.",
            remedy="Copy the checkpoint again.",
            param="tokenizer.json",
        ) from None
    return Tokenizer(backend)


def _encoder(backend: _Backend, spelling: Spelling) -> _Backend:
    """The encoder of user text: the tokenizer without added tokens and without lossy steps.

    Added tokens that consist of blanks are kept if the encoder gives them their own ids; otherwise
    such a run is encoded like other text.
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
    pre_tokenizer = copy.deepcopy(backend.pre_tokenizer)  # a copy, because it is changed here
    if spelling.is_sentencepiece:
        normalizer = normalizers.Replace(" ", BLANK)
        if isinstance(pre_tokenizer, pre_tokenizers.Metaspace):
            never = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
            pre_tokenizer = never if pre_tokenizer.split else None
    else:
        if isinstance(normalizer, normalizers.NFC):
            normalizer = None
        _without_first_blank(pre_tokenizer)
    # The library's setters do not accept None.
    if normalizer is not None:
        encoder.normalizer = normalizer
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    return encoder


def _without_first_blank(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> None:
    """Switches off the blank that a byte-level pre-tokenizer puts before the first word."""
    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        pre_tokenizer.add_prefix_space = False
    elif isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        for part in pre_tokenizer:
            _without_first_blank(part)
