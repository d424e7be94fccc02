"""Trains the drafter LoRA: the masks of a block learn to predict what the causal rows would.

As Nemotron-Labs-Diffusion's `linear_spec_lora` (arXiv 2607.05722): on o_proj, and only in rows that
draft. The loss is a KL/TV hybrid against the autoregressive distribution (its 200 likeliest tokens
at temperature 3) plus cross-entropy, over the drafts that decoding would accept and the first that
it would reject. The source gives no weights; here KL and TV count half each, cross-entropy whole.
All else is frozen. The clean rows, whose K/V the drafts attend to, run without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.lab.data.sampler import Branch, Draw, Example
from engine.lab.training.jobs.adapter_job import AdapterJob
from engine.lab.training.loss.objective import assemble
from engine.lab.training.run import StepReport
from engine.model.adapter import DrafterAdapter
from engine.model.network import Attend, Network

# Rows of a draft, as in linear_spec, whose window starts at 8 and follows the accepted length.
WINDOWS = (2, 4, 8, 16, 32)
_WINDOW_SHARES = (0.1, 0.3, 0.3, 0.15, 0.15)
_BLOCKS_PER_HOLE = 8  # a clean row costs as much as a drafting one and teaches nothing
_LIKELIEST, _SOFTENING = 200, 3.0
_HEAD_ROWS = 512
_SEED = 1


@dataclass(frozen=True, slots=True)
class Drafts:
    """N rows: blocks of a bonus token and masks over one hole's tokens.

    Attributes:
        tokens: (N,) int64.
        places: (N,) int64, index into the hole's tokens; it may lie beyond their end.
        blocks: (N,) int64; rows with the same number see each other.
        starts: (N,) int64; the row sees the hole's clean tokens before this index.
    """

    tokens: np.ndarray
    places: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """One forward's clean rows, and the draft rows that attend to them.

    Attributes:
        attention: the attention of the clean rows.
        tokens, positions: (R,) int64, the clean rows.
        draft_tokens, draft_positions: (N,) int64.
        sections: for each hole its draft rows, the S clean rows that any of them sees, and
            (rows, S + rows) bool what each sees.
        rows: (M,) int64, the draft rows that predict a token, block by block in order.
        teachers: (M,) int64, the clean row that predicts the same position.
        texts: (M,) int64, the token of the text at that position.
        offsets: (M,) int64, counted from 1 after each bonus token.
        clean_rows: the number of clean rows without padding.
    """

    attention: Attend
    tokens: Tensor
    positions: Tensor
    draft_tokens: Tensor
    draft_positions: Tensor
    sections: tuple[tuple[slice, Tensor, Tensor], ...]
    rows: Tensor
    teachers: Tensor
    texts: Tensor
    offsets: Tensor
    clean_rows: int


class DrafterJob(AdapterJob):
    """The adapter of one frozen network in training, as `run.Job`."""

    def __init__(
        self, network: Network, adapter: DrafterAdapter, draw: Draw, held_out: Draw, rate: float
    ) -> None:
        """
        Args:
            draw, held_out: draw the examples of one forward.
            rate: the peak learning rate.
        """
        super().__init__(network, adapter, rate)
        self.adapter = adapter
        self._draw = draw
        self._held_out = [self._batch(held_out, seed) for seed in range(2)]

    def step(self, share: float) -> StepReport:
        """Trains on one batch of drafts."""
        batch = self._batch(self._draw, 1000 + self.position.step)
        loss, accepted = draft_loss(self._network, self.adapter, batch)
        loss.backward()
        losses = {"loss": float(loss.detach()), "accepted": accepted}
        rows = batch.clean_rows + len(batch.draft_tokens)
        return StepReport(losses, rows, self._update(share))

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """The loss, and the tokens emitted per cycle as `draft_loss` counts them."""
        pairs = [draft_loss(self._network, self.adapter, batch) for batch in self._held_out]
        return {
            "loss": sum(float(loss) for loss, _ in pairs) / len(pairs),
            "accepted": sum(accepted for _, accepted in pairs) / len(pairs),
        }

    def _batch(self, draw: Draw, seed: int) -> DraftBatch:
        rng = np.random.default_rng([7, seed])
        mask_id = self._network.config.mask_id
        assert mask_id is not None
        weight = self._network.encoder.embed_tokens.weight
        return draft_batch(draw(rng), mask_id, rng, device=weight.device, dtype=weight.dtype)


def new_adapter(network: Network, rank: int, alpha: float) -> DrafterAdapter:
    """An adapter that adds nothing yet: A is random, B is zero, as PEFT starts them."""
    adapter = DrafterAdapter(network.config, rank, alpha)
    draw = torch.Generator().manual_seed(_SEED)
    for down in adapter.down:
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=draw)
    return adapter.to(network.encoder.embed_tokens.weight.device)


def draw_drafts(hole: Branch, mask_id: int, rng: np.random.Generator) -> Drafts | None:
    """A few blocks that start at random tokens of the hole's middle; None if it has only one."""
    length = len(hole.tokens) - hole.middle
    if length < 2:
        return None
    count = min(_BLOCKS_PER_HOLE, length - 1)
    seeds = hole.middle + np.sort(rng.choice(length - 1, count, replace=False))
    window = int(rng.choice(WINDOWS, p=_WINDOW_SHARES))
    places = seeds[:, None] + np.arange(window)
    tokens = np.full(places.shape, mask_id, dtype=np.int64)
    tokens[:, 0] = hole.tokens[seeds]
    return Drafts(
        tokens=tokens.reshape(-1),
        places=places.reshape(-1),
        blocks=np.repeat(np.arange(count), window),
        starts=np.repeat(seeds, window),
    )


