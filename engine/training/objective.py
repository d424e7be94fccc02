"""Both losses of one flat batch in one forward: next token, and masked tokens of noisy middles.

Rows are laid out example by example: its trunk, then for each hole the branch and its noisy rows.
Owns the attention over such a batch and the two sums; normalising over several batches is the
caller's. Source: nemotron.md section 3 (arXiv 2607.05722), with noisy rows for the middles alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.model.network import Network
from engine.training.masking import Noise, visible
from engine.training.packing import Example, Hole

# Rows whose logits exist at a time: small enough to stay in a processor's cache.
_HEAD_ROWS = 512


@dataclass(frozen=True, slots=True)
class Segment:
    """A trunk's or a branch's rows, which follow the rows of the segment before.

    Attributes:
        trunk: index of the segment of which the first `seen` rows are visible too, or None.
        bias: (rows, seen + rows) additive mask in the weights' dtype: 0 visible, -inf not.
    """

    rows: int
    trunk: int | None
    seen: int
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """R flat rows.

    Attributes:
        tokens, positions: (R,) int64.
        read: (N,) int64, the rows that are to predict something; the others need no logits.
        labels: (N,) int64, what they are to predict: the next token, or their own where noisy.
        ar_weights, diffusion_weights: (N,) float32; exactly one of them is not 0.
        ar_total: sum of ar_weights.
        diffusion_total: the sum of diffusion_weights to be expected, whatever was masked.
    """

    tokens: Tensor
    positions: Tensor
    read: Tensor
    labels: Tensor
    ar_weights: Tensor
    diffusion_weights: Tensor
    segments: tuple[Segment, ...]
    ar_total: float
    diffusion_total: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Weighted sums of cross-entropy in nats, not normalised."""

    ar: float
    diffusion: float


class _Rows:
    """Collects a batch's columns: tokens, positions, labels, AR weights, diffusion weights."""

    def __init__(self) -> None:
        self.columns: list[list[np.ndarray]] = [[], [], [], [], []]

    def clean(self, tokens: np.ndarray, first: int, weights: np.ndarray) -> None:
        """Rows at positions from `first` on that predict their next token."""
        count = len(tokens)
        following = np.append(weights[1:], np.float32(0))
        none = np.zeros(count, dtype=np.float32)
        positions = first + np.arange(count)
        self._add(tokens, positions, np.roll(tokens, -1), following, none)

    def noisy(self, noise: Noise, first: int) -> None:
        """Rows of a hole at position `first` that predict themselves."""
        none = np.zeros(len(noise.tokens), dtype=np.float32)
        self._add(noise.tokens, first + noise.positions, noise.labels, none, noise.weights)

    def _add(self, *values: np.ndarray) -> None:
        for column, value in zip(self.columns, values, strict=True):
            column.append(value)


