"""Copied drafts: what followed the last tokens when they stood there before, and whether it pays.

Code repeats itself. Looking the last few tokens up in the prompt and the emitted text costs no
forward (prompt lookup decoding, Saxena 2023). A draft only costs the rows that verify it, so that
its length is chosen by what a step of more rows costs here and by how often copies were right.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from engine.auto.step_times import StepTimes
from engine.decoders.strategy import DraftPlace, Progress, Task, before_stop, room_left

MATCH_MAX = 8  # tokens: longer matches are hardly more often right
MATCH_MIN = 2  # one token alone is followed by too many different ones
# That one more copied token is right, by the number of tokens that matched, from MATCH_MIN on:
# counted in Python packages, 600 tokens of context; between the first token's share and all's.
CHANCES = (0.50, 0.53, 0.64, 0.72, 0.78, 0.80, 0.87)
CHANCE_MAX = 0.98
RECORD_WEIGHT = 2.0  # tokens: how many right ones of its own a request needs to be believed
GAIN_MIN = 1.02  # of tokens per millisecond: below, the curve's noise decides, not the draft


def copied_draft(tokens: Sequence[int], length: int) -> tuple[tuple[int, ...], int]:
    """What followed the last tokens at their latest earlier occurrence.

    Args:
        length: most tokens wanted.

    Returns:
        The draft, empty if nothing of MATCH_MIN tokens matches, and how many tokens matched.
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
    """What could be verified next.

    Attributes:
        tokens: behind the bonus token, up to the first stop token, which is the last one.
        match: how many tokens before them were found again; 0 where nothing was.
    """

    tokens: tuple[int, ...] = ()
    match: int = 0


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """How copies did in this request, verified or not: the text shows it afterwards.

    Attributes:
        hits: copied tokens that came true.
        expected: how many should have by CHANCES alone.
    """

    hits: float = 0.0
    expected: float = 0.0

    def after(self, copy: Copy, decided: Sequence[int]) -> CopyRecord:
        """The record once the tokens after the bonus token are known, up to the first wrong one."""
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
        """That one more copied token is right, where all before it were."""
        bias = (self.hits + RECORD_WEIGHT) / (self.expected + RECORD_WEIGHT)
        return min(_chance(match) * bias, CHANCE_MAX)


def _chance(match: int) -> float:
    return CHANCES[match - MATCH_MIN]


def find_copy(progress: Progress, task: Task) -> Copy:
    """What could be copied behind the bonus token, as far as it could be emitted."""
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
    """Emitted by verifying so many drafts, each right with this chance if all before it are:
    1 + c + c^2 + ... + c^drafts (Leviathan et al. 2023, eq. 1)."""
    if chance >= 1:
        return drafts + 1.0
    return (1 - chance ** (drafts + 1)) / (1 - chance)


@dataclass(frozen=True, slots=True)
class CopyChoice:
    """How much of a copy to verify; `rate` is the expected tokens per unit of the curve."""

    drafts: int
    rate: float


def best_length(copy: Copy, record: CopyRecord, costs: StepTimes) -> CopyChoice:
    """The length with the most expected tokens per millisecond; 0 where none beats a plain row."""
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
    """Copied drafts as places, each as likely as all before it being right makes it."""
    places = (DraftPlace(token, chance ** (index + 1)) for index, token in enumerate(drafts))
    return before_stop(tuple(places), task)