def draft_batch(
    examples: Sequence[Example],
    mask_id: int,
    rng: np.random.Generator,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> DraftBatch:
    """Lays examples out as clean rows, with drafts for each of their holes."""
    clean = assemble(examples, [[] for _ in examples], device=device, dtype=dtype)
    parts: list[dict[str, np.ndarray]] = []
    sections: list[tuple[slice, Tensor, Tensor]] = []
    start = count = 0
    for example in examples:
        trunk, start = start, start + len(example.tokens)
        for hole in example.holes:
            branch, start = start, start + len(hole.tokens)
            drafts = draw_drafts(hole, mask_id, rng)
            if drafts is None:
                continue
            rows = slice(count, count + len(drafts.tokens))
            count = rows.stop
            seen = np.concatenate(
                (trunk + np.arange(hole.seen), branch + np.arange(len(hole.tokens)))
            )
            sees = torch.from_numpy(_sees(hole, drafts)).to(device)
            sections.append((rows, torch.from_numpy(seen).to(device), sees))
            offsets = drafts.places - drafts.starts
            wanted = np.flatnonzero((offsets > 0) & (drafts.places < len(hole.tokens)))
            places = drafts.places[wanted]
            parts.append(
                {
                    "draft_tokens": drafts.tokens,
                    "draft_positions": hole.seen + drafts.places,
                    "rows": rows.start + wanted,
                    "teachers": branch + places - 1,
                    "texts": hole.tokens[places],
                    "offsets": offsets[wanted],
                }
            )
    columns = {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts])).to(device)
        for name in parts[0]
    }
    return DraftBatch(
        attention=clean.attend,
        tokens=clean.tokens,
        positions=clean.positions,
        sections=tuple(sections),
        clean_rows=clean.rows,
        **columns,
    )


