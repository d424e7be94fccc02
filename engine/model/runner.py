"""Runs one step: rows in, readings out. The only place where the network meets the cache.

Builds the visibility mask from the step's arrays and computes attention with torch's reference. The
causal rows of exact sequences are computed tile by tile, so that a row's result depends, to the
bit, on its token, its position and what it sees only. The strategy decides which rows are computed
and what follows from their readings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.api import Sampling
from engine.cache.storage import KVCache, PartView, StepView
from engine.drafting import DraftHead
from engine.errors import MemoryExhausted
from engine.model.network import Draft, Network, Product
from engine.model.readout import read
from engine.model.tiles import TILE_ROWS, Tile, to_tiles
from engine.model.visibility import visibility
from engine.reading import Reading
from engine.step import Step

# query (R, H, D), key and value (T, Hkv, D) of the view → (R, H, D)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class RowAdapter(Protocol):
    """An adapter that some rows of a forward run with: the drafter LoRA or a mask adapter."""

    def embed(self, network: Network, tokens: Tensor) -> Tensor:
        """(..., T, hidden) in the weights' dtype, of tokens and of masks."""
        ...

    def draft(self, rows: Tensor) -> Draft:
        """The additions for rows (..., T, 1) that are 1, in the weights' dtype."""
        ...

    def factors(self, layer: int, product: Product) -> tuple[Tensor, Tensor] | None:
        """(rank, in) and (out, rank), whose product with a row's input is added to the row; None if
        nothing is added to this product."""
        ...

    @property
    def masks(self) -> int:
        """The number of masks that it has as tokens after the vocabulary."""
        ...


class ModelRunner:
    """A loaded network as a function of steps. Only the engine thread calls it."""

    def __init__(
        self,
        network: Network,
        *,
        device: torch.device,
        adapter: RowAdapter | None = None,
        drafts: DraftHead | None = None,
    ) -> None:
        """
        Args:
            drafts: reads the draft rows of a mask adapter.
        """
        self.network = network
        self.adapter = adapter
        self.drafts = drafts
        self.device = device
        first, masks = network.config.vocabulary, adapter.masks if adapter is not None else 0
        self.draft_masks = tuple(range(first, first + masks))
        self._dtype = next(network.parameters()).dtype

    @torch.inference_mode()
    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`, in its order.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        with self._memory_for(step):
            return self.readings(self._forward(step, cache), step, sampling)

    def expect(self, cache: KVCache) -> None:
        """Is told of a cache that steps will be computed with. There is nothing to do."""

    def settle(self) -> Iterator[None]:
        """As `engine.runtime.Runtime.settle`. There is nothing to do."""
        return iter(())

    def readings(self, logits: Tensor, step: Step, sampling: Sampling) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`, of its logits (len(step.read), V)."""
        return read(logits, step, sampling, self.network.config.mask_id, self.drafts)

    @torch.inference_mode()
    def logits(self, step: Step, cache: KVCache) -> Tensor:
        """(len(step.read), V) fp32 logits of the rows that `step.read` names. They are for code
        that compares networks; decoding needs readings only.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        with self._memory_for(step):
            return self._forward(step, cache)

    @contextmanager
    def _memory_for(self, step: Step) -> Iterator[None]:
        """Turns torch's error about missing memory into MemoryExhausted."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise MemoryExhausted(
                f"A step of {step.rows} rows does not fit on {self.device}.",
                remedy="Shorten the prompt or use a smaller checkpoint.",
                param="prompt",
            ) from None

    def _forward(self, step: Step, cache: KVCache) -> Tensor:
        exact = cache.exact_sequences(step)
        if exact:
            return self._forward_exact(step, cache, exact)
        return self._forward_as_one(step, cache)

    def _forward_as_one(self, step: Step, cache: KVCache) -> Tensor:
        """As `_forward`, all rows in one forward, those of exact sequences too."""
        view = cache.view(step)
        hidden = self._hidden(step, range(step.rows), view, self._attention(step, cache))
        return self._logits(hidden.index_select(0, self._index(step.read)))

    def _forward_exact(self, step: Step, cache: KVCache, exact: frozenset[int]) -> Tensor:
        """As `_forward`: first the causal rows of exact sequences by tiles, then all other rows."""
        tiles, rest = to_tiles(step, exact)
        cache.begin_parts(step)
        read = frozenset(step.read)
        logits: dict[int, Tensor] = {}
        for tile in tiles:
            hidden = self._tile_hidden(step, tile, cache)
            if read.isdisjoint(tile.rows):
                continue
            places = self._logits(hidden)  # of the whole tile, since the head is a product too
            logits.update((row, places[tile.offset + i]) for i, row in enumerate(tile.rows))
        if rest:
            view = cache.part_view(dict.fromkeys(step.sequence), rest, range(step.rows))
            attention = self._masked(self._mask(step, cache)[list(rest)])
            hidden = self._hidden(step, rest, view, attention)
            wanted = [index for index, row in enumerate(rest) if row in read]
            if wanted:
                others = self._logits(hidden.index_select(0, self._index(wanted)))
                logits.update((rest[index], others[i]) for i, index in enumerate(wanted))
        if not step.read:
            return torch.zeros(0, self.network.config.vocabulary, device=self.device)
        return torch.stack([logits[row] for row in step.read])

    def _tile_hidden(self, step: Step, tile: Tile, cache: KVCache) -> Tensor:
        """(TILE_ROWS, hidden); every shape and mask depends on `tile.start` only."""
        end = tile.offset + len(tile.rows)
        view = cache.part_view([tile.sequence], tile.rows, (*tile.before, *tile.rows))
        positions = torch.arange(tile.start, tile.start + TILE_ROWS).to(self.device)
        masked_out = torch.arange(tile.keys).to(self.device) > positions[:, None]
        mask = masked_out.repeat(self.network.config.heads // self.network.config.kv_heads, 1)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = view.extend(layer, key[tile.offset : end], value[tile.offset : end])
            return tile_attention(query, keys, values, mask)

        tokens = [0] * TILE_ROWS
        tokens[tile.offset : end] = [step.token[row] for row in tile.rows]
        return self.network(self._index(tokens), positions, attend)

    def _hidden(
        self,
        step: Step,
        rows: Sequence[int],
        view: StepView | PartView,
        attention: Attention,
    ) -> Tensor:
        """(len(rows), hidden) of these rows, computed in one forward."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return attention(query, *view.extend(layer, key, value))

        tokens = self._index([step.token[row] for row in rows])
        positions = self._index([step.position[row] for row in rows])
        draft = self._draft(step, rows)
        if draft is None or self.adapter is None:
            return self.network(tokens, positions, attend)
        embedded = self.adapter.embed(self.network, tokens)
        return self.network.from_embeddings(embedded, positions, attend, draft)

    def _attention(self, step: Step, cache: KVCache) -> Attention:
        """Attention of all rows of a step over the keys and values of its view."""
        # A single row sees everything of its sequence.
        return self._masked(self._mask(step, cache) if step.rows > 1 else None)

    def _masked(self, mask: Tensor | None) -> Attention:
        """`step_attention` with a mask.

        Args:
            mask: (R, T) bool, true where a key of the view is visible; None shows all keys.
        """
        config = self.network.config
        if mask is not None:
            mask = mask.repeat(config.heads // config.kv_heads, 1)
        return lambda query, key, value: step_attention(query, key, value, mask)

    def _mask(self, step: Step, cache: KVCache) -> Tensor:
        """(R, P + R) bool, as `engine.model.visibility.visibility`."""
        return torch.from_numpy(visibility(step, cache.lengths(step))).to(self.device)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.network.logits(hidden).float()

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.device)

    def _draft(self, step: Step, rows: Sequence[int]) -> Draft | None:
        flags = [step.drafter[row] for row in rows]
        if not any(flags):
            return None
        adapter = self.adapter
        assert adapter is not None, "no drafter adapter is loaded"
        return adapter.draft(torch.tensor(flags, dtype=self._dtype)[:, None].to(self.device))


