"""Completions already shown, served again while the user types through them.

Owns when a completion still stands after the text has changed (`remainder`, pure) and a small
store of the latest ones. What was shown is returned character for character, never shaped anew, so
that typing what the ghost text says never changes what is left of it. Knows no engine and no LSP.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

ENTRIES_MAX = 32
CHARS_MAX = 8_000_000  # of text in all entries; a document's whole text stands in each of its own
CLOSERS = frozenset(")]}>\"'`")
CLOSERS_MAX = 4


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion as it was shown.

    Attributes:
        prefix: the text before the cursor that it continues.
        suffix: the text after the cursor.
        text: what is inserted at the cursor.
        replaced: how many code points of the suffix the insertion replaces.
    """

    prefix: str
    suffix: str
    text: str
    replaced: int = 0


def remainder(completion: Completion, prefix: str, suffix: str) -> Completion | None:
    """What is left of a completion in a newer text: None where it does not continue it.

    The newer text continues it if the user did nothing but type the beginning of the completion
    at the cursor. Brackets and quotes that the editor closed by itself on the way stand at the
    head of the newer suffix; the remainder replaces them by its own.
    """
    if not prefix.startswith(completion.prefix):
        return None
    typed = prefix[len(completion.prefix) :]
    if not completion.text.startswith(typed) or (typed and typed == completion.text):
        return None
    rest = completion.text[len(typed) :]
    closed = len(suffix) - len(completion.suffix)
    if not (0 <= closed <= CLOSERS_MAX and suffix.endswith(completion.suffix)):
        return None
    if closed and not (typed and _closes(suffix[:closed], rest)):
        return None
    return Completion(prefix, suffix, rest, completion.replaced + closed)


def _closes(closers: str, rest: str) -> bool:
    """Whether these are closing characters that `rest` brings along, in this order."""
    characters = iter(rest)
    return all(closer in CLOSERS and closer in characters for closer in closers)


class ResultCache:
    """The latest completions, newest first; at most ENTRIES_MAX, and CHARS_MAX of text."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str, str], Completion] = OrderedDict()
        self._num_chars = 0

    def put(self, uri: str, completion: Completion) -> None:
        """Keeps a completion, in place of an older one for the same text."""
        key = (uri, completion.prefix, completion.suffix)
        self._drop(key)
        self._entries[key] = completion
        self._num_chars += _size(completion)
        while len(self._entries) > ENTRIES_MAX or self._num_chars > CHARS_MAX:
            self._drop(next(iter(self._entries)))

    def find(self, uri: str, prefix: str, suffix: str) -> Completion | None:
        """What stands at this cursor by an earlier completion; its text is empty where the
        engine already had nothing to say here. None if the engine must be asked."""
        for key, completion in reversed(self._entries.items()):
            if key[0] == uri and (left := remainder(completion, prefix, suffix)) is not None:
                return left
        return None

    def clear(self, uri: str | None = None) -> None:
        """Forgets a document's completions, or all of them."""
        for key in [key for key in self._entries if uri in (None, key[0])]:
            self._drop(key)

    def _drop(self, key: tuple[str, str, str]) -> None:
        if (completion := self._entries.pop(key, None)) is not None:
            self._num_chars -= _size(completion)


def _size(completion: Completion) -> int:
    return len(completion.prefix) + len(completion.suffix)
