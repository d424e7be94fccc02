"""Both losses of one flat batch in one forward: next token, and masked tokens of noisy middles.

Rows are laid out by `engine.training.rows`. Owns the attention over such a batch on a CPU and the
two sums; normalising over several batches is the caller's. Source: nemotron.md section 3 (arXiv
2607.05722), with noisy rows for the middles alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.model.network import Attend, Network
from engine.training.fused import PAD_ROWS, FusedAttention
from engine.training.masking import Noise
from engine.training.packing import Example
from engine.training.rows import NONE, Rows, lay_out, own_sees

# Rows whose logits exist at a time: few enough for a processor's cache, enough to fill a card.
_HEAD_ROWS, _HEAD_ROWS_CUDA = 512, 16_384


@dataclass(frozen=True, slots=True)
class Batch:
    """R flat rows.

    Attributes:
        tokens, positions: (R,) int64.
        read: (N,) int64, the rows that are to predict something; the others need no logits.
        labels: (N,) int64, what they are to predict: the next token, or their own where noisy.
        ar_weights, diffusion_weights: (N,) float32; exactly one of them is not 0.
        attend: mixes values over what each row sees.
        ar_total: sum of ar_weights.
        diffusion_total: the sum of diffusion_weights to be expected, whatever was masked.
    """

    tokens: Tensor
    positions: Tensor
    read: Tensor
    labels: Tensor
    ar_weights: Tensor
    diffusion_weights: Tensor
    attend: Attend
    ar_total: float
    diffusion_total: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Weighted sums of cross-entropy in nats, not normalised."""

    ar: float
    diffusion: float


def assemble(
    examples: Sequence[Example],
    noises: Sequence[Sequence[Noise]],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    """Lays examples out as one batch; each example's noises are its holes', or there are none."""
    rows = lay_out(examples, noises, multiple_of=rows_multiple(device))
    return to_batch(rows, device=device, dtype=dtype)


def rows_multiple(device: torch.device) -> int:
    """What `lay_out` is to bring the rows to a multiple of, for this device."""
    return PAD_ROWS if device.type == "cuda" else 1


def to_batch(rows: Rows, *, device: torch.device, dtype: torch.dtype) -> Batch:
    """The rows on a device, with the attention that suits it."""
    read = np.flatnonzero((rows.ar_weights > 0) | (rows.diffusion_weights > 0))
    is_cuda = device.type == "cuda"
    attend = FusedAttention(rows, device) if is_cuda else PackedAttention(rows, dtype)

    def moved(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Batch(
        tokens=moved(rows.tokens),
        positions=moved(rows.positions),
        read=moved(read),
        labels=moved(rows.labels[read]),
        ar_weights=moved(rows.ar_weights[read]),
        diffusion_weights=moved(rows.diffusion_weights[read]),
        attend=attend,
        ar_total=float(rows.ar_weights.sum()),
        diffusion_total=rows.diffusion_total,
    )


def backward(network: Network, batch: Batch, *, ar_scale: float, diffusion_scale: float) -> Sums:
    """Adds the gradient of both sums, each times its scale, to the network's; the sums."""
    hidden = network(batch.tokens, batch.positions, batch.attend)[batch.read]
    weights = batch.ar_weights * ar_scale + batch.diffusion_weights * diffusion_scale
    each = RowLosses.apply(hidden, network.diffusion_head.weight, batch.labels, weights)
    (each * weights).sum().backward()
    return _sums(each.detach(), batch)


@torch.no_grad()
def losses(network: Network, batch: Batch) -> Sums:
    """The sums alone."""
    hidden = network(batch.tokens, batch.positions, batch.attend)[batch.read]
    count = _head_rows(hidden)
    parts = zip(hidden.split(count), batch.labels.split(count), strict=True)
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
        count = _head_rows(hidden)
        for low in range(0, len(hidden), count):
            part = slice(low, low + count)
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
    """`attend` for a flat batch on a CPU: each segment by itself and its trunk, under its own mask.

    Plain matrix products: at these lengths they take 0.6 of the time of the CPU's fused kernel
    (512 rows, 4 heads, forward and backward: 7.4 against 12.0 ms on one Zen 5 core), and nothing
    is computed across examples. Split, not sliced: a slice's gradient is as long as the batch.
    """

    def __init__(self, rows: Rows, dtype: torch.dtype) -> None:
        """
        Args:
            dtype: of the keys.
        """
        self._segments = rows.segments
        self._lengths = [segment.rows for segment in rows.segments]
        ends = np.cumsum(self._lengths)
        parts = (slice(end - n, end) for n, end in zip(self._lengths, ends, strict=True))
        # Per segment (rows, seen + rows): 0 where visible, -inf where not.
        self._biases = [
            _bias(own_sees(rows, part), segment.seen, dtype)
            for part, segment in zip(parts, rows.segments, strict=True)
        ]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (R, H, D), key and value (R, Hkv, D) → (R, H, D)."""
        del layer
        queries, keys, values = (part.split(self._lengths) for part in (query, key, value))
        parts: list[Tensor] = []
        for index, segment in enumerate(self._segments):
            seen_keys, seen_values = keys[index], values[index]
            if segment.trunk != NONE:
                seen_keys = torch.cat((keys[segment.trunk][: segment.seen], seen_keys))
                seen_values = torch.cat((values[segment.trunk][: segment.seen], seen_values))
            parts.append(_attend(queries[index], seen_keys, seen_values, self._biases[index]))
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


def _head_rows(hidden: Tensor) -> int:
    return _HEAD_ROWS_CUDA if hidden.is_cuda else _HEAD_ROWS


def _bias(sees: np.ndarray, seen: int, dtype: torch.dtype) -> Tensor:
    hidden = torch.from_numpy(~np.pad(sees, ((0, 0), (seen, 0)), constant_values=True))
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _sums(each: Tensor, batch: Batch) -> Sums:
    return Sums(
        float((each * batch.ar_weights).sum()), float((each * batch.diffusion_weights).sum())
    )
