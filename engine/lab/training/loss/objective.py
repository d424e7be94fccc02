"""Both losses of one flat batch in one forward: next token, and masked tokens of noisy middles.

`batch.rows` lays the rows out, and `batch.attention_cpu` or `batch.attention_flex` attends over
them. This module owns the two sums and their means over several batches. Source: arXiv 2607.05722,
with noisy rows for the middles alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from engine.lab.data.sampler import Example
from engine.lab.training.batch.attention_cpu import PackedAttention
from engine.lab.training.batch.attention_flex import PAD_ROWS, FusedAttention
from engine.lab.training.batch.masking import Noise
from engine.lab.training.batch.rows import Rows, lay_out
from engine.model.network import Attend, Network

# Rows whose logits exist at a time: few enough for a processor's cache, enough to fill a card.
_HEAD_ROWS, _HEAD_ROWS_CUDA = 512, 16_384
# On a CPU, R is padded to a multiple of this. Its library makes a kernel for each shape it meets,
# which took a third of the time when batches had any size.
PAD_ROWS_CPU = 512


@dataclass(frozen=True, slots=True)
class Batch:
    """R flat rows.

    Attributes:
        tokens, positions: (R,) int64.
        read: (N,) int64, the rows that predict a token; the others need no logits.
        labels: (N,) int64, the token to predict: the next one, or the row's own where it is noisy.
        ar_weights, diffusion_weights: (N,) float32; one of them is above 0, except in the last few
            rows, which pad N to a multiple of what is computed at a time.
        attend: attention over what each row sees.
        ar_total: the sum of ar_weights.
        diffusion_total: the expected sum of diffusion_weights, whatever was masked.
        rows: the number of rows without padding.
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
    """Lays examples out as one batch; an example has a noise for each of its holes, or none."""
    rows = lay_out(examples, noises, multiple_of=rows_multiple(device))
    return to_batch(rows, device=device, dtype=dtype)


def rows_multiple(device: torch.device) -> int:
    """The multiple to which `lay_out` pads the rows for this device."""
    return PAD_ROWS if device.type == "cuda" else PAD_ROWS_CPU


def to_batch(rows: Rows, *, device: torch.device, dtype: torch.dtype) -> Batch:
    """The rows on a device, with the attention for it."""
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
    """Adds the gradient of both sums, each times its scale, to the network's; returns the sums."""
    hidden = network(batch.tokens, batch.positions, batch.attend)[batch.read]
    weights = batch.ar_weights * ar_scale + batch.diffusion_weights * diffusion_scale
    each = RowLosses.apply(hidden, network.diffusion_head.weight, batch.labels, weights)
    (each * weights).sum().backward()
    return _sums(each.detach(), batch)


def backward_frozen(
    network: Network, batch: Batch, *, ar_scale: float, diffusion_scale: float
) -> Sums:
    """As `backward`, for a network that is frozen, its head included, but for what its hooks add.

    The head's gradient is not needed, and the logits come from the network, so that they include
    what a LoRA adds to the head.
    """
    weights = batch.ar_weights * ar_scale + batch.diffusion_weights * diffusion_scale
    each = _row_losses(network, batch)
    (each * weights).sum().backward()
    return _sums(each.detach(), batch)


@torch.no_grad()
def losses(network: Network, batch: Batch) -> Sums:
    """The sums without a gradient."""
    return _sums(_row_losses(network, batch), batch)


def evaluate(network: Network, batches: Sequence[Batch]) -> dict[str, float]:
    """`mean_losses` of a network over all batches together."""
    return mean_losses([losses(network, batch) for batch in batches], batches)


def mean_losses(sums: Sequence[Sums], batches: Sequence[Batch]) -> dict[str, float]:
    """ "ar" and "diffusion" in nats per unit of weight; "diffusion" only where there is noise."""
    means = {"ar": sum(each.ar for each in sums) / sum(batch.ar_total for batch in batches)}
    total = sum(batch.diffusion_total for batch in batches)
    if total:
        means["diffusion"] = sum(each.diffusion for each in sums) / total
    return means


def _row_losses(network: Network, batch: Batch) -> Tensor:
    """(N,) fp32 cross-entropy in nats of the rows that predict a token.

    The logits are computed again in the backward pass, some rows at a time: over a large vocabulary
    they would take more memory than all layers.
    """
    hidden = network(batch.tokens, batch.positions, batch.attend)[batch.read]

    def part(rows: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(network.logits(rows).float(), labels, reduction="none")

    pairs = zip(hidden.split(_HEAD_ROWS), batch.labels.split(_HEAD_ROWS), strict=True)
    if not hidden.requires_grad:
        return torch.cat([part(rows, labels) for rows, labels in pairs])
    parts = [checkpoint(part, rows, labels, use_reentrant=False) for rows, labels in pairs]
    return torch.cat(parts)  # pyright: ignore[reportArgumentType]


class RowLosses(torch.autograd.Function):
    """Cross-entropy of each row of a linear head; the forward pass computes the gradients as well.

    The logits of all rows never exist at once. The caller has to weight the result by `weights`.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor
    ) -> Tensor:
        """hidden (N, H), head (V, H), labels (N,) int64, weights (N,) fp32 → (N,) fp32 nats."""
        each = torch.empty_like(weights)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head, dtype=torch.float32)
        count = _HEAD_ROWS_CUDA if hidden.is_cuda else _HEAD_ROWS
        for low in range(0, len(hidden), count):
            part = slice(low, low + count)
            weight = weights[part, None].to(hidden.dtype)
            # In the head's dtype: in fp32 these passes took more time than the products.
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


def _sums(each: Tensor, batch: Batch) -> Sums:
    return Sums(
        float((each * batch.ar_weights).sum()), float((each * batch.diffusion_weights).sum())
    )
