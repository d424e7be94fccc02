"""How an adapter is judged while it trains: D-PACE, the latent term, and drafts accepted.

D-PACE (arXiv 2605.18810) weighs the cross-entropy at each offset by what it is worth to acceptance:
with q_i = exp(-CE_i) / 2 + 1 / 2, offset j weighs the sum over m ≥ j of the product of q_1 … q_m.
The latent term draws a mask row's final state towards that of the causal row at its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.lab.training.mask_adapter.adapter import Clean, MaskAdapter
from engine.lab.training.mask_adapter.groups import UNLABELLED, GroupBatch

LATENT_WEIGHT = 0.1
_REVEALED_WEIGHT = 0.5
_HEAD_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over the labelled rows, as numbers."""

    cross_entropy: float
    latent: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a batch that its means are over: with a label that may be drafted, and with any."""

    drafted: Tensor
    labelled: Tensor


def count_rows(adapter: MaskAdapter, batch: GroupBatch) -> Counts:
    """The counts of a batch."""
    drafted = (_labels(adapter, batch) != UNLABELLED).sum().clamp(min=1)
    return Counts(drafted, (batch.labels != UNLABELLED).sum().clamp(min=1))


def backward(
    adapter: MaskAdapter,
    clean: Clean,
    hidden: Tensor,
    batch: GroupBatch,
    *,
    latent_weight: float = LATENT_WEIGHT,
    counts: Counts | None = None,
) -> Losses:
    """Adds the loss's gradient to the adapter's parameters.

    The head's logits are made and undone in parts, so that they never lie in memory together.

    Args:
        hidden: (N, R, hidden) from `run_masks`.
        counts: those of the whole batch, where this is a part of it: the gradients and the losses
            of all parts then add up to those of the whole.
    """
    counts = counts or count_rows(adapter, batch)
    labels = _labels(adapter, batch)
    leaf = hidden.detach().requires_grad_()
    with torch.no_grad():
        weights, entropies = _weights(adapter, hidden, batch, labels)
    is_labelled = labels != UNLABELLED
    count = counts.drafted
    rows = is_labelled.flatten().nonzero()[:, 0]
    for part in rows.split(_HEAD_ROWS):
        logits = adapter.logits(leaf.flatten(0, 1)[part], batch.previous.flatten()[part])
        entropy = functional.cross_entropy(logits, labels.flatten()[part], reduction="none")
        ((entropy * weights.flatten()[part]).sum() / count).backward()
    assert leaf.grad is not None
    at = (batch.anchors + batch.offsets).clamp(max=clean.hidden.shape[1] - 1)
    index = at[..., None].expand(-1, -1, hidden.shape[-1])
    target = clean.hidden.gather(1, index).float()
    distance = (hidden.float() - target).square().mean(-1) / target.square().mean(-1)
    has_target = batch.labels != UNLABELLED
    latent = (distance * has_target).sum() / counts.labelled
    torch.autograd.backward((hidden, latent * latent_weight), (leaf.grad, torch.ones_like(latent)))
    return Losses(float(entropies.sum() / count), float(latent.detach()))


def _labels(adapter: MaskAdapter, batch: GroupBatch) -> Tensor:
    """(N, R) int64: labels by their places in the draft vocabulary, UNLABELLED outside it."""
    places = adapter.draft_place(batch.labels, unknown=UNLABELLED)
    return torch.where(places == len(adapter.draft_ids), UNLABELLED, places)


def _weights(
    adapter: MaskAdapter, hidden: Tensor, batch: GroupBatch, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(N, R) weight of each row, and its cross-entropy, 0 where it has no label."""
    flat, previous, flat_labels = (each.flatten(0, 1) for each in (hidden, batch.previous, labels))
    parts = []
    for part in torch.arange(len(flat), device=flat.device).split(_HEAD_ROWS):
        logits = adapter.logits(flat[part], previous[part])
        parts.append(
            functional.cross_entropy(
                logits, flat_labels[part], ignore_index=UNLABELLED, reduction="none"
            )
        )
    entropy = torch.cat(parts).view_as(labels)
    weights = dpace(entropy, labels != UNLABELLED, batch.offsets)
    return torch.where(batch.drafting, weights, _REVEALED_WEIGHT), entropy


def dpace(entropy: Tensor, is_labelled: Tensor, offsets: Tensor) -> Tensor:
    """(N, R) weights of rows that stand group by group; 0 after a group's first unlabelled row."""
    chance = torch.where(is_labelled, (torch.exp(-entropy) + 1) / 2, 0.0)
    longest = int(offsets.max())
    # One group per row of a table as wide as the longest, filled up with zeros.
    group = (offsets == 1).int().flatten().cumsum(0) - 1
    table = chance.new_zeros(int(group[-1]) + 1, longest)
    place = (group, offsets.flatten() - 1)
    table[place] = chance.flatten()
    reached = table.cumprod(dim=1)
    worth = reached.flip(1).cumsum(dim=1).flip(1)
    return worth[place].view_as(entropy)


@torch.no_grad()
def accepted(
    adapter: MaskAdapter, hidden: Tensor, batch: GroupBatch, size: int
) -> tuple[Tensor, Tensor]:
    """Drafts as serving makes them: each row's choice follows the one before it.

    Args:
        hidden: (N, R, hidden) of groups that all have `size` rows, no token revealed.

    Returns:
        (size,) sums over the groups whose first row has a label: how often the drafts up to this
        offset were all right, and (size,) how often there was a label.
    """
    groups = hidden.unflatten(1, (-1, size)).flatten(0, 1)
    labels = batch.labels.unflatten(1, (-1, size)).flatten(0, 1)
    previous = batch.tokens.unflatten(1, (-1, size)).flatten(0, 1)[:, 0]
    right = torch.ones(len(groups), dtype=torch.bool, device=groups.device)
    hits, tried = [], []
    for offset in range(size):
        logits = adapter.logits(groups[:, offset], previous)
        previous = adapter.draft_ids[logits.argmax(dim=-1)]
        has_label = labels[:, offset] != UNLABELLED
        right = right & has_label & (previous == labels[:, offset])
        hits.append(right.sum())
        tried.append(has_label.sum())
    return torch.stack(hits), torch.stack(tried)
