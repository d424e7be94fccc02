"""What is trained: LoRA on all linears at mask rows, mask vectors, and a Markov head.

The network itself is frozen. Clean rows run without any of it and give the K/V and the final states
that mask rows are trained against. The Markov head adds a low-rank bias by the token before each
place (as in DSpark), so that drafts of one group depend on each other without a further forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.lab.training.jobs.lora import LowRank
from engine.lab.training.mask_adapter.groups import UNLABELLED, GroupBatch, visible
from engine.lab.training.mask_adapter.teacher import Written, causal
from engine.model.network import Network

_SEED = 1


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """How an adapter is built.

    Attributes:
        rank, alpha: of the LoRA; its scale is alpha / rank.
        masks: mask vectors, by offset in the group; further offsets share the last.
        markov_rank: of the bias by the token before; 0 for none.
    """

    rank: int = 32
    alpha: float = 32.0
    masks: int = 16
    markov_rank: int = 64


class MaskAdapter(nn.Module):
    """The trained parameters, fp32.

    Attributes:
        lowrank: LoRA factors of every linear.
        mask_vectors: (masks, hidden), the embeddings of mask rows.
        before, after: (D + 2, markov rank) and (markov rank, D) over a draft vocabulary of D: row D
            stands for tokens outside it, row D + 1 for an unknown token.
        draft_ids: (D,) int64, the tokens that may be drafted, ascending.
    """

    draft_ids: Tensor
    place_of: Tensor

    def __init__(self, network: Network, options: AdapterOptions, draft_ids: np.ndarray) -> None:
        super().__init__()
        self.options = options
        embedding = network.encoder.embed_tokens.weight
        device = embedding.device
        self.lowrank = LowRank(network, options.rank, options.alpha, ())
        ids = torch.from_numpy(draft_ids.astype(np.int64)).to(device)
        known = embedding[ids].float()
        draw = torch.Generator().manual_seed(_SEED)
        noise = torch.randn(options.masks, embedding.shape[1], generator=draw).to(device)
        self.mask_vectors = nn.Parameter(known.mean(dim=0) + 0.1 * known.std() * noise)
        rank, count = options.markov_rank, len(draft_ids)
        before = torch.randn(count + 2, rank, generator=draw) * 0.05
        self.before = nn.Parameter(before.to(device))
        self.after = nn.Parameter(torch.zeros(rank, count, device=device))
        place_of = torch.full((network.config.vocabulary,), count, device=device)
        place_of[ids] = torch.arange(count, device=device)
        self.register_buffer("draft_ids", ids, persistent=False)
        self.register_buffer("place_of", place_of, persistent=False)
        # The rows of the head that drafts are read from, once and for all.
        self._head = network.diffusion_head.weight[ids]

    def embed(self, network: Network, batch: GroupBatch) -> Tensor:
        """(N, R, hidden): the mask vector of the row's offset, or its token's embedding."""
        vectors = self.mask_vectors.to(network.encoder.embed_tokens.weight.dtype)
        masks = vectors[(batch.offsets - 1).clamp(max=len(vectors) - 1)]
        return torch.where(
            batch.revealed[..., None], network.encoder.embed_tokens(batch.tokens), masks
        )

    def logits(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """(M, D) fp32 over the draft vocabulary.

        Args:
            hidden: (M, hidden).
            previous: (M,) int64, the token at the row's place, or UNLABELLED.
        """
        logits = functional.linear(hidden, self._head).float()
        if self.options.markov_rank:
            rows = self.before[self.draft_place(previous, unknown=len(self.draft_ids) + 1)]
            bias = rows.to(hidden.dtype) @ self.after.to(hidden.dtype)
            logits = logits + bias.float()
        return logits

    def draft_place(self, tokens: Tensor, *, unknown: int) -> Tensor:
        """Index in the draft vocabulary, its size for tokens outside it."""
        return torch.where(tokens == UNLABELLED, unknown, self.place_of[tokens.clamp(min=0)])


@dataclass(frozen=True, slots=True)
class Clean:
    """What the clean rows of N sequences gave: per layer K and V (N, T, Hkv, D), final states."""

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor


@torch.no_grad()
def run_clean(network: Network, written: Written) -> Clean:
    """The sequences' own rows, causal and without the adapter."""
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        keys.append(key)
        values.append(value)
        return causal(query, key, value)

    tokens = written.tokens.long()
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return Clean(keys, values, network(tokens, positions, attend))


def run_masks(
    network: Network,
    adapter: MaskAdapter,
    clean: Clean,
    batch: GroupBatch,
    layout: tuple[int, ...],
) -> Tensor:
    """(N, R, hidden) final states of the groups' rows, with gradient."""
    length = clean.hidden.shape[1]
    sees = visible(batch, layout, length)[:, None]

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        repeats = query.shape[2] // key.shape[2]
        joined = (
            torch.cat(pair, dim=1).repeat_interleave(repeats, dim=2).transpose(1, 2)
            for pair in ((clean.keys[layer], key), (clean.values[layer], value))
        )
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), *joined, attn_mask=sees
        )
        return mixed.transpose(1, 2)

    with adapter.lowrank.attached(network):
        return network.from_embeddings(
            adapter.embed(network, batch), batch.anchors + batch.offsets, attend
        )
