"""The captured steps of one K/V store: its buffers, and a function for each bucket that was used.

Owns the memory in which steps of this store stand. Knows the store's pages, and no strategy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.cache.storage import KVCache
from engine.errors import MemoryExhausted
from engine.kernels.dispatch import padded
from engine.model.captured.buckets import EXACT_ROWS, ROWS, Bucket
from engine.model.captured.forward import Buffers, StepFunction
from engine.model.captured.inputs import Cached, Inputs, TileInputs
from engine.model.captured.records import columns_of, to_readings
from engine.model.captured.replay import Capture, Replay
from engine.model.captured.weights import Weights
from engine.model.tiles import Tile
from engine.reading import Reading
from engine.step import Step, chain


@dataclass(frozen=True, slots=True)
class _Ready:
    """A bucket's buffers, what computes in them, and where its records come back to.

    Attributes:
        records: (N, columns) fp64 on the host; pinned where the device is a card.
        arrived: recorded when they are there; None where the device is no card.
    """

    buffers: Buffers
    replay: Replay
    records: Tensor
    arrived: torch.cuda.Event | None


class CapturedSteps:
    """Runs steps on one store. Only the engine thread calls it."""

    def __init__(self, weights: Weights, cache: KVCache) -> None:
        """Keeps the cache's memory, and not the cache itself."""
        self._weights = weights
        self._store = cache.store
        self._pages_max = cache.counts().total
        # Buckets take turns, so that all write the keys and values of their rows to one place.
        self._new = self._room(ROWS[-1])
        self._new_exact: Tensor | None = None  # made for the first exact request
        self._ready: dict[Bucket, _Ready] = {}
        device = self._store.device
        self._capture = Capture(device) if device.type == "cuda" else None

    def run(self, bucket: Bucket, step: Step, cache: KVCache) -> Tensor:
        """Computes a step; returns the hidden states (R, hidden) of the bucket's rows, which are
        valid until the next step."""
        ready = self._of(bucket)
        inputs = ready.buffers.inputs
        assert isinstance(inputs, Inputs)
        inputs.load(step, cache.open_paged(step, self._new))
        ready.replay()
        return ready.buffers.hidden

    def begin_tiles(self, step: Step, cache: KVCache, others: Sequence[int]) -> dict[int, Cached]:
        """Opens a step that is computed tile by tile (`run_tile`); returns what is cached of its
        sequences.

        Args:
            others: rows in no tile. Their keys and values are those of the cache's last step, which
                was the same one, computed as one.
        """
        paged = cache.open_paged(step, self._room_of_tiles(step.rows), others)
        return dict(zip(dict.fromkeys(step.sequence), paged, strict=True))

    def run_tile(self, bucket: Bucket, step: Step, tile: Tile, cached: Cached) -> Tensor:
        """Computes a tile, after those with its ancestors; returns the hidden states of its places
        (TILE_ROWS, hidden), which are valid until the next one.

        Args:
            cached: what `begin_tiles` returned for the tile's sequence.
        """
        ready = self._of(bucket)
        inputs = ready.buffers.inputs
        assert isinstance(inputs, TileInputs)
        inputs.load(step, tile, cached)
        ready.replay()
        return ready.buffers.hidden

    def readings(self, bucket: Bucket, count: int) -> tuple[Reading, ...]:
        """The first readings of the step that `run` has computed; waits for them."""
        ready = self._of(bucket)
        ready.records.copy_(ready.buffers.records, non_blocking=True)
        if ready.arrived is not None:
            ready.arrived.record()
            ready.arrived.synchronize()
        return to_readings(ready.records[:count])

    def prepare(self, buckets: Iterator[Bucket]) -> Iterator[None]:
        """Captures these buckets' functions, one for each `next`."""
        for bucket in buckets:
            with torch.inference_mode():
                if bucket not in self._ready:
                    ready = self._of(bucket)
                    inputs = ready.buffers.inputs
                    assert isinstance(inputs, Inputs)
                    inputs.load(chain((0,), 0), [([], 0)])
                    ready.replay.prepare()
            yield

    def _room(self, rows: int) -> Tensor:
        """(L, rows, 2, Hkv, D) zeros."""
        layers, _, *size = self._store.shape
        return self._store.new_zeros((layers, rows, *size))

    def _room_of_tiles(self, rows: int = EXACT_ROWS) -> Tensor:
        """(L, at least `rows`, 2, Hkv, D). The same memory, until a step has more rows than any
        before it, which makes the functions of tiles anew.

        Raises:
            MemoryExhausted: there is no room for it.
        """
        if self._new_exact is None or self._new_exact.shape[1] < rows:
            self._ready = {each: ready for each, ready in self._ready.items() if not each.parts}
            self._new_exact = None  # before the larger one takes its memory
            try:
                self._new_exact = self._room(max(EXACT_ROWS, padded(rows)))
            except torch.OutOfMemoryError:
                raise MemoryExhausted(
                    f"The buffers of exact steps do not fit on {self._store.device}.",
                    remedy="Lower engine.cache_tokens.",
                    param="engine.cache_tokens",
                ) from None
        return self._new_exact

    def _of(self, bucket: Bucket) -> _Ready:
        if bucket not in self._ready:
            self._ready[bucket] = self._made(bucket)
        return self._ready[bucket]

    def _made(self, bucket: Bucket) -> _Ready:
        weights, store = self._weights, self._store
        config, device, pages_max = weights.config, store.device, self._pages_max
        if bucket.parts:
            new = self._room_of_tiles()
            inputs = TileInputs(bucket, pages_max, path_max=new.shape[1], device=device)
        else:
            shared = config.heads // config.kv_heads
            inputs = Inputs(bucket, pages_max, heads_per_kv_head=shared, device=device)
            new = self._new[:, : bucket.rows]
        records = torch.zeros((bucket.reads, columns_of(weights)), dtype=torch.float64)
        buffers = Buffers(
            inputs=inputs,
            store=store,
            new=new,
            hidden=weights.norm.new_zeros((bucket.rows, config.hidden)),
            records=torch.zeros_like(records, device=device),
        )
        is_card = self._capture is not None
        return _Ready(
            buffers=buffers,
            replay=Replay(StepFunction(weights, bucket, buffers), self._capture),
            records=records.pin_memory() if is_card and bucket.reads else records,
            arrived=torch.cuda.Event() if is_card else None,
        )
