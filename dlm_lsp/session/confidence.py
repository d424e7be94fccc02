"""How sure the model is of a suggestion, by the probabilities of its own tokens. Pure.

Tokens are given as `engine.api.LogProbs`. A token belongs to a text's beginning if it starts in it;
one that only ends a line therefore belongs to the next line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from engine.api import LogProbs

# Where a suggestion stands: on a blank line, behind text, or before other text than closers.
PlaceKind = Literal["blank", "behind", "between"]
PLACE_KINDS: tuple[PlaceKind, ...] = ("blank", "behind", "between")

_LINE_BREAK = re.compile(r"[\r\n]")
_NEARBY_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Confidence:
    """What the tokens' probabilities say of a text; closers that shaping added count as certain.

    Attributes:
        first: the probability of the first token.
        line: that of the whole first line: the product of its tokens'.
        line_mean: the geometric mean of the first line's tokens.
        mean: the geometric mean of all tokens.
        least: the smallest probability of a token.
        tokens: the number of tokens.
    """

    first: float
    line: float
    line_mean: float
    mean: float
    least: float
    tokens: int


def confidence_of(text: str, logprobs: LogProbs) -> Confidence | None:
    """Returns the confidence in a text, or None if its tokens are unknown."""
    all_ = _values(logprobs, len(text))
    if not all_:
        return None
    line = _values(logprobs, first_line_end(text)) or all_[:1]
    return Confidence(
        first=math.exp(all_[0]),
        line=math.exp(sum(line)),
        line_mean=math.exp(sum(line) / len(line)),
        mean=math.exp(sum(all_) / len(all_)),
        least=math.exp(min(all_)),
        tokens=len(all_),
    )


def first_line_end(text: str) -> int:
    """Returns the length of the first line that holds text, with what stands before it."""
    start = len(text) - len(text.lstrip())
    found = _LINE_BREAK.search(text, start)
    return len(text) if found is None else found.start()


def aligned(logprobs: LogProbs, raw: str, shown: str) -> LogProbs:
    """Returns the tokens of the model's text with their ends in the shaped text.

    Shaping changes spaces, cuts the text and adds closers. Tokens that are cut away are left out.
    """
    solid = [index for index, one in enumerate(shown) if not one.isspace()]
    read, moved = 0, list[tuple[int, float]]()
    count = at = 0  # The characters other than spaces that are the same, and where they end.
    for end, value in logprobs:
        before, is_cut = count, False
        for one in raw[read:end]:
            if one.isspace():
                continue
            is_cut = count == len(solid) or shown[solid[count]] != one
            if is_cut:
                break
            at = solid[count] + 1
            count += 1
        if is_cut and count == before:
            break
        moved.append((at, value))
        if is_cut:
            break
        read = max(read, end)
    return tuple(moved)


def after(logprobs: LogProbs, typed: int) -> LogProbs:
    """Returns the tokens of the text after its first `typed` characters.

    A token of which the beginning was typed keeps its probability; that of its rest is larger.
    """
    rest: list[tuple[int, float]] = []
    start = 0
    for end, value in logprobs:
        if end > typed or start >= typed:
            rest.append((end - typed, value))
        start = end
    return tuple(rest)


def place_kind(prefix: str, suffix: str) -> PlaceKind:
    """Returns the kind of place between two parts of a document."""
    before = _LINE_BREAK.split(prefix[-_NEARBY_CHARS:])[-1]
    behind = _LINE_BREAK.split(suffix[:_NEARBY_CHARS], maxsplit=1)[0]
    if behind.strip(" \t)]}>\"'`;,:"):
        return "between"
    return "behind" if before.strip() else "blank"


def _values(logprobs: LogProbs, end: int) -> list[float]:
    """Returns the logarithms of the tokens that start before an offset."""
    values: list[float] = []
    start = 0
    for token_end, value in logprobs:
        if start >= end:
            break
        values.append(value)
        start = token_end
    return values