def draft_loss(
    network: Network, adapter: DrafterAdapter, batch: DraftBatch
) -> tuple[Tensor, float]:
    """The mean loss over the drafts that count, and the tokens emitted per cycle.

    A cycle decodes on from a bonus token while the text is what the model itself would write.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def record(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys.append(key)
        values.append(value)
        return batch.attention(layer, query, key, value)

    with torch.no_grad():
        clean = network(batch.tokens, batch.positions, record)

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [
            _attend(
                query[rows],
                torch.cat((keys[layer][seen], key[rows])),
                torch.cat((values[layer][seen], value[rows])),
                sees,
            )
            for rows, seen, sees in batch.sections
        ]
        return torch.cat(parts)

    ones = torch.ones((), dtype=clean.dtype, device=clean.device)
    drafted = network(
        batch.draft_tokens,
        batch.draft_positions,
        attend,
        adapter.draft(ones),
    )[batch.rows]
    teachers = clean[batch.teachers]
    wanted, chosen = likeliest(network, teachers), likeliest(network, drafted.detach())
    counts = counting_drafts(chosen == wanted, wanted == batch.texts, batch.offsets)
    hits = ((chosen == wanted) & counts).sum()
    cycles = (batch.offsets == 1).sum()
    picked = counts.nonzero()[:, 0]
    loss = _distance(network, drafted[picked], teachers[picked], wanted[picked])
    return loss / len(picked), float(1 + hits / cycles)


def counting_drafts(hits: Tensor, on_text: Tensor, offsets: Tensor) -> Tensor:
    """(M,) bool: the drafts before which all drafts of their block were accepted.

    No draft counts after a position where the model would not have written the text, because the
    model's distribution there belongs to another text.

    Args:
        hits: (M,) bool, whether the draft equals the causal row's token.
        on_text: (M,) bool, whether the causal row's token equals the text.
        offsets: (M,) int64, counted from 1 in each block.
    """
    passed = (hits & on_text).tolist()
    counts: list[bool] = []
    for index, offset in enumerate(offsets.tolist()):
        counts.append(offset == 1 or (counts[-1] and passed[index - 1]))
    return torch.tensor(counts, dtype=torch.bool, device=hits.device)


def hybrid_distance(student: Tensor, teacher: Tensor, wanted: Tensor) -> Tensor:
    """(M,) fp32: half KL plus half TV, over the teacher's likeliest tokens at a raised temperature,
    plus cross-entropy against the teacher's choice.

    Args:
        student, teacher: (M, V) fp32 logits.
        wanted: (M,) int64.
    """
    top = teacher.topk(min(_LIKELIEST, teacher.shape[-1]), dim=-1).indices
    expected = (teacher.gather(-1, top) / _SOFTENING).log_softmax(dim=-1)
    given = (student.gather(-1, top) / _SOFTENING).log_softmax(dim=-1)
    divergence = (expected.exp() * (expected - given)).sum(dim=-1) * _SOFTENING**2
    variation = (expected.exp() - given.exp()).abs().sum(dim=-1) / 2
    entropy = functional.cross_entropy(student, wanted, reduction="none")
    return 0.5 * divergence + 0.5 * variation + entropy


def _distance(network: Network, drafted: Tensor, teachers: Tensor, wanted: Tensor) -> Tensor:
    total = drafted.new_zeros((), dtype=torch.float32)
    for low in range(0, len(drafted), _HEAD_ROWS):
        part = slice(low, low + _HEAD_ROWS)
        with torch.no_grad():
            teacher = network.logits(teachers[part]).float()
        student = network.logits(drafted[part]).float()
        total = total + hybrid_distance(student, teacher, wanted[part]).sum()
    return total


@torch.no_grad()
def likeliest(network: Network, hidden: Tensor) -> Tensor:
    """(M,) int64 likeliest tokens as decoding chooses them, never the mask."""
    choices = []
    for part in hidden.split(_HEAD_ROWS):
        logits = network.logits(part)
        logits[:, network.config.mask_id] = float("-inf")
        choices.append(logits.argmax(dim=-1))
    return torch.cat(choices)


def _sees(hole: Branch, drafts: Drafts) -> np.ndarray:
    """(N, seen + B + N) bool: the trunk, the branch before the block, and the block."""
    trunk = np.ones((len(drafts.tokens), hole.seen), dtype=bool)
    earlier = np.arange(len(hole.tokens))[None, :] < drafts.starts[:, None]
    same = drafts.blocks[:, None] == drafts.blocks[None, :]
    return np.concatenate((trunk, earlier, same), axis=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, sees: Tensor) -> Tensor:
    """query (N, H, D), key and value (T, Hkv, D), sees (N, T) → (N, H, D)."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    mixed = functional.scaled_dot_product_attention(
        query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), attn_mask=sees
    )
    return mixed.transpose(0, 1)
