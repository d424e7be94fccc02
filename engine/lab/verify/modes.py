"""Decodes in every mode on a loaded network, and judges whether a mode emits what `ar` emits.

Each request has an empty cache of its own. A speculative mode may differ from `ar` only at a
near-tie: the two logits are closer than twice the difference of the same row's logits in steps of
one row and of many. That is rounding; anything else is a mistake. Block diffusion decides
differently and is only reported. The examination, the benchmarks and training share this module.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.api import BlockOptions, Limits, Request, Sampling
from engine.auto.step_times import prefill_rows
from engine.cache.pages import PAGE_TOKENS
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders import strategy_for
from engine.decoders.strategy import Strategy, Traits
from engine.loop import decode
from engine.model.readout import read
from engine.model.runner import ModelRunner
from engine.reading import Reading
from engine.step import Step, chain

LOSSLESS = ("linear_spec", "quadratic_spec", "pruned_spec", "copy_spec")
QUADRATIC_LENGTH = 8  # B (B + 1) rows a forward: 72, against 1,056 for a block of 32
NOISE_ROWS = 32  # rows of the steps whose logits are compared with those of one row
_NOISE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One request's tokens; `seconds` and `forwards` are those after the prompt, and `cycles` the
    forwards among them that emitted or ended."""

    tokens: tuple[int, ...]
    ended: bool
    forwards: int
    cycles: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What `ar` emitted after one prompt.

    Attributes:
        logits: (tokens, V) fp32, the row that decided each token.
        noise: the largest difference to the same rows in steps of NOISE_ROWS rows.
    """

    decoded: Decoded
    logits: Tensor
    noise: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a mode first differs from `ar`.

    Attributes:
        index: the number of equal tokens before it.
        gap: the logit of `ar`'s token minus that of the mode's token; never negative.
        noise: how much rounding changes a logit.
    """

    index: int
    gap: float
    noise: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding explains the difference: each of the two logits is off by the noise."""
        return self.gap <= _NOISE_FACTOR * self.noise


class Runner:
    """Decodes one request at a time, each with an empty cache."""

    def __init__(self, model: ModelRunner) -> None:
        self._model = model
        self._config = model.network.config
        self._traits = Traits(
            self._config.mask_id,
            has_drafter=model.adapter is not None,
            draft_masks=model.draft_masks,
        )

    def request(
        self, prompt: Sequence[int], mode: str, tokens_max: int, stops: Sequence[int] = ()
    ) -> Request:
        """A greedy request in the checkpoint's blocks, or shorter ones for `quadratic_spec`."""
        length = self._config.block_length
        if mode == "quadratic_spec":
            length = min(length, QUADRATIC_LENGTH)
        return Request(
            tuple(prompt),
            mode,
            Limits(tokens_max),
            block=BlockOptions(length),
            stop_token_ids=tuple(stops),
        )

    def decode(
        self,
        request: Request,
        strategy: Strategy[Any] | None = None,
        cache: KVCache | None = None,
    ) -> Decoded:
        """Decodes one request to its end.

        Args:
            strategy: used instead of the mode's own one.
            cache: used instead of an empty one.
        """
        return self._decode(self._model, request, strategy, cache)

    def reference(self, request: Request) -> Reference:
        """What `ar` emits, with the deciding logits."""
        request = replace(request, mode="ar")
        recorder = _Recorder(self._model)
        decoded = self._decode(recorder, request)
        logits = torch.cat(recorder.read)[: len(decoded.tokens)]
        many = self._deciding_logits(request, decoded.tokens)
        return Reference(decoded, logits, float((many - logits).abs().max()))

    def cached_logits(self, tokens: Sequence[int]) -> Tensor:
        """(T, V) logits of all rows, in two steps, so that the second one reads the cache."""
        half = len(tokens) // 2
        cache = self.new_cache(len(tokens))
        sequence, _ = cache.open(tuple(tokens), len(tokens))
        logits: list[Tensor] = []
        for start, end in ((0, half), (half, len(tokens))):
            read = tuple(range(end - start))
            step = chain(tuple(tokens[start:end]), start, read=read, sequence=sequence)
            logits.append(self._model.logits(step, cache))
            cache.keep(step, read)
        return torch.cat(logits)

    def _deciding_logits(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """(len(tokens), V) fp32 logits of the rows that decide `tokens`. The prompt has the steps
        of decoding; later steps have NOISE_ROWS rows."""
        prompt, whole = len(request.prompt), (*request.prompt, *tokens[:-1])
        cache = self.new_cache(len(whole))
        sequence, _ = cache.open(request.prompt, len(whole), exact=request.exact)
        logits: list[Tensor] = []
        start = 0
        while start < len(whole):
            is_prompt = start < prompt
            rows = prefill_rows(self._traits.costs) if is_prompt else NOISE_ROWS
            part = whole[start : min(start + rows, prompt if is_prompt else len(whole))]
            read = tuple(row for row in range(len(part)) if start + row >= prompt - 1)
            step = chain(part, start, read=read, sequence=sequence)
            logits.append(self._model.logits(step, cache))
            cache.keep(step, tuple(range(step.rows)))
            start += step.rows
        return torch.cat(logits)

    def new_cache(self, tokens: int) -> KVCache:
        """An empty cache with room for so many tokens of one sequence."""
        # Whole pages, and one to spare.
        room = (tokens // PAGE_TOKENS + 2) * PAGE_TOKENS
        dtype = next(self._model.network.parameters()).dtype
        shape = CacheShape.of(self._config)
        return KVCache(shape, room, device=self._model.device, dtype=dtype)

    def _decode(
        self,
        model: Any,
        request: Request,
        strategy: Strategy[Any] | None = None,
        cache: KVCache | None = None,
    ) -> Decoded:
        room = len(request.prompt) + request.limits.tokens_max + request.block.length
        cache = self.new_cache(room) if cache is None else cache
        strategy = strategy or strategy_for(request.mode, self._traits)
        began, emitted, cycles, state = time.perf_counter(), 0, 0, None
        for state in decode(model, cache, strategy, request, self._traits):
            if state.progress.prefilling or not state.forwards:
                began, emitted = time.perf_counter(), len(state.progress.committed)
                continue
            cycles += len(state.progress.committed) > emitted or state.progress.finished == "end"
            emitted = len(state.progress.committed)
        assert state is not None
        return Decoded(
            tokens=state.progress.committed,
            ended=state.progress.finished == "end",
            forwards=state.forwards,
            cycles=cycles,
            seconds=time.perf_counter() - began,
        )


def first_difference(tokens: Sequence[int], reference: Reference) -> Difference | None:
    """Where `tokens` first differ from what `ar` emitted, or None."""
    for index, (token, wanted) in enumerate(zip(tokens, reference.decoded.tokens, strict=True)):
        if token != wanted:
            row = reference.logits[index]
            return Difference(index, float(row[wanted] - row[token]), reference.noise)
    return None


class _Recorder:
    """A model that records the logits of its readings."""

    def __init__(self, model: ModelRunner) -> None:
        self._model = model
        self.read: list[Tensor] = []

    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        logits = self._model.logits(step, cache)
        if step.read:
            self.read.append(logits)
        return read(logits, step, sampling, self._model.network.config.mask_id)
