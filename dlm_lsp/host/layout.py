"""Lays out text with marks as the tokens of a prompt, so that typing changes only its tail.

    <s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE]

Models that were trained on whole repositories get texts of other files before it. Pure: the same
pieces, budget and tokenizer give the same prompt. The marks of the answer, sent back with the next
keystroke, keep every piece starting where it did, and with it almost the whole prompt in the K/V
cache. Work is bounded by the budget, not by the size of the document. Knows neither files nor
requests, and imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine.errors import RequestError
from engine.prompt import (
    BEGIN,
    FAR_TOKENS_MAX,
    MARKERS_MAX,
    NEAR_LINES,
    PREFIX_TOKENS_MAX,
    Infill,
    SentinelFormat,
    prompt_of,
)

# The limit of far and near suffix together, so that about two lines of near suffix leave the far
# suffix its trained length.
_SUFFIX_TOKENS = FAR_TOKENS_MAX + 32
# Code has 3 to 4 characters a token. Text beyond this many characters a token is not tokenized.
_CHARS_PER_TOKEN_MAX = 12
NAMED_CHARS = 600  # A longer text tells its language itself, and keeps its prompt free of the name.
_NAME_TOKENS = 24
RELATED_TOKENS = 512  # of other files, unless a setting says otherwise
_RELATED_MIN = 32  # Fewer tokens of a file are left out.
_LINE_END = re.compile(r"\r\n|\n|\r")


class TextEncoder(Protocol):
    """The part of `engine.model.tokenizer.Tokenizer` that a layout needs."""

    @property
    def infill(self) -> Infill | None: ...
    def id_of(self, token: str) -> int | None: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]: ...


@dataclass(frozen=True, slots=True)
class TextPieces:
    """The text around a cursor, without lone surrogates.

    Attributes:
        prefix, suffix: the text before and after the cursor.
        prefix_start: offset into `prefix` where the prompt's prefix starts; None lets it be chosen.
        far_suffix_start: offset into `suffix` where the far suffix starts; None lets it be chosen.
        name: the file's name; empty if it is not known.
        related: names and texts of other files, the most useful one last.
        repository: the name of the repository; empty if it is not known.
    """

    prefix: str
    suffix: str
    prefix_start: int | None = None
    far_suffix_start: int | None = None
    name: str = ""
    related: tuple[tuple[str, str], ...] = ()
    repository: str = ""


@dataclass(frozen=True, slots=True)
class PromptBudget:
    """The largest number of tokens of each side, and of other files with all names; `suffix` counts
    far and near suffix together."""

    prefix: int
    suffix: int
    related: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """A prompt and the marks it uses.

    Attributes:
        prompt: the token ids, at least one.
        prefix_start, far_suffix_start: the marks used, to be sent back with the next request.
            `prefix_start` is the requested mark unless the text after it exceeded the budget.
        suffix: the part of the prompt after the prefix, as in `engine.api.Request.suffix`.
        prefix_tokens: the number of tokens of the prefix.
    """

    prompt: tuple[int, ...]
    prefix_start: int
    far_suffix_start: int
    suffix: tuple[int, int] = (0, 0)
    prefix_tokens: int = 0


def budget_for(
    context_max: int,
    tokens_max: int,
    *,
    prefix: int | None = None,
    suffix: int | None = None,
    related: int | None = 0,
) -> PromptBudget:
    """Returns the budget within a context that must also hold the completion.

    The suffix never takes more than a third, and other files never more than a quarter, so that a
    small context still holds enough prefix.

    Args:
        context_max: the largest number of tokens of prompt and completion together.
        tokens_max: the largest number of tokens of the completion.
        prefix, suffix: the requested tokens; None means those of the bundled model's training.
        related: the requested tokens of other files; None means RELATED_TOKENS.

    Raises:
        RequestError: the completion leaves no room for a prompt.
    """
    room = context_max - tokens_max - MARKERS_MAX
    if room < 1:
        raise RequestError(
            f"limits.tokensMax is {tokens_max}; the model's context holds {context_max} tokens, "
            "including the prompt.",
            remedy=f"Use at most {max(0, context_max - MARKERS_MAX - 1)}.",
            param="limits.tokensMax",
        )
    related_tokens = min(RELATED_TOKENS if related is None else related, room // 4)
    room -= related_tokens
    suffix_tokens = min(_SUFFIX_TOKENS if suffix is None else suffix, room // 3)
    prefix_tokens = min(PREFIX_TOKENS_MAX if prefix is None else prefix, room - suffix_tokens)
    return PromptBudget(prefix_tokens, suffix_tokens, related_tokens)


def lay_out(pieces: TextPieces, encoder: TextEncoder, budget: PromptBudget) -> Layout:
    """Returns the prompt for these pieces.

    Raises:
        RequestError: a mark lies outside its text, or the prompt would be empty.
    """
    _check_mark("marks.prefixStart", pieces.prefix_start, pieces.prefix)
    _check_mark("marks.farSuffixStart", pieces.far_suffix_start, pieces.suffix)
    infill, name = encoder.infill, _name(pieces, encoder)
    repository, files = _related(pieces, encoder, budget.related - len(name))
    if not files:
        name = [] if _is_long(pieces) or len(name) > budget.prefix // 4 else name
        budget = replace(budget, prefix=budget.prefix - len(name))
    start, prefix = _prefix(pieces.prefix, pieces.prefix_start, encoder, budget.prefix)
    far_start, far, near = _suffix(pieces.suffix, pieces.far_suffix_start, encoder, budget.suffix)
    begin = encoder.id_of(BEGIN)
    prompt = prompt_of(infill, begin, far=far, prefix=prefix, near=near)
    suffix_start, suffix_end = infill.suffix(far, prefix, near) if infill else (0, 0)
    if (name or files) and isinstance(infill, SentinelFormat):
        whole = infill.in_repository(prompt, name, files, repository)
        moved = len(whole) - len(prompt) if suffix_end else 0
        prompt, suffix_start, suffix_end = whole, suffix_start + moved, suffix_end + moved
    if not prompt:
        raise RequestError(
            "prefix is empty, and this checkpoint has no begin token to start from.",
            remedy="Ask after at least one character.",
            param="prefix",
        )
    return Layout(prompt, start, far_start, (suffix_start, suffix_end), len(prefix))


def _is_long(pieces: TextPieces) -> bool:
    """Returns whether the text tells its language by itself."""
    return len(pieces.prefix) + len(pieces.suffix) >= NAMED_CHARS


def _name(pieces: TextPieces, encoder: TextEncoder) -> list[int]:
    """Returns the tokens of the file's name, where the model knows a place for it and either the
    text is too short to tell its language, or other files stand before it."""
    infill = encoder.infill
    is_of_use = pieces.related or not _is_long(pieces)
    if not pieces.name or not is_of_use or not isinstance(infill, SentinelFormat):
        return []
    return [] if infill.file is None else encoder.encode(f"{pieces.name}\n")[-_NAME_TOKENS:]


def _related(
    pieces: TextPieces, encoder: TextEncoder, budget: int
) -> tuple[list[int], list[list[int]]]:
    """Returns the tokens of the repository's name and of the other files that the budget holds.

    The last files are taken first; the one that no longer fits is cut at its end.
    """
    infill = encoder.infill
    if not isinstance(infill, SentinelFormat) or infill.file is None:
        return [], []
    repository = encoder.encode(f"{pieces.repository}\n")[-_NAME_TOKENS:]
    files: list[list[int]] = []
    left = budget - len(repository) - 1
    for name, text in reversed(pieces.related):
        if left <= _RELATED_MIN:
            break
        ending = "" if text.endswith("\n") else "\n"
        whole = f"{name}\n{text}{ending}"
        tokens = encoder.encode(whole[: left * _CHARS_PER_TOKEN_MAX])[: left - 1]
        files.insert(0, tokens)
        left -= len(tokens) + 1
    return (repository, files) if files else ([], [])


def _check_mark(name: str, mark: int | None, text: str) -> None:
    if mark is not None and not 0 <= mark <= len(text):
        raise RequestError(
            f"{name} is {mark}; its text has {len(text)} characters.",
            remedy="Move marks with the edits, or leave them out.",
            param=name,
        )


def _prefix(
    text: str, mark: int | None, encoder: TextEncoder, budget: int
) -> tuple[int, Sequence[int]]:
    """Returns the start of the prefix, which is the mark if the text fits, and its tokens.

    If the text exceeds the budget, its oldest quarter is cut, so that the new mark stays in place
    for the next keystrokes instead of moving by a token with each.
    """
    start = 0 if mark is None else mark
    readable = max(start, len(text) - budget * _CHARS_PER_TOKEN_MAX)
    tokens, offsets = encoder.encode_with_offsets(text[readable:])
    if readable == start and len(tokens) <= budget:
        return start, tokens
    start = readable + _shortened(text[readable:], offsets, budget)
    tokens = encoder.encode(text[start:])
    # A cut inside a word or a character can add more tokens than it removes.
    return start, tokens[max(0, len(tokens) - budget) :]


def _shortened(text: str, offsets: Sequence[int], budget: int) -> int:
    """Returns the offset at which the last three quarters of a budget start.

    The offset moves to a line start before the last half, or, in a giant line, stays between two
    characters.
    """
    cut = _tail_start(text, offsets, budget - budget // 4)
    latest = _tail_start(text, offsets, budget - budget // 2)
    line = _line_start(text, cut)
    return line if line is not None and line <= latest else cut


def _tail_start(text: str, offsets: Sequence[int], tokens: int) -> int:
    """Returns where the last `tokens` tokens start, limited by _CHARS_PER_TOKEN_MAX."""
    by_tokens = offsets[-tokens] if len(offsets) > tokens else 0
    return max(by_tokens, len(text) - tokens * _CHARS_PER_TOKEN_MAX)


def _line_start(text: str, offset: int) -> int | None:
    """Returns the first line start at or after an offset, or None."""
    if offset == 0:
        return 0
    # The search begins one character earlier, so that it finds a line start at the offset itself
    # and does not take an offset between \r and \n for one.
    end = _LINE_END.search(text, offset - 1)
    return None if end is None else end.end()


def _suffix(
    text: str, mark: int | None, encoder: TextEncoder, budget: int
) -> tuple[int, Sequence[int], Sequence[int]]:
    """Returns the start of the far suffix, its tokens and the tokens of the near suffix.

    The near suffix gets a third of the budget. If the text up to the mark exceeds it, a new mark
    is set, so that near and far suffix stay contiguous for lines of ordinary length.
    """
    near_budget = budget // 3
    start = _lines_below(text, NEAR_LINES) if mark is None else mark
    near = _head(text[:start], encoder, near_budget + 1)
    if mark is not None and len(near) > near_budget:
        start = min(start, _lines_below(text, NEAR_LINES))
        near = _head(text[:start], encoder, near_budget)
    far = _head(text[start:], encoder, budget - near_budget)
    return start, far, near[:near_budget]


def _lines_below(text: str, lines: int) -> int:
    """Returns the offset at which line number `lines` after the first starts, or the text's end."""
    offset = 0
    for _ in range(lines):
        end = _LINE_END.search(text, offset)
        if end is None:
            return len(text)
        offset = end.end()
    return offset


def _head(text: str, encoder: TextEncoder, tokens_max: int) -> Sequence[int]:
    """Returns the first tokens of a text."""
    return encoder.encode(text[: tokens_max * _CHARS_PER_TOKEN_MAX])[:tokens_max]