def step_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible keys.

    The query heads that share a K/V head become further rows, so that K and V are read once and
    not repeated.

    Args:
        query: (R, H, D).
        key, value: (T, Hkv, D).
        mask: (H / Hkv * R, T) bool, true where visible; the (R, T) mask repeated. None shows all.

    Returns:
        (R, H, D).
    """
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.unflatten(1, (kv_heads, heads // kv_heads)).permute(1, 2, 0, 3)
    mixed = functional.scaled_dot_product_attention(
        grouped.reshape(1, kv_heads, -1, width),
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
    )
    mixed = mixed.view(kv_heads, heads // kv_heads, rows, width)
    return mixed.permute(2, 0, 1, 3).reshape(rows, heads, width)


def tile_attention(query: Tensor, key: Tensor, value: Tensor, masked_out: Tensor) -> Tensor:
    """`step_attention` for one tile in fp32, over a number of keys that depends on its position.

    Args:
        query: (TILE_ROWS, H, D), padding included.
        key, value: (T, Hkv, D), the sequence up to the tile's last row, in order of position.
        masked_out: (H / Hkv * TILE_ROWS, N) bool, N >= T, true where not visible. The keys from T
            on are zeros and, like all masked ones, have a weight of exactly 0.

    Returns:
        (TILE_ROWS, H, D) in the query's dtype.
    """
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    padding = (0, 0, 0, 0, 0, masked_out.shape[1] - key.shape[0])
    keys, values = (functional.pad(x.float(), padding).transpose(0, 1) for x in (key, value))
    grouped = query.float().unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    scores = grouped.reshape(kv_heads, -1, width) @ keys.mT / math.sqrt(width)
    weights = scores.masked_fill_(masked_out, float("-inf")).softmax(dim=-1)
    mixed = (weights @ values).view(kv_heads, -1, rows, width)
    return mixed.permute(2, 0, 1, 3).reshape(rows, heads, width).to(query.dtype)
