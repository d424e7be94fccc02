"""The tokens of a suggestion with their probabilities. Pure.

Tokens are given as `engine.api.LogProbs`. A token belongs to a text's beginning if it starts in it;
one that only ends a line therefore belongs to the next line.
"""

from __future__ import annotations

from engine.api import LogProbs


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


def values_before(logprobs: LogProbs, end: int) -> list[float]:
    """Returns the log-probabilities of the tokens that start before an offset."""
    values: list[float] = []
    start = 0
    for token_end, value in logprobs:
        if start >= end:
            break
        values.append(value)
        start = token_end
    return values
