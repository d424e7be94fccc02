"""How many tokens a cycle of linear_spec emits, with and without the drafter, on the same prompts.

Runs the real decoding loop with copied drafts switched off: what is measured is the drafter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.api import Limits, Request, Sampling
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders.linear_spec import LinearSpec
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.adapter import DrafterAdapter
from engine.model.network import Network
from engine.model.runner import ModelRunner
from engine.reading import Reading
from engine.step import Step

_TOKENS_MAX = 64
_CACHE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Sums over all prompts.

    Attributes:
        tokens: emitted, the ends of texts counted.
        cycles: verifications; each emits the drafts that were right and one token more.
        forwards: device calls after the prompts.
    """

    tokens: int
    cycles: int
    forwards: int
    texts: tuple[tuple[int, ...], ...]

    @property
    def per_cycle(self) -> float:
        """Tokens emitted per cycle."""
        return self.tokens / max(1, self.cycles)

    @property
    def per_forward(self) -> float:
        """Tokens emitted per forward."""
        return self.tokens / max(1, self.forwards)


class _Counting:
    """A model that counts its steps with masks: those that draft."""

    def __init__(self, model: ModelRunner) -> None:
        self._model = model
        self.drafting = 0

    def __call__(self, step: Step, cache: Any, sampling: Sampling) -> tuple[Reading, ...]:
        self.drafting += any(step.group)
        return self._model(step, cache, sampling)


def measure_acceptance(
    network: Network,
    adapter: DrafterAdapter | None,
    prompts: Sequence[tuple[int, ...]],
    stop_token_ids: tuple[int, ...],
) -> Acceptance:
    """Greedy, in blocks of up to 32, at most 64 tokens for each prompt."""
    config = network.config
    weight = network.encoder.embed_tokens.weight
    shape = CacheShape.of(config)
    cache = KVCache(shape, _CACHE_TOKENS, device=weight.device, dtype=weight.dtype)
    traits = Traits(config.mask_id, has_drafter=adapter is not None)
    counting = _Counting(ModelRunner(network, device=weight.device, adapter=adapter))
    tokens = cycles = forwards = 0
    texts: list[tuple[int, ...]] = []
    for prompt in prompts:
        request = Request(
            prompt=prompt,
            mode="linear_spec",
            limits=Limits(tokens_max=_TOKENS_MAX),
            stop_token_ids=stop_token_ids,
        )
        counting.drafting = 0
        with torch.inference_mode():
            strategy = LinearSpec(uses_copies=False)
            states = list(decode(counting, cache, strategy, request, traits))
        last = states[-1]
        # The bonus token came with the prompt; an end of text was emitted, though it is not shown.
        emitted = len(last.progress.committed) - 1 + (last.progress.finished == "end")
        tokens, forwards = tokens + max(0, emitted), forwards + last.forwards
        cycles += last.forwards - counting.drafting
        texts.append(last.progress.committed)
    return Acceptance(tokens, cycles, forwards, tuple(texts))
