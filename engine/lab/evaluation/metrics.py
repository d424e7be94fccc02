"""How a completion is compared with the text that stood in the hole. Pure.

Words are identifiers, numbers and single signs instead of tokens, so that checkpoints with
different tokenizers can be compared. White space at the end of a text never counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")
_LENGTHS = ((0, 3), (4, 8), (9, 20), (21, None))  # words of a reference, by bucket
_WORDS_OFF_MIN, _WORDS_OFF_SHARE = 2, 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """A completion beside its reference.

    Attributes:
        exact: whether the texts are equal.
        first_line: whether their first lines are.
        similarity: 1 - Levenshtein distance / length of the longer text; 1 for two empty ones.
        wrong_length: see `has_wrong_length`.
    """

    exact: bool
    first_line: bool
    similarity: float
    wrong_length: bool


def compare(completion: str, reference: str) -> Comparison:
    """Compares a completion with its reference."""
    one, other = completion.rstrip(), reference.rstrip()
    return Comparison(
        exact=one == other,
        first_line=_first_line(one) == _first_line(other),
        similarity=similarity(one, other),
        wrong_length=has_wrong_length(one, other),
    )


def has_wrong_length(completion: str, reference: str) -> bool:
    """Whether a completion has the wrong length, whatever it says.

    It has another number of lines, without blank ones, or it has one line as the reference, and the
    numbers of words differ by more than 2 and by more than half of the reference's.
    """
    lines, wanted = (
        sum(bool(line.strip()) for line in text.split("\n")) for text in (completion, reference)
    )
    if max(wanted, 1) != max(lines, 1):
        return True
    if wanted > 1:
        return False
    off = abs(count_words(completion) - count_words(reference))
    return off > max(_WORDS_OFF_MIN, _WORDS_OFF_SHARE * count_words(reference))


def similarity(one: str, other: str) -> float:
    """1 - Levenshtein distance over the longer text's length, in characters."""
    longest = max(len(one), len(other))
    return 1.0 - edit_distance(one, other) / longest if longest else 1.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of a character."""
    codes = np.array([ord(character) for character in other], dtype=np.int64)
    steps = np.arange(len(other) + 1)
    row = steps
    for count, character in enumerate(one, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(character)))
        # Insertions chain along the row: the running minimum, in coordinates where one costs 0.
        row = np.minimum.accumulate(np.concatenate(([count], best)) - steps) + steps
    return int(row[-1])


def count_words(text: str) -> int:
    """The number of identifiers, numbers and single signs."""
    return len(_WORD.findall(text))


def length_bucket(reference: str) -> str:
    """The bucket of a reference's length, such as "4-8 words"."""
    count = count_words(reference)
    for low, high in _LENGTHS:
        if high is None:
            return f"{low}+ words"
        if count <= high:
            return f"{low}-{high} words"
    raise AssertionError("the last bucket is open")


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that this share of the values does not exceed; None without values."""
    if not values:
        return None
    return float(np.percentile(values, share * 100, method="inverted_cdf"))


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].rstrip()
