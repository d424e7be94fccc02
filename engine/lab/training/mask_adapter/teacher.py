"""The middles that a model itself writes, greedily and in batches.

A drafter is verified against its own model, so these are its targets. Prompts of one batch have one
length: the cache is dense and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.model.network import Network

_PREFILL_SEQUENCES = 64
_HEAD_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Written:
    """Sequences with what the model says at each place.

    Attributes:
        tokens: (N, T) int32, prompts and what was written after them.
        greedy: (N, T) int32, the model's likeliest token after each place.
        start: tokens of a prompt.
        ends: (N,) int64, known tokens of each sequence, the ending token included.
    """

    tokens: Tensor
    greedy: Tensor
    start: int
    ends: Tensor

    def slice(self, rows: Tensor) -> Written:
        """Some of the sequences."""
        return Written(self.tokens[rows], self.greedy[rows], self.start, self.ends[rows])


class _Past:
    """Keys and values of every layer, (N, Hkv, T, D) each."""

    def __init__(self, network: Network, sequences: int, length: int) -> None:
        config = network.config
        weight = network.encoder.embed_tokens.weight
        shape = (config.layers, sequences, config.kv_heads, length, config.head_dim)
        self.keys = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.empty_like(self.keys)


@torch.inference_mode()
def write(network: Network, prompts: Tensor, count: int, end_ids: Sequence[int]) -> Written:
    """Prompts (N, P) int64 and up to `count` greedy tokens after each, until an end token."""
    sequences, start = prompts.shape
    past = _Past(network, sequences, start + count)
    tokens = torch.zeros(sequences, start + count, dtype=torch.int64, device=prompts.device)
    greedy = torch.zeros_like(tokens)
    tokens[:, :start] = prompts
    for low in range(0, sequences, _PREFILL_SEQUENCES):
        rows = slice(low, low + _PREFILL_SEQUENCES)
        greedy[rows, :start] = _prefill(network, prompts[rows], past, rows)
    for place in range(start, start + count):
        tokens[:, place] = greedy[:, place - 1]
        hidden = _next(network, tokens[:, place], place, past)
        greedy[:, place] = _likeliest(network, hidden)
    ends = _ends(tokens[:, start:], end_ids, start)
    return Written(tokens.int(), greedy.int(), start, ends)


def _prefill(network: Network, tokens: Tensor, past: _Past, rows: slice) -> Tensor:
    """(N, P) int64, the likeliest token after each place; fills the cache's rows."""
    length = tokens.shape[1]

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        past.keys[layer, rows, :, :length] = key.transpose(1, 2)
        past.values[layer, rows, :, :length] = value.transpose(1, 2)
        return causal(query, key, value)

    positions = torch.arange(length, device=tokens.device).expand_as(tokens)
    hidden = network(tokens, positions, attend)
    return _likeliest(network, hidden.flatten(0, 1)).view_as(tokens)


def _next(network: Network, tokens: Tensor, place: int, past: _Past) -> Tensor:
    """(N, hidden) of one more token for every sequence."""

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        past.keys[layer, :, :, place] = key[:, 0]
        past.values[layer, :, :, place] = value[:, 0]
        # The query heads of one key head are rows of one product.
        grouped = query[:, 0].unflatten(1, (key.shape[2], -1))
        mixed = functional.scaled_dot_product_attention(
            grouped,
            past.keys[layer, :, :, : place + 1],
            past.values[layer, :, :, : place + 1],
        )
        return mixed.flatten(1, 2)[:, None]

    positions = torch.full_like(tokens, place)[:, None]
    return network(tokens[:, None], positions, attend)[:, 0]


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention; (N, T, H, D), (N, T, Hkv, D) → (N, T, H, D)."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    return mixed.transpose(1, 2)


def _likeliest(network: Network, hidden: Tensor) -> Tensor:
    parts = hidden.split(_HEAD_ROWS)
    return torch.cat([network.logits(part).argmax(dim=-1) for part in parts])


def _ends(written: Tensor, end_ids: Sequence[int], start: int) -> Tensor:
    """Known tokens of each sequence: up to its first end token, which counts."""
    ids = torch.tensor(list(end_ids), device=written.device)
    is_end = torch.isin(written, ids)
    count = written.shape[1]
    first = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1) + 1, count)
    return start + first
