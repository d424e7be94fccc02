"""A loaded network as a function of steps, computed in captured steps where that is possible.

The clear runner computes steps of more rows than the largest bucket, which are prompts; their
attention is the library's fastest for a causal chain. Both write the same pages. The causal rows of
exact sequences are computed tile by tile, in one bucket for all tiles. Tokens that are drawn at a
temperature are chosen from whole logits, outside of the capture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.api import Sampling
from engine.cache.storage import KVCache
from engine.drafting import DraftHead
from engine.errors import MemoryExhausted
from engine.model.captured.buckets import (
    READS_MIN,
    Bucket,
    bucket_of,
    bucket_of_tile,
    usual_buckets,
)
from engine.model.captured.prefill import chain_attention, is_chain
from engine.model.captured.steps import CapturedSteps
from engine.model.captured.weights import weights_of
from engine.model.network import Network
from engine.model.runner import Attention, ModelRunner, RowAdapter
from engine.model.tiles import TILE_ROWS, to_tiles
from engine.reading import Reading
from engine.step import Step

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class CapturedRunner(ModelRunner):
    """As `ModelRunner`. Only the engine thread calls it."""

    def __init__(
        self,
        network: Network,
        *,
        device: torch.device,
        adapter: RowAdapter | None = None,
        drafts: DraftHead | None = None,
    ) -> None:
        super().__init__(network, device=device, adapter=adapter, drafts=drafts)
        self._weights = weights_of(network, adapter, drafts)
        self.has_tiles = True  # whether it computes exact sequences, or the clear runner does
        # A store that is given up takes its graphs and buffers with it.
        self._steps: WeakKeyDictionary[KVCache, CapturedSteps] = WeakKeyDictionary()

    @torch.inference_mode()
    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """As `ModelRunner.__call__`."""
        with self._memory_for(step):
            if not cache.exact_sequences(step):
                return self._read_as_one(step, cache, sampling)
            if sampling.temperature > 0 or not self.has_tiles:
                return self.readings(self._exact_logits(step, cache), step, sampling)
            steps = self.steps_of(cache)

            def read(bucket: Bucket, hidden: Tensor) -> Sequence[Reading]:
                return steps.readings(bucket, TILE_ROWS)

            def others() -> Sequence[Reading]:
                return self._read_as_one(step, cache, sampling)

            return tuple(self._by_tiles(step, cache, read, others, reads=True))

    @torch.inference_mode()
    def logits(self, step: Step, cache: KVCache) -> Tensor:
        """As `ModelRunner.logits`."""
        with self._memory_for(step):
            if cache.exact_sequences(step):
                return self._exact_logits(step, cache)
            return self._logits_as_one(step, cache)

    def bucket(self, step: Step, cache: KVCache, *, reads: bool = True) -> Bucket | None:
        """The bucket that a step is computed in as one; None if it has exact sequences or the clear
        runner computes it."""
        return None if cache.exact_sequences(step) else self._bucket(step, reads=reads)

    def expect(self, cache: KVCache) -> None:
        """Has `settle` capture steps with this cache.

        Raises:
            MemoryExhausted: there is no memory for their keys and values.
        """
        try:
            self.steps_of(cache)
        except torch.OutOfMemoryError:
            raise MemoryExhausted(
                f"The buffers of captured steps do not fit on {self.device}.",
                remedy="Lower engine.cache_tokens.",
                param="engine.cache_tokens",
            ) from None

    @torch.inference_mode()
    def steps_of(self, cache: KVCache) -> CapturedSteps:
        """The captured steps of a store."""
        steps = self._steps.get(cache)
        if steps is None:
            steps = self._steps[cache] = CapturedSteps(self._weights, cache)
        return steps

    def settle(self) -> Iterator[None]:
        """Captures what requests will usually need, one bucket for each `next`, on a card. Without
        it each would be captured when it is first needed, which takes longer than its step."""
        if self.device.type != "cuda":
            return
        for steps in list(self._steps.values()):
            buckets = usual_buckets(
                has_adapter=self.adapter is not None, has_draft_rows=bool(self.draft_masks)
            )
            try:
                yield from steps.prepare(buckets)
            except torch.OutOfMemoryError:
                logger.warning("not all usual steps could be captured: no memory is left")

    def _read_as_one(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """The readings of a step in one forward, whether its sequences are exact or not."""
        bucket = self._bucket(step, reads=sampling.temperature == 0)
        if bucket is None:
            return self.readings(self._forward_as_one(step, cache), step, sampling)
        hidden = self.steps_of(cache).run(bucket, step, cache)
        if bucket.reads:
            return self.steps_of(cache).readings(bucket, len(step.read))
        return self.readings(self._read(hidden, step), step, sampling) if step.read else ()

    def _logits_as_one(self, step: Step, cache: KVCache) -> Tensor:
        """(len(step.read), V) fp32 of a step in one forward, as `_read_as_one`."""
        bucket = self._bucket(step, reads=False)
        if bucket is None:
            return self._forward_as_one(step, cache)
        return self._read(self.steps_of(cache).run(bucket, step, cache), step)

    def _exact_logits(self, step: Step, cache: KVCache) -> Tensor:
        """(len(step.read), V) fp32, those of exact sequences' causal rows by tiles."""
        if not self.has_tiles:
            return self._forward(step, cache)

        def read(bucket: Bucket, hidden: Tensor) -> Sequence[Tensor]:
            return self._logits(hidden).unbind()

        def others() -> Sequence[Tensor]:
            return self._logits_as_one(step, cache).unbind()

        found = self._by_tiles(step, cache, read, others, reads=False)
        size = (0, self.network.config.vocabulary)
        return torch.stack(found) if found else torch.zeros(size, device=self.device)

    def _by_tiles(
        self,
        step: Step,
        cache: KVCache,
        read: Callable[[Bucket, Tensor], Sequence[Found]],
        others: Callable[[], Sequence[Found]],
        *,
        reads: bool,
    ) -> list[Found]:
        """What `read` makes of a tile's hidden states, for the rows that the step reads.

        Rows in no tile are drafts or belong to others. Where there are some, the whole step is
        computed as one before, by `others`; what that says of the tiles' rows is thrown away.
        """
        tiles, rest = to_tiles(step, cache.exact_sequences(step))
        as_one = others() if rest else ()
        steps, wanted, found = self.steps_of(cache), frozenset(step.read), dict[int, Found]()
        cached = steps.begin_tiles(step, cache, rest)
        for tile in tiles:
            is_read = not wanted.isdisjoint(tile.rows)
            bucket = bucket_of_tile(tile, reads=reads and is_read)
            hidden = steps.run_tile(bucket, step, tile, cached[tile.sequence])
            if is_read:
                places = read(bucket, hidden)
                found.update((row, places[tile.offset + i]) for i, row in enumerate(tile.rows))
        return [found[row] if row in found else as_one[i] for i, row in enumerate(step.read)]

    def _attention(self, step: Step, cache: KVCache) -> Attention:
        return chain_attention if is_chain(step) else super()._attention(step, cache)

    def _bucket(self, step: Step, *, reads: bool) -> Bucket | None:
        assert self.adapter is not None or not any(step.drafter), "no drafter adapter is loaded"
        return bucket_of(step, reads=reads)

    def _read(self, hidden: Tensor, step: Step) -> Tensor:
        """(len(step.read), V) fp32 logits, in a product of as many rows as the records' has."""
        rows = [*step.read, *[0] * (READS_MIN - len(step.read))]
        return self._logits(hidden.index_select(0, self._index(rows)))[: len(step.read)]
