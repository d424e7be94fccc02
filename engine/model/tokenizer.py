"""`tokenizer.json` as a byte-level tokenizer that never mistakes the user's text for a marker.

Wraps the `tokenizers` library. Text that happens to spell a special token ("[MASK]", "</s>") is
encoded as ordinary text; decoding goes through bytes, so that a character cut between two tokens is
held back rather than shown as U+FFFD. Torch-free.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as _Backend

from engine.errors import CheckpointError
from engine.prompt import (
    BEGIN,
    END_OF_MIDDLE,
    FAR,
    MIDDLE,
    NEAR,
    PREFIX,
    SENTINEL_ENDS,
    SENTINELS,
    Infill,
    InfillFormat,
    SentinelFormat,
)


class Tokenizer:
    """Text to ids and back. Immutable after construction; safe to share between threads."""

    def __init__(self, backend: _Backend) -> None:
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._bytes = _byte_table(backend)

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
        for names in SENTINELS:
            if (ids := self._ids_of(names)) is not None:
                ends = (self.id_of(name) for name in (*SENTINEL_ENDS, *names))
                return SentinelFormat(*ids, end_ids=tuple(end for end in ends if end is not None))
        return None

    def id_of(self, token: str) -> int | None:
        """The id of a special token by its exact name, or None."""
        return self._backend.token_to_id(token)

    def _ids_of(self, tokens: tuple[str, ...]) -> list[int] | None:
        """Their ids, or None if one is missing."""
        ids = [token_id for token in tokens if (token_id := self.id_of(token)) is not None]
        return ids if len(ids) == len(tokens) else None

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; adds no special token. Unpaired surrogates become U+FFFD."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return self._backend.encode(clean, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and for each the code point of `text` at which it starts.

        Of several tokens within one character all have the character's start. `text` must hold no
        unpaired surrogate.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ordinary tokens; special tokens and ids past the table have none."""
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
        backend = _Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise CheckpointError(
            f"{path} cannot be read: {error}.",
            remedy="Copy the checkpoint again.",
            param="tokenizer.json",
        ) from None
    return Tokenizer(backend)


def _byte_table(backend: _Backend) -> list[bytes]:
    """Bytes of every id: byte-level BPE spells each byte as one printable character."""
    special = set(backend.get_added_tokens_decoder())
    from_character = {character: byte for byte, character in byte_alphabet().items()}
    table = [b""] * backend.get_vocab_size(with_added_tokens=True)
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id in special:
            continue
        try:
            table[token_id] = bytes(from_character[character] for character in token)
        except (KeyError, IndexError):
            raise CheckpointError(
                f"tokenizer.json: token {token_id} ({token!r}) is not byte-level.",
                remedy="Only byte-level BPE tokenizers (GPT-2, Tekken, Qwen, Llama 3) are read.",
                param="tokenizer.json",
            ) from None
    return table


def byte_alphabet() -> dict[int, str]:
    """GPT-2's byte-to-character table: printable Latin-1 stands for itself, the rest follow 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in table]
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return table
