"""Both losses of a batch for a network whose own weights, the head's too, stay frozen.

`objective.backward` makes the head's gradient on its way; here there is none to make, and what a
LoRA adds to the head is in hooks, so that logits come from the network. The same sums.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from engine.lab.training.loss.objective import Batch, Sums
from engine.model.network import Network

_HEAD_ROWS = 512


def backward_frozen(
    network: Network, batch: Batch, *, ar_scale: float, diffusion_scale: float
) -> Sums:
    """As `objective.backward`, for whatever in the network's hooks requires gradients."""
    weights = batch.ar_weights * ar_scale + batch.diffusion_weights * diffusion_scale
    each = row_losses(network, batch)
    (each * weights).sum().backward()
    return _sums(each.detach(), batch)


@torch.no_grad()
def losses_frozen(network: Network, batch: Batch) -> Sums:
    """The sums alone."""
    return _sums(row_losses(network, batch), batch)


def row_losses(network: Network, batch: Batch) -> Tensor:
    """(N,) fp32 cross-entropy in nats of the rows that are to predict something.

    The logits are computed again on the way back, some rows at a time: over a large vocabulary they
    would take more memory than all layers.
    """
    hidden = network(batch.tokens, batch.positions, batch.attend)[batch.read]

    def part(rows: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(network.logits(rows).float(), labels, reduction="none")

    pairs = zip(hidden.split(_HEAD_ROWS), batch.labels.split(_HEAD_ROWS), strict=True)
    if not hidden.requires_grad:
        return torch.cat([part(rows, labels) for rows, labels in pairs])
    parts = [checkpoint(part, rows, labels, use_reentrant=False) for rows, labels in pairs]
    return torch.cat(parts)  # pyright: ignore[reportArgumentType]


def _sums(each: Tensor, batch: Batch) -> Sums:
    return Sums(
        float((each * batch.ar_weights).sum()), float((each * batch.diffusion_weights).sum())
    )
