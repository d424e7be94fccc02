"""A model and a cache that record each forward: which row decided a token, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.api import Request, Sampling
from engine.cache.arrays import ArrayCache
from engine.cache.storage import KVCache
from engine.decoders import strategy_for
from engine.loop import decode
from engine.reading import Reading
from engine.step import CACHED, Step, chain, visible_rows
from tests.engine.subjects import CAPTURED, Subject


@dataclass
class Witness:
    """A cache that records the tokens that were really kept."""

    inner: KVCache | ArrayCache
    tokens: list[int] = field(default_factory=list)

    def open(
        self, prompt: tuple[int, ...], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]:
        sequence, cached = self.inner.open(prompt, tokens_max, exact=exact)
        self.tokens = list(prompt[:cached])
        return sequence, cached

    def keep(self, step: Step, rows: tuple[int, ...]) -> None:
        self.inner.keep(step, rows)
        self.tokens += [step.token[row] for row in rows]

    def close(self, sequence: int) -> None:
        self.inner.close(sequence)


@dataclass(frozen=True)
class Forward:
    """One forward: its rows, the tokens that were cached before it, and the logits it gave."""

    step: Step
    cached: tuple[int, ...]
    logits: Tensor

    def path(self, row: int) -> tuple[int, ...]:
        """The tokens that a row descends from, its own the last."""
        tokens: list[int] = []
        while row != CACHED:
            tokens.append(self.step.token[row])
            row = self.step.parent[row]
        return (*self.cached, *reversed(tokens))

    def sees_its_path_alone(self, row: int) -> bool:
        """Whether no row but the ancestors and itself is visible to it."""
        bits, ancestor = 0, row
        while ancestor != CACHED:
            bits |= 1 << ancestor
            ancestor = self.step.parent[ancestor]
        return visible_rows(self.step)[row] == bits

    def causal_rows(self, position: int) -> dict[int, Tensor]:
        """The logits of the rows at a position that were read and may decide a token."""
        step = self.step
        return {
            row: self.logits[index]
            for index, row in enumerate(step.read)
            if step.position[row] == position and not step.group[row] and not step.drafter[row]
        }


@dataclass(frozen=True)
class Decision:
    """An emitted token and the row that decided it."""

    token: int
    row: int
    logits: Tensor  # (V,) fp32
    forward: Forward


def certified(subject: Subject, request: Request) -> list[Decision]:
    """Decodes a request in a causal mode and checks at each forward that a committed token is the
    decision of one row, which follows exactly the prompt and the emitted text."""
    forwards: list[Forward] = []

    def model(step: Step, witness: Witness, sampling: Sampling) -> tuple[Reading, ...]:
        cached = tuple(witness.tokens)
        logits = subject.model.logits(step, witness.inner)
        forwards.append(Forward(step, cached, logits))
        if subject.kind in CAPTURED:  # its readings are made where no logits are stored
            return subject.model(step, witness.inner, sampling)
        return subject.model.readings(logits, step, sampling)

    witness = Witness(subject.cache())
    strategy = strategy_for(request.mode, subject.traits)
    decisions: list[Decision] = []
    for state in decode(model, witness, strategy, request, subject.traits):
        committed = state.progress.committed
        for index in range(len(decisions), len(committed)):
            text = (*request.prompt, *committed[:index])
            rows = forwards[-1].causal_rows(len(text) - 1)
            assert len(rows) == 1, "a place is decided by one row"
            ((row, logits),) = rows.items()
            assert forwards[-1].path(row) == text
            assert forwards[-1].sees_its_path_alone(row)
            decisions.append(Decision(committed[index], row, logits, forwards[-1]))
    return decisions


def replayed(subject: Subject, request: Request, tokens: list[int]) -> Tensor:
    """(len(tokens), V): the logits of one pass over prompt and text that decide each token."""
    whole, first = (*request.prompt, *tokens[:-1]), len(request.prompt) - 1
    cache = subject.cache()
    sequence, _ = cache.open(whole, len(whole), exact=request.exact)
    read = tuple(range(first, len(whole)))
    return subject.model.logits(chain(whole, 0, read=read, sequence=sequence), cache)


def greedy(logits: Tensor, mask_id: int | None) -> int:
    """Of (V,) fp32: the argmax, the lowest id where several are equal, the mask left out."""
    assert logits.dtype == torch.float32
    allowed = [(-value, token) for token, value in enumerate(logits.tolist()) if token != mask_id]
    return min(allowed)[1]
