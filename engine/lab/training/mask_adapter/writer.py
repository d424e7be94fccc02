"""The middles that a model writes, through the CPU's engine: several sequences in every forward.

The counterpart of `teacher.write` for the CPU, where the integer graph that is served computes far
faster than torch does. The written tokens are those of mode "ar", up to near-ties: a row's sums are
rounded otherwise where other rows stand beside it, so that of two tokens with almost the same logit
either may come first. (Exact requests would exclude this, and would compute every sequence alone.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.cache.arrays import ArrayCache
from engine.cache.pages import PAGE_TOKENS
from engine.step import CACHED, Step, chain

# Sequences that are written at once. More rows of a forward cost little, but every row attends over
# the keys of all sequences, those of the others hidden.
SEQUENCES_AT_ONCE = 8
_PREFILL_ROWS = 64

Tokens = NDArray[np.int32]


class Model(Protocol):
    """What gives logits for a step's rows, such as `engine.model.onnx.model.OnnxModel`."""

    def logits(self, step: Step, cache: ArrayCache) -> NDArray[np.float32]:
        """(len(step.read), V)."""
        ...


@dataclass(frozen=True, slots=True)
class WrittenArrays:
    """As `teacher.Written`, in numpy; places after a sequence's end are 0.

    Attributes:
        tokens, greedy: (N, T) int32.
        ends: (N,) int64.
    """

    tokens: Tokens
    greedy: Tokens
    ends: NDArray[np.int64]


@dataclass(slots=True)
class _Open:
    """A sequence that is being written: its row of the arrays, and its known tokens."""

    row: int
    sequence: int
    length: int


def cache_tokens(length: int, at_once: int = SEQUENCES_AT_ONCE) -> int:
    """The capacity of a cache for so many sequences of this length."""
    return at_once * (length + 2 * PAGE_TOKENS)


def write_served(
    model: Model,
    cache: ArrayCache,
    prompts: Tokens,
    count: int,
    end_ids: Sequence[int],
    at_once: int = SEQUENCES_AT_ONCE,
) -> WrittenArrays:
    """Prompts (N, P) and up to `count` greedy tokens after each, until an end token.

    A sequence that has ended makes room for the next one at once.

    Args:
        cache: with room for `cache_tokens(P + count, at_once)`.
    """
    number, start = prompts.shape
    found = WrittenArrays(
        np.zeros((number, start + count), np.int32),
        np.zeros((number, start + count), np.int32),
        np.zeros(number, np.int64),
    )
    found.tokens[:, :start] = prompts
    waiting, opened = list(range(number))[::-1], list[_Open]()
    while waiting or opened:
        while waiting and len(opened) < at_once:
            opened.append(_begin(model, cache, found, waiting.pop(), start))
        step = _next(opened, found.tokens)
        best = model.logits(step, cache).argmax(axis=-1)
        for row, each in enumerate(opened):
            cache.keep(step, (row,))
            found.greedy[each.row, each.length - 1] = best[row]
        opened = list(_unfinished(opened, cache, found, end_ids))
    return found


def _begin(model: Model, cache: ArrayCache, found: WrittenArrays, row: int, start: int) -> _Open:
    """Opens a sequence, computes its prompt, and writes the first token after it."""
    tokens = tuple(found.tokens[row, :start].tolist())
    # Of one token, so that nothing is taken from earlier prompts: all rows' logits are needed.
    sequence, cached = cache.open(tokens[:1], found.tokens.shape[1])
    assert cached == 0
    for low in range(0, start, _PREFILL_ROWS):
        part = tokens[low : low + _PREFILL_ROWS]
        step = chain(part, low, read=tuple(range(len(part))), sequence=sequence)
        found.greedy[row, low : low + len(part)] = model.logits(step, cache).argmax(axis=-1)
        cache.keep(step, range(len(part)))
    found.tokens[row, start] = found.greedy[row, start - 1]
    return _Open(row, sequence, start + 1)


def _next(opened: Sequence[_Open], tokens: Tokens) -> Step:
    """One row for each sequence: its last token."""
    rows = len(opened)
    return Step(
        token=tuple(int(tokens[each.row, each.length - 1]) for each in opened),
        sequence=tuple(each.sequence for each in opened),
        position=tuple(each.length - 1 for each in opened),
        parent=(CACHED,) * rows,
        group=(0,) * rows,
        drafter=(False,) * rows,
        read=tuple(range(rows)),
    )


def _unfinished(
    opened: Sequence[_Open], cache: ArrayCache, found: WrittenArrays, end_ids: Sequence[int]
) -> Iterable[_Open]:
    """The sequences that go on, each with its next token; the others are closed."""
    for each in opened:
        last = int(found.tokens[each.row, each.length - 1])
        if last in end_ids or each.length == found.tokens.shape[1]:
            cache.close(each.sequence)
            found.ends[each.row] = each.length
            continue
        found.tokens[each.row, each.length] = found.greedy[each.row, each.length - 1]
        each.length += 1
        yield each
