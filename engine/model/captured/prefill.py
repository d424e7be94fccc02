"""Attention of a long causal chain by the library: what prompts are made of.

Torch takes FlashAttention for it on cards, which it cannot take with a mask of any other form.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from engine.step import CACHED, Step


def is_chain(step: Step) -> bool:
    """Whether a step is one causal chain that follows the cached tokens of one sequence."""
    return (
        len(set(step.sequence)) == 1
        and not any(step.group)
        and step.parent == tuple(range(CACHED, step.rows + CACHED))
    )


def chain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `engine.model.runner.step_attention`, where row i sees all keys but the last R - 1 - i.

    Args:
        query: (R, H, D).
        key, value: (T, Hkv, D), the cached ones and then the rows' own.

    Returns:
        (R, H, D).
    """
    queries, keys, values = (each.transpose(0, 1)[None] for each in (query, key, value))
    mixed = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=causal_lower_right(len(query), len(key)),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[0].transpose(0, 1)
