"""How often a mode's tokens leave those of "ar" although it should emit the same, and whether
rounding explains it.

A row's logits depend in their last bits on how many rows were computed with it, so a speculative
mode may decide a near-tie otherwise than "ar" does. The noise is what one-row and 32-row logits of
the same tokens differ by; a difference at a larger gap than twice that is a mistake. With
`Request.exact` the noise is 0 and no token may differ. Greedy; knows neither files nor holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.api import EXACT_MODES, Request
from engine.auto.step_times import prefill_rows
from engine.cache.pages import PAGE_TOKENS
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.runner import ModelRunner
from engine.step import chain

SPECULATIVE = EXACT_MODES[1:]
NOISE_ROWS = 32


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a mode first left "ar".

    Attributes:
        request: its place among the requests compared.
        place: number of tokens emitted before it, alike.
        gap: the one-row logit of ar's token less that of the mode's; never negative.
    """

    request: int
    place: int
    gap: float


@dataclass(frozen=True, slots=True)
class Parity:
    """One mode against "ar" over all requests.

    Attributes:
        noise: most that a one-row and a 32-row logit of the same place differed by.
    """

    mode: str
    requests: int
    noise: float
    differences: tuple[Difference, ...]

    @property
    def share(self) -> float:
        """Of the requests whose tokens differ."""
        return len(self.differences) / max(1, self.requests)

    @property
    def is_rounding(self) -> bool:
        """Whether every difference is at a near-tie: two logits, each off by the noise at most."""
        return all(difference.gap <= 2 * self.noise for difference in self.differences)


def compare(
    model: ModelRunner, requests: Sequence[Request], modes: Sequence[str] = SPECULATIVE
) -> list[Parity]:
    """Decodes every request in "ar" and in each mode, up to its limit (stops are left out).

    Args:
        requests: greedy ones; their own mode does not matter.
        modes: of EXACT_MODES.
    """
    assert all(request.sampling.temperature == 0 for request in requests)
    differences: dict[str, list[Difference]] = {mode: [] for mode in modes}
    noise = 0.0
    for index, request in enumerate(requests):
        free = replace(request, mode="ar", stop=(), stop_token_ids=())
        expected = decoded(model, free)
        deciding = deciding_logits(model, free, expected, 1)
        wide = deciding_logits(model, free, expected, NOISE_ROWS)
        noise = max(noise, float((deciding - wide).abs().max()))
        for mode in modes:
            tokens = decoded(model, replace(free, mode=mode))
            if tokens != expected:
                pairs = zip(tokens, expected, strict=True)
                place = next(place for place, (one, other) in enumerate(pairs) if one != other)
                row = deciding[place]
                gap = float(row[expected[place]] - row[tokens[place]])
                differences[mode].append(Difference(index, place, gap))
    return [Parity(mode, len(requests), noise, tuple(differences[mode])) for mode in modes]


def decoded(model: ModelRunner, request: Request) -> tuple[int, ...]:
    """The tokens of a request, its prompt computed anew."""
    states = decode(
        model,
        _cache(model, request),
        STRATEGIES[request.mode],
        request,
        _traits(model),
        lambda: False,
    )
    return [state.progress.committed for state in states][-1]


def deciding_logits(
    model: ModelRunner, request: Request, tokens: Sequence[int], rows_max: int
) -> Tensor:
    """The logits that decide each of `tokens` behind the prompt.

    Args:
        request: says the prompt and whether it is exact.
        rows_max: rows of a step behind the prompt, whose own steps are those of decoding.

    Returns:
        (len(tokens), V) fp32.
    """
    cache = _cache(model, request)
    whole = (*request.prompt, *tokens[:-1])
    sequence, _ = cache.open(request.prompt, len(whole), exact=request.exact)
    logits: list[Tensor] = []
    start, prompt = 0, len(request.prompt)
    fed = prefill_rows(_traits(model).costs)
    while start < len(whole):
        end = min(start + fed, prompt) if start < prompt else start + rows_max
        chunk = whole[start:end]
        read = tuple(row for row in range(len(chunk)) if start + row >= prompt - 1)
        step = chain(chunk, start, read=read, sequence=sequence)
        logits.append(model.logits(step, cache))
        cache.keep(step, tuple(range(step.rows)))
        start += step.rows
    return torch.cat(logits)


def _traits(model: ModelRunner) -> Traits:
    return Traits(model.network.config.mask_id, has_drafter=model.adapter is not None)


def _cache(model: ModelRunner, request: Request) -> KVCache:
    """An empty one with room for the request: nothing is reused, every row is computed here."""
    config = model.network.config
    shape = CacheShape.of(config)
    tokens = len(request.prompt) + request.limits.tokens_max + request.block.length + PAGE_TOKENS
    dtype = next(model.network.parameters()).dtype
    return KVCache(shape, tokens, device=model.device, dtype=dtype)
