"""Runs one step: rows in, readings out. The only place where the network meets the cache.

Builds the visibility mask from the step's arrays and computes attention as the torch reference
does; the causal rows of exact sequences are computed tile by tile, so that a row's result depends
on its token, its position and what it sees, to the bit. Decides nothing: which rows, and what
becomes of the readings, is the strategy's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.api import Sampling
from engine.cache.storage import KVCache, PartView, StepView
from engine.errors import MemoryExhausted
from engine.model.adapter import DrafterAdapter
from engine.model.network import Draft, Network
from engine.model.readout import read
from engine.model.tiles import TILE_ROWS, Tile, to_tiles
from engine.model.visibility import visibility
from engine.reading import Reading
from engine.step import Step


class ModelRunner:
    """A loaded network as a function of steps. Called by the engine thread alone."""

    def __init__(
        self, network: Network, *, device: torch.device, adapter: DrafterAdapter | None = None
    ) -> None:
        self.network = network
        self.adapter = adapter
        self.device = device

    @torch.inference_mode()
    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`, in its order.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        try:
            logits = self._forward(step, cache)
            return read(logits, step, sampling, self.network.config.mask_id)
        except torch.OutOfMemoryError:
            raise self._exhausted(step) from None

    @torch.inference_mode()
    def logits(self, step: Step, cache: KVCache) -> Tensor:
        """Logits (len(step.read), V) fp32 of the rows that `step.read` names, for what compares
        networks; decoding goes without.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        try:
            return self._forward(step, cache)
        except torch.OutOfMemoryError:
            raise self._exhausted(step) from None

    def _exhausted(self, step: Step) -> MemoryExhausted:
        return MemoryExhausted(
            f"A step of {step.rows} rows does not fit on {self.device}.",
            remedy="Shorten the prompt or use a smaller checkpoint.",
            param="prompt",
        )

    def _forward(self, step: Step, cache: KVCache) -> Tensor:
        exact = cache.exact_sequences(step)
        if exact:
            return self._forward_exact(step, cache, exact)
        view = cache.view(step)
        # A single row sees all there is of its sequence.
        mask = None
        if step.rows > 1:
            mask = visibility_mask(step, cache.lengths(step)).to(self.device)
        hidden = self._hidden(step, range(step.rows), view, mask)
        return self._logits(hidden.index_select(0, self._index(step.read)))

    def _forward_exact(self, step: Step, cache: KVCache, exact: frozenset[int]) -> Tensor:
        """As `_forward`, the causal rows of exact sequences tile by tile, then all other rows."""
        tiles, rest = to_tiles(step, exact)
        cache.begin_parts(step)
        read = frozenset(step.read)
        logits: dict[int, Tensor] = {}
        for tile in tiles:
            hidden = self._tile_hidden(step, tile, cache)
            if read.isdisjoint(tile.rows):
                continue
            places = self._logits(hidden)  # of the whole tile: the head is a matrix product as well
            logits.update((row, places[tile.offset + i]) for i, row in enumerate(tile.rows))
        if rest:
            lengths = cache.lengths(step)
            view = cache.part_view([number for number, _ in lengths], rest, range(step.rows))
            mask = visibility_mask(step, lengths)[list(rest)].to(self.device)
            hidden = self._hidden(step, rest, view, mask)
            wanted = [index for index, row in enumerate(rest) if row in read]
            if wanted:
                others = self._logits(hidden.index_select(0, self._index(wanted)))
                logits.update((rest[index], others[i]) for i, index in enumerate(wanted))
        if not step.read:
            return torch.zeros(0, self.network.config.vocabulary, device=self.device)
        return torch.stack([logits[row] for row in step.read])

    def _tile_hidden(self, step: Step, tile: Tile, cache: KVCache) -> Tensor:
        """(TILE_ROWS, hidden): every shape and mask in here follows from `tile.start` alone."""
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
        self, step: Step, rows: Sequence[int], view: StepView | PartView, mask: Tensor | None
    ) -> Tensor:
        """(len(rows), hidden) of these rows in one forward, each seeing what its mask row allows.

        Args:
            mask: (len(rows), T) bool over the keys that the view gives; None shows all of them.
        """
        config = self.network.config
        if mask is not None:
            mask = mask.repeat(config.heads // config.kv_heads, 1)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = view.extend(layer, key, value)
            return step_attention(query, keys, values, mask)

        tokens = self._index([step.token[row] for row in rows])
        positions = self._index([step.position[row] for row in rows])
        return self.network(tokens, positions, attend, self._draft(step, rows))

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
        on = torch.tensor(flags, dtype=adapter.up[0].dtype)[:, None].to(self.device)
        return lambda layer, x: adapter(layer, x, on)


def visibility_mask(step: Step, lengths: list[tuple[int, int]]) -> Tensor:
    """As `engine.model.visibility.visibility`."""
    return torch.from_numpy(visibility(step, lengths))


def step_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what the mask allows.

    The query heads that share a K/V head are laid out as further rows, so that K and V are read
    once and never repeated.

    Args:
        query: (R, H, D).
        key, value: (T, Hkv, D).
        mask: (H / Hkv * R, T) bool, True where visible; the (R, T) mask repeated. None shows all.

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
    """`step_attention` of one tile in fp32, over a number of keys that its position decides.

    Args:
        query: (TILE_ROWS, H, D), padding included.
        key, value: (T, Hkv, D), the sequence up to the tile's last row, in order of position.
        masked_out: (H / Hkv * TILE_ROWS, N) bool, N >= T, True where not visible. Keys T to N are
            zeros and, as all masked ones, take part with a weight of exactly 0.

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
