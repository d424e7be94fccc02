"""Every decoding mode on the loaded checkpoint: that it runs, how fast, and whether it emits what
`ar` emits.

A speculative mode may differ from `ar` only where the two logits are nearer to each other than
twice what the same row's logits differ by in a forward of one row and in one of many: rounding, not
a mistake. Block diffusion decides otherwise than `ar` and is only reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.api import BlockOptions, Limits, Request, Sampling
from engine.cache.pages import PAGE_TOKENS
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.readout import read
from engine.model.runner import ModelRunner
from engine.reading import Reading
from engine.step import Step, chain

LOSSLESS = ("linear_spec", "quadratic_spec", "copy_spec")
QUADRATIC_LENGTH = 8  # B (B + 1) rows a forward: 72, against 1,056 for a block of 32
_NOISE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One request's tokens; `seconds` and `forwards` are those behind the prompt."""

    tokens: tuple[int, ...]
    ended: bool
    forwards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What `ar` emitted behind one prompt.

    Attributes:
        logits: (tokens, V) fp32, the row that decided each token.
        noise: most that these differ from the same rows' in one forward of them all.
    """

    decoded: Decoded
    logits: Tensor
    noise: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a mode first differs from `ar`: behind how many tokens, and the two logits' gap."""

    index: int
    gap: float
    noise: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.gap <= _NOISE_FACTOR * self.noise


class Runner:
    """Decodes on one model, greedily, one request at a time, each with an empty cache of its own:
    every prompt is computed anew."""

    def __init__(self, model: ModelRunner, dtype: torch.dtype) -> None:
        """
        Args:
            dtype: of the weights, and with them of the cache.
        """
        self._model = model
        self._dtype = dtype
        config = model.network.config
        self._shape = CacheShape.of(config)
        self._block_length = config.block_length
        self._traits = Traits(config.mask_id, has_drafter=model.adapter is not None)

    def decode(
        self, prompt: Sequence[int], mode: str, tokens_max: int, stops: Sequence[int] = ()
    ) -> Decoded:
        """One request to its end."""
        return self._decode(self._model, prompt, mode, tokens_max, stops)

    def reference(self, prompt: Sequence[int], tokens_max: int) -> Reference:
        """`ar`, with the logits that decided."""
        recorder = _Recorder(self._model)
        decoded = self._decode(recorder, prompt, "ar", tokens_max, ())
        logits = torch.cat(recorder.read)
        tokens = (*prompt, *decoded.tokens[:-1])
        (whole,) = self._chains(tokens, ((0, len(tokens)),))
        noise = (whole[-len(logits) :] - logits).abs().max()
        return Reference(decoded, logits, float(noise))

    def cached_logits(self, tokens: Sequence[int]) -> Tensor:
        """(T, V) of all rows, fed in two steps, so that the second one reads the cache."""
        half = len(tokens) // 2
        return torch.cat(self._chains(tokens, ((0, half), (half, len(tokens)))))

    def _chains(self, tokens: Sequence[int], parts: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Logits of all rows of causal chains from start to end, each behind the one before it."""
        cache = self._cache(len(tokens))
        sequence, _ = cache.open(tuple(tokens), len(tokens))
        logits: list[Tensor] = []
        for start, end in parts:
            rows = tuple(range(end - start))
            step = chain(tuple(tokens[start:end]), start, read=rows, sequence=sequence)
            logits.append(self._model.logits(step, cache))
            cache.keep(step, rows)
        return logits

    def _cache(self, tokens: int) -> KVCache:
        # Whole pages, and one to spare.
        room = (tokens // PAGE_TOKENS + 2) * PAGE_TOKENS
        return KVCache(self._shape, room, device=self._model.device, dtype=self._dtype)

    def _decode(
        self, model: Any, prompt: Sequence[int], mode: str, tokens_max: int, stops: Sequence[int]
    ) -> Decoded:
        length = self._block_length
        if mode == "quadratic_spec":
            length = min(length, QUADRATIC_LENGTH)
        request = Request(
            tuple(prompt),
            mode,
            Limits(tokens_max),
            block=BlockOptions(length),
            stop_token_ids=tuple(stops),
        )
        strategy = STRATEGIES[mode]
        cache = self._cache(len(prompt) + tokens_max + length)
        began, state = time.perf_counter(), None
        for state in decode(model, cache, strategy, request, self._traits, lambda: False):
            if state.progress.prefilling or not state.forwards:
                began = time.perf_counter()
        assert state is not None
        return Decoded(
            tokens=state.progress.committed,
            ended=state.progress.finished == "end",
            forwards=state.forwards,
            seconds=time.perf_counter() - began,
        )


def first_difference(tokens: Sequence[int], reference: Reference) -> Difference | None:
    """Where `tokens` leave what `ar` emitted, or None."""
    for index, (token, wanted) in enumerate(zip(tokens, reference.decoded.tokens, strict=True)):
        if token != wanted:
            row = reference.logits[index]
            return Difference(index, float(row[wanted] - row[token]), reference.noise)
    return None


class _Recorder:
    """A model that remembers the logits behind its readings."""

    def __init__(self, model: ModelRunner) -> None:
        self._model = model
        self.read: list[Tensor] = []

    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        logits = self._model.logits(step, cache)
        if step.read:
            self.read.append(logits)
        return read(logits, step, sampling, self._model.network.config.mask_id)
