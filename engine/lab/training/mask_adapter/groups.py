"""Groups of mask rows, hung on places of sequences that the model wrote.

A group of k rows after the anchor p stands at places p + 1 … p + k; its row at place p + j predicts
the token at p + j + 1, as a causal row there would (token shift). The anchor's own causal row gives
p + 1 exactly. Rows of a group see each other in both directions and the clean tokens up to the
anchor. In some groups some tokens are revealed, as in a block that is half denoised.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.lab.training.mask_adapter.teacher import Written

# Rows of the groups of one sequence: long blocks serve short ones, not the reverse.
LAYOUT = (16,) * 8 + (8,) * 28 + (5,) * 16 + (3,) * 16 + (2,) * 16
_PROMPT_WEIGHT = 0.3
_RUN_MAX = 8
_REVEALED_SHARE = 0.25
UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Mask rows of N sequences, R each.

    Attributes:
        anchors: (N, R) int64, the last clean place that a row sees.
        offsets: (N, R) int64, 1 for the first row of a group.
        tokens: (N, R) int64, the token at the row's own place; meaningful where `revealed`.
        revealed: (N, R) bool, rows that carry their token and no mask.
        previous: (N, R) int64, the token at the row's place where it is known when the row is read,
            else UNLABELLED.
        labels: (N, R) int64, the token after the row's place; UNLABELLED where none is known or it
            is revealed.
        drafting: (N, R) bool, rows of groups without a revealed token.
    """

    anchors: Tensor
    offsets: Tensor
    tokens: Tensor
    revealed: Tensor
    previous: Tensor
    labels: Tensor
    drafting: Tensor

    def slice(self, rows: slice) -> GroupBatch:
        """Some of the sequences."""
        parts = {each.name: getattr(self, each.name)[rows] for each in fields(self)}
        return GroupBatch(**parts)


def runs(written: Written) -> Tensor:
    """(N, T) int64: after each place, for how many tokens the text is what the model would write.

    At a place p with run n the labels at p + 1 … p + n are the model's own continuation.
    """
    tokens, greedy = written.tokens, written.greedy
    length = tokens.shape[1]
    places = torch.arange(length, device=tokens.device)
    agrees = torch.zeros_like(tokens, dtype=torch.bool)
    agrees[:, :-1] = tokens[:, 1:] == greedy[:, :-1]
    agrees &= places < written.ends[:, None] - 1
    # The nearest place from here on at which text and model part.
    parting = torch.where(agrees, length, places)
    nearest = parting.flip(1).cummin(dim=1).values.flip(1)
    return nearest - places


def draw_groups(
    written: Written,
    layout: tuple[int, ...],
    generator: torch.Generator,
    *,
    revealed_share: float = _REVEALED_SHARE,
    middles_only: bool = False,
) -> GroupBatch:
    """A batch of groups of the lengths in `layout` for every sequence, at random anchors."""
    device = written.tokens.device
    run = runs(written)
    weight = run.clamp(max=_RUN_MAX).float()
    places = torch.arange(run.shape[1], device=device)
    weight[:, places < written.start - 1] *= 0.0 if middles_only else _PROMPT_WEIGHT
    noise = torch.rand(weight.shape, device=device, generator=generator).clamp(1e-9, 1 - 1e-6)
    keys = weight.log() - (-noise.log()).log()  # Gumbel: drawn without replacement, by weight
    anchors = keys.topk(len(layout), dim=1).indices  # (N, G)
    usable = weight.gather(1, anchors) > 0
    group = torch.repeat_interleave(
        torch.arange(len(layout), device=device), torch.tensor(layout, device=device)
    )
    offsets = torch.cat([torch.arange(1, size + 1) for size in layout]).to(device)
    row_anchors = anchors[:, group]
    row_runs = torch.where(usable[:, group], run.gather(1, row_anchors), 0)
    offsets = offsets.expand_as(row_anchors)
    at = (row_anchors + offsets).clamp(max=run.shape[1] - 1)
    tokens = written.tokens.long().gather(1, at)
    labels = written.greedy.long().gather(1, at)
    known = offsets <= row_runs
    labels = torch.where(known, labels, UNLABELLED)

    chosen = torch.rand(anchors.shape, device=device, generator=generator) < revealed_share
    rates = torch.rand(anchors.shape, device=device, generator=generator)
    dice = torch.rand(labels.shape, device=device, generator=generator)
    revealed = chosen[:, group] & known & ((dice < rates[:, group]) | (offsets == 1))
    drafting = ~chosen[:, group]
    # Row j's label is the token that row j + 1 reveals.
    following = torch.zeros_like(revealed)
    following[:, :-1] = revealed[:, 1:] & (offsets[:, 1:] > 1)
    labels = torch.where(following, UNLABELLED, labels)
    previous = torch.where(known & (drafting | revealed), tokens, UNLABELLED)
    return GroupBatch(row_anchors, offsets, tokens, revealed, previous, labels, drafting)


def visible(batch: GroupBatch, layout: tuple[int, ...], length: int) -> Tensor:
    """(N, R, length + R) bool: the clean places up to the anchor, and the row's own group."""
    device = batch.anchors.device
    sizes = torch.tensor(layout, device=device)
    group = torch.repeat_interleave(torch.arange(len(layout), device=device), sizes)
    own = (group[:, None] == group[None, :]).expand(len(batch.anchors), -1, -1)
    clean = torch.arange(length, device=device) <= batch.anchors[..., None]
    return torch.cat((clean, own), dim=-1)
