"""Both losses of one flat batch in one forward: next token, and masked tokens of noisy middles.

Rows are laid out by `batch.rows`, and `batch.attention_cpu` or `batch.attention_flex` attends over
them. Owns the two sums; normalising over several batches is the caller's. Source: nemotron.md
section 3 (arXiv 2607.05722), with noisy rows for the middles alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.lab.data.sampler import Example
from engine.lab.training.batch.attention_cpu import PackedAttention
from engine.lab.training.batch.attention_flex import PAD_ROWS, FusedAttention
from engine.lab.training.batch.masking import Noise
from engine.lab.training.batch.rows import Rows, lay_out
from engine.model.network import Attend, Network

# Rows whose logits exist at a time: few enough for a processor's cache, enough to fill a card.
_HEAD_ROWS, _HEAD_ROWS_CUDA = 512, 16_384
# R is brought to a multiple of this on a CPU, whose library makes a kernel for each shape it meets:
# with batches of any size that took a third of the time.
PAD_ROWS_CPU = 512


@dataclass(frozen=True, slots=True)
class Batch:
    """R flat rows.

    Attributes:
        tokens, positions: (R,) int64.
        read: (N,) int64, the rows that are to predict something; the others need no logits.
        labels: (N,) int64, what they are to predict: the next token, or their own where noisy.
        ar_weights, diffusion_weights: (N,) float32; one of them is not 0, but for the last few
            rows, which bring N to a multiple of what is computed at a time.
        attend: mixes values over what each row sees.
        ar_total: sum of ar_weights.
        diffusion_total: the sum of diffusion_weights to be expected, whatever was masked.
        rows: those that are not padding.
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
    rows: int


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
    return PAD_ROWS if device.type == "cuda" else PAD_ROWS_CPU


def to_batch(rows: Rows, *, device: torch.device, dtype: torch.dtype) -> Batch:
    """The rows on a device, with the attention that suits it."""
    read = np.flatnonzero((rows.ar_weights > 0) | (rows.diffusion_weights > 0))
    is_cuda = device.type == "cuda"
    attend = FusedAttention(rows, device) if is_cuda else PackedAttention(rows, dtype)
    missing = 0 if is_cuda else -len(read) % _HEAD_ROWS

    def moved(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    def weights(values: np.ndarray) -> Tensor:
        return functional.pad(moved(values[read]), (0, missing))

    return Batch(
        tokens=moved(rows.tokens),
        positions=moved(rows.positions),
        read=functional.pad(moved(read), (0, missing)),
        labels=functional.pad(moved(rows.labels[read]), (0, missing)),
        ar_weights=weights(rows.ar_weights),
        diffusion_weights=weights(rows.diffusion_weights),
        attend=attend,
        ar_total=float(rows.ar_weights.sum()),
        diffusion_total=rows.diffusion_total,
        rows=len(rows.tokens) - rows.padding,
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

    The logits of all rows never exist at once. Bound to be weighted by the `weights` given.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor
    ) -> Tensor:
        """hidden (N, H), head (V, H), labels (N,) int64, weights (N,) fp32 → (N,) fp32 nats."""
        each = torch.empty_like(weights)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head, dtype=torch.float32)
        count = _head_rows(hidden)
        for low in range(0, len(hidden), count):
            part = slice(low, low + count)
            weight = weights[part, None].to(hidden.dtype)
            # In the head's dtype: in fp32 the passes over these took more time than the products.
            gradient = functional.linear(hidden[part], head).softmax(dim=-1)
            places = labels[part, None]
            each[part] = -gradient.gather(1, places).squeeze(1).float().log()
            gradient.scatter_add_(1, places, gradient.new_full(places.shape, -1.0))
            grad_hidden[part] = (gradient @ head) * weight
            grad_head += gradient.T @ (hidden[part] * weight)
        ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype))
        return each

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_each: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        """The gradients of the weighted sum; `by_each` is the weights themselves."""
        del by_each
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden, grad_head, None, None


def _head_rows(hidden: Tensor) -> int:
    return _HEAD_ROWS_CUDA if hidden.is_cuda else _HEAD_ROWS


def _sums(each: Tensor, batch: Batch) -> Sums:
    return Sums(
        float((each * batch.ar_weights).sum()), float((each * batch.diffusion_weights).sum())
    )
