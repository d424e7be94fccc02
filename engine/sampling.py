"""From logits to tokens: greedy, temperature, top-p, with counter-based randomness.

The only random number of a place is `uniform(seed, position)`, so that a token does not depend on
how the steps were cut or batched. Confidence is always the plain softmax probability over the whole
vocabulary at temperature 1, as Nemotron-Labs-Diffusion's reference decoding defines it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.api import Sampling

_MASK64 = 2**64 - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on (seed, position) alone: SplitMix64's finaliser
    (Steele, Lea, Flood 2014), applied to both so that neighbours are unrelated."""
    return (_mix(_mix(seed) ^ position) >> 11) / 2**53  # 53 bits: all a float keeps


def choose(
    logits: Tensor, positions: Sequence[int], sampling: Sampling, *, mask_id: int | None
) -> tuple[list[int], list[float]]:
    """One token per row, and its confidence.

    The mask token is never chosen; it stays in the confidence's denominator, as in the reference.

    Args:
        logits: (N, V) fp32.
        positions: N, the places that the tokens will take.

    Returns:
        N token ids (greedy: argmax, lowest id on ties) and N probabilities at temperature 1.
    """
    probabilities = torch.softmax(logits, dim=-1)
    if mask_id is None:
        allowed = logits
    else:
        mask = torch.tensor([mask_id], device=logits.device)
        allowed = logits.index_fill(1, mask, float("-inf"))
    if sampling.temperature == 0:
        tokens = allowed.argmax(dim=-1)  # torch returns the first of equal maxima
    else:
        tokens = _draw(allowed, positions, sampling)
    confidence = probabilities.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), confidence.tolist()


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The (N, V) fp64 distribution that sampling at this temperature and top-p draws from.

    Nucleus (Holtzman et al. 2020): the smallest set of most probable tokens that holds at least
    top_p of the mass; the most probable one is always in it.
    """
    weights = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        weights = weights.scatter(1, order, ordered.masked_fill(outside, 0.0))
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights


def _draw(logits: Tensor, positions: Sequence[int], sampling: Sampling) -> Tensor:
    """Inverse transform: the first id at which the cumulated probability exceeds the number."""
    cumulated = distribution(logits, sampling).cumsum(dim=-1)
    draws = torch.tensor(
        [uniform(sampling.seed, position) for position in positions],
        dtype=torch.float64,
        device=logits.device,
    )
    # Scaled by the last sum, which rounding leaves a little beside 1.
    targets = draws[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True)[:, 0]


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