def assemble(
    examples: Sequence[Example],
    noises: Sequence[Sequence[Noise]],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    """Lays examples out as one batch; each example's noises are its holes', or there are none."""
    rows = _Rows()
    segments: list[Segment] = []
    expected = 0.0
    for example, added in zip(examples, noises, strict=True):
        trunk, length = len(segments), len(example.tokens)
        rows.clean(example.tokens, 0, example.weights)
        segments.append(Segment(length, None, 0, _bias(np.tri(length, dtype=bool), device, dtype)))
        for hole, noise in zip(example.holes, added or [None] * len(example.holes), strict=True):
            rows.clean(hole.tokens, hole.seen, hole.weights)
            if noise is not None:
                rows.noisy(noise, hole.seen)
                expected += float(noise.shares.sum())
            sees = _branch_sees(hole, noise)
            segments.append(Segment(len(sees), trunk, hole.seen, _bias(sees, device, dtype)))
    tokens, positions, labels, ar_weights, diffusion_weights = (
        np.concatenate(column) for column in rows.columns
    )
    read = np.flatnonzero((ar_weights > 0) | (diffusion_weights > 0))
    return Batch(
        tokens=torch.from_numpy(tokens).to(device),
        positions=torch.from_numpy(positions).to(device),
        read=torch.from_numpy(read).to(device),
        labels=torch.from_numpy(labels[read]).to(device),
        ar_weights=torch.from_numpy(ar_weights[read]).to(device),
        diffusion_weights=torch.from_numpy(diffusion_weights[read]).to(device),
        segments=tuple(segments),
        ar_total=float(ar_weights.sum()),
        diffusion_total=expected,
    )


def backward(network: Network, batch: Batch, *, ar_scale: float, diffusion_scale: float) -> Sums:
    """Adds the gradient of both sums, each times its scale, to the network's; the sums."""
    hidden = network(batch.tokens, batch.positions, PackedAttention(batch.segments))[batch.read]
    weights = batch.ar_weights * ar_scale + batch.diffusion_weights * diffusion_scale
    each = RowLosses.apply(hidden, network.diffusion_head.weight, batch.labels, weights)
    (each * weights).sum().backward()
    return _sums(each.detach(), batch)


@torch.no_grad()
def losses(network: Network, batch: Batch) -> Sums:
    """The sums alone."""
    hidden = network(batch.tokens, batch.positions, PackedAttention(batch.segments))[batch.read]
    parts = zip(hidden.split(_HEAD_ROWS), batch.labels.split(_HEAD_ROWS), strict=True)
    each = [
        functional.cross_entropy(network.logits(part).float(), labels, reduction="none")
        for part, labels in parts
    ]
    return _sums(torch.cat(each), batch)


class RowLosses(torch.autograd.Function):
    """Cross-entropy of each row of a linear head, whose gradients are made on the way forward.

    The logits of all rows never exist at once: at nano's 8,192 entries, those and their gradient in
    fp32 took more time than the head's three products. Bound to be weighted by the `weights` given.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor
    ) -> Tensor:
        """hidden (N, H), head (V, H), labels (N,) int64, weights (N,) fp32 → (N,) fp32 nats."""
        each = torch.empty_like(weights)
        by_hidden = torch.empty_like(hidden)
        by_head = torch.zeros_like(head, dtype=torch.float32)
        for low in range(0, len(hidden), _HEAD_ROWS):
            part = slice(low, low + _HEAD_ROWS)
            chances = functional.linear(hidden[part], head).float()
            places = labels[part, None]
            total = chances.logsumexp(dim=-1, keepdim=True)
            each[part] = (total - chances.gather(1, places)).squeeze(1)
            gradient = chances.sub_(total).exp_()
            gradient.scatter_add_(1, places, gradient.new_full(places.shape, -1.0))
            gradient = gradient.mul_(weights[part, None]).to(hidden.dtype)
            by_hidden[part] = gradient @ head
            by_head += gradient.T @ hidden[part]
        ctx.save_for_backward(by_hidden, by_head.to(head.dtype))
        return each

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_each: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        """The gradients of the weighted sum; `by_each` is the weights themselves."""
        del by_each
        by_hidden, by_head = ctx.saved_tensors
        return by_hidden, by_head, None, None


class PackedAttention:
    """`attend` for a flat batch: each segment by itself and its trunk, under its own mask.

    Plain matrix products: at these lengths they take 0.6 of the time of the CPU's fused kernel
    (512 rows, 4 heads, forward and backward: 7.4 against 12.0 ms on one Zen 5 core), and nothing
    is computed across examples. Split, not sliced: a slice's gradient is as long as the batch.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._lengths = [segment.rows for segment in segments]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (R, H, D), key and value (R, Hkv, D) → (R, H, D)."""
        del layer
        queries, keys, values = (part.split(self._lengths) for part in (query, key, value))
        parts: list[Tensor] = []
        for index, segment in enumerate(self._segments):
            seen_keys, seen_values = keys[index], values[index]
            if segment.trunk is not None:
                seen_keys = torch.cat((keys[segment.trunk][: segment.seen], seen_keys))
                seen_values = torch.cat((values[segment.trunk][: segment.seen], seen_values))
            parts.append(_attend(queries[index], seen_keys, seen_values, segment.bias))
        return torch.cat(parts)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    # The queries of a group stand below each other and share their one key head.
    grouped = query.transpose(0, 1).reshape(kv_heads, group * rows, width)
    stacked = bias.repeat(group, 1).expand(kv_heads, -1, -1)
    scores = torch.baddbmm(stacked, grouped, key.permute(1, 2, 0), alpha=width**-0.5)
    mixed = torch.bmm(scores.softmax(dim=-1), value.transpose(0, 1))
    return mixed.view(heads, rows, width).transpose(0, 1)


def _branch_sees(hole: Hole, noise: Noise | None) -> np.ndarray:
    """(rows, seen + rows) bool: of a branch's clean and noisy rows, what they see."""
    clean = len(hole.tokens)
    rows = clean + (0 if noise is None else len(noise.tokens))
    sees = np.zeros((rows, hole.seen + rows), dtype=bool)
    sees[:, : hole.seen] = True
    sees[:clean, hole.seen : hole.seen + clean] = np.tri(clean, dtype=bool)
    if noise is not None:
        sees[clean:, hole.seen :] = visible(noise, clean)
    return sees


def _bias(sees: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    hidden = torch.from_numpy(~sees)
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(hidden, float("-inf")).to(device)


def _sums(each: Tensor, batch: Batch) -> Sums:
    return Sums(
        float((each * batch.ar_weights).sum()), float((each * batch.diffusion_weights).sum())
    )
