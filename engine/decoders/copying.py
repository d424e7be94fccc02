"""Copied drafts: the tokens that followed an earlier occurrence of the last tokens.

Code repeats itself, and looking up the last tokens in the prompt and the emitted text needs no
forward (prompt lookup decoding, Saxena 2023). A draft costs only the rows that verify it. Its
length is chosen by the cost of a step with more rows and by how often copies were right.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from engine.auto.step_times import StepTimes
from engine.decoders.strategy import DraftPlace, Progress, Task, before_stop, room_left

MATCH_MAX = 8  # tokens; copies after longer matches are hardly more often right
MATCH_MIN = 2  # tokens; one token alone is followed by too many different ones
# The probability that one more copied token is right, by the length of the match from MATCH_MIN on.
# Counted in Python packages with 600 tokens of context; between the first token's share and that of
# all tokens.
CHANCES = (0.50, 0.53, 0.64, 0.72, 0.78, 0.80, 0.87)
CHANCE_MAX = 0.98
RECORD_WEIGHT = 2.0  # right tokens after which a request's own record counts as much as CHANCES
GAIN_MIN = 1.02  # tokens per millisecond; a smaller gain is within the noise of the curve


def copied_draft(tokens: Sequence[int], length: int) -> tuple[tuple[int, ...], int]:
    """The tokens that followed the latest earlier occurrence of the last tokens.

    Args:
        length: the most tokens to return.

    Returns:
        The draft, which is empty if fewer than MATCH_MIN tokens match, and the number of tokens
        that matched.
    """
    data = array("q", tokens)
    size = data.itemsize
    haystack = data.tobytes()
    for match in range(min(MATCH_MAX, len(tokens) - 1), MATCH_MIN - 1, -1):
        needle = haystack[-match * size :]
        end = len(haystack) - size
        while (found := haystack.rfind(needle, 0, end)) >= 0:
            if found % size == 0:
                start = found // size + match
                return tuple(tokens[start : start + length]), match
            end = found + len(needle) - 1
    return (), 0


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that could be verified next.

    Attributes:
        tokens: the tokens after the bonus token, up to and including the first stop token.
        match: the number of tokens before them that matched; 0 if nothing was found.
    """

    tokens: tuple[int, ...] = ()
    match: int = 0


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """The results of copying in one request; the text shows whether an unverified copy was right.

    Attributes:
        hits: the number of copied tokens that were right.
        expected: the number that CHANCES predict.
    """

    hits: float = 0.0
    expected: float = 0.0

    def after(self, copy: Copy, decided: Sequence[int]) -> CopyRecord:
        """The record once the tokens after the bonus token are decided; counts a copy up to its
        first wrong token."""
        hits, tried = 0, 0
        for guess, token in zip(copy.tokens, decided, strict=False):
            tried += 1
            if guess != token:
                break
            hits += 1
        if not tried:
            return self
        return CopyRecord(self.hits + hits, self.expected + tried * _chance(copy.match))

    def chance(self, match: int) -> float:
        """The probability that one more copied token is right if all before it were."""
        bias = (self.hits + RECORD_WEIGHT) / (self.expected + RECORD_WEIGHT)
        return min(_chance(match) * bias, CHANCE_MAX)


def _chance(match: int) -> float:
    return CHANCES[match - MATCH_MIN]


def find_copy(progress: Progress, task: Task) -> Copy:
    """The tokens that could be copied after the bonus token, as many as could be emitted."""
    request = task.request
    count = min(request.block.length, room_left(progress, task)) - 1
    if progress.finished is not None or count <= 0:
        return Copy()
    tokens, match = copied_draft((*request.prompt, *progress.committed), count)
    for index, token in enumerate(tokens):
        if token in request.stop_token_ids:
            return Copy(tokens[: index + 1], match)
    return Copy(tokens, match)


def expected_tokens(chance: float, drafts: int) -> float:
    """The expected number of tokens that verifying this number of drafts emits, if each is right
    with this chance when all before it are: 1 + c + c^2 + ... + c^drafts (Leviathan et al. 2023,
    eq. 1)."""
    if chance >= 1:
        return drafts + 1.0
    return (1 - chance ** (drafts + 1)) / (1 - chance)


@dataclass(frozen=True, slots=True)
class CopyChoice:
    """The number of copied tokens to verify, and the expected tokens per unit of the curve."""

    drafts: int
    rate: float


def best_length(copy: Copy, record: CopyRecord, costs: StepTimes) -> CopyChoice:
    """The length with the most expected tokens per millisecond; 0 if none beats a single row."""
    best = CopyChoice(0, 1 / costs.at(1))
    if not copy.tokens:
        return best
    chance = record.chance(copy.match)
    needed = best.rate * GAIN_MIN
    for drafts in range(1, len(copy.tokens) + 1):
        rate = expected_tokens(chance, drafts) / costs.at(drafts + 1)
        if rate > max(needed, best.rate):
            best = CopyChoice(drafts, rate)
    return best


def shown(drafts: Sequence[int], chance: float, task: Task) -> tuple[DraftPlace, ...]:
    """Copied drafts as places; the confidence is the chance that all up to a place are right."""
    places = (DraftPlace(token, chance ** (index + 1)) for index, token in enumerate(drafts))
    return before_stop(tuple(places), task)
