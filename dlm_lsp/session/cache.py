"""Completions already shown, served again while the user types and removes their text.

Decides whether a completion still fits after the text has changed (`remainder` and `regained`,
both pure) and keeps the latest completions. A completion is returned exactly as it was shown and
never shaped again, so that typing the ghost text does not change the rest of it. Knows no engine
and no LSP.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from dlm_lsp.client.messages import UsageBody
from dlm_lsp.session.confidence import after
from engine.api import LogProbs

ENTRIES_MAX = 32
CHARS_MAX = 8_000_000  # Limit over all entries; each entry holds its document's whole text.
CLOSERS = frozenset(")]}>\"'`")
CLOSERS_MAX = 4


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion as it was shown.

    Attributes:
        prefix: the text before the cursor.
        suffix: the text after the cursor.
        text: the text to insert at the cursor.
        replaced: the number of code points of the suffix that the insertion replaces.
        logprobs: the tokens of `text`, as far as the model wrote it; empty if unknown.
        is_unsure: whether it is empty because the model was not sure enough of its text.
        mode, usage: the mode and the figures of the run that wrote it; "" and None if unknown.
    """

    prefix: str
    suffix: str
    text: str
    replaced: int = 0
    logprobs: LogProbs = ()
    is_unsure: bool = False
    mode: str = field(default="", compare=False)
    usage: UsageBody | None = field(default=None, compare=False)


def remainder(completion: Completion, prefix: str, suffix: str) -> Completion | None:
    """Returns the rest of a completion in a newer text, or None where it no longer fits.

    The completion fits if the user only typed its beginning at the cursor. The editor may have
    inserted closing brackets and quotes at the start of the newer suffix; the remainder replaces
    them with its own.
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
    if closed and not (typed and closes(suffix[:closed], rest)):
        return None
    return replace(
        completion,
        prefix=prefix,
        suffix=suffix,
        text=rest,
        replaced=completion.replaced + closed,
        logprobs=after(completion.logprobs, len(typed)),
    )


def regained(completion: Completion, prefix: str, suffix: str) -> Completion | None:
    """Returns a shown completion with the text before it that the user has removed since.

    The completion fits if the user only removed text left of the cursor, on its line. Text that
    was never there before is not brought back: a completion of nothing, or indentation alone,
    which is removed to leave a scope.
    """
    if not (completion.text and suffix == completion.suffix):
        return None
    if len(prefix) >= len(completion.prefix) or not completion.prefix.startswith(prefix):
        return None
    removed = completion.prefix[len(prefix) :]
    if "\n" in removed or "\r" in removed:
        return None
    if not removed.strip() and not prefix.rpartition("\n")[2].strip():
        return None
    # The probabilities of what was removed are not known any more.
    text = removed + completion.text
    return replace(completion, prefix=prefix, suffix=suffix, text=text, logprobs=())


def closes(closers: str, rest: str) -> bool:
    """Returns whether all `closers` are closing characters that `rest` contains in this order."""
    characters = iter(rest)
    return all(closer in CLOSERS and closer in characters for closer in closers)


class ResultCache:
    """The latest completions: at most ENTRIES_MAX entries and CHARS_MAX characters of text."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str, str], Completion] = OrderedDict()
        self._num_chars = 0

    def put(self, uri: str, completion: Completion) -> None:
        """Stores a completion; it replaces an older one for the same text."""
        key = (uri, completion.prefix, completion.suffix)
        self._drop(key)
        self._entries[key] = completion
        self._num_chars += _size(completion)
        while len(self._entries) > ENTRIES_MAX or self._num_chars > CHARS_MAX:
            self._drop(next(iter(self._entries)))

    def find(self, uri: str, prefix: str, suffix: str) -> Completion | None:
        """Returns what is left of an earlier completion at this cursor, or None if there is none.

        Its text is empty where the engine has already answered with nothing. What was answered for
        this text, or while it was typed, goes before what was shown further to the right.
        """
        for fits in (remainder, regained):
            for key, completion in reversed(self._entries.items()):
                if key[0] == uri and (left := fits(completion, prefix, suffix)) is not None:
                    return left
        return None

    def clear(self, uri: str | None = None) -> None:
        """Removes the completions of one document, or all completions if `uri` is None."""
        for key in [key for key in self._entries if uri in (None, key[0])]:
            self._drop(key)

    def _drop(self, key: tuple[str, str, str]) -> None:
        if (completion := self._entries.pop(key, None)) is not None:
            self._num_chars -= _size(completion)


def _size(completion: Completion) -> int:
    return len(completion.prefix) + len(completion.suffix)
