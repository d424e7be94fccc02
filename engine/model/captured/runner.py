"""A loaded network as a function of steps, computed in captured steps where that is possible.

The clear runner computes what captured steps do not: exact sequences, whose rows have tiles of
their own, and steps of more rows than the largest bucket, which are prompts; their attention is the
library's fastest for a causal chain. Both write the same pages. Tokens that are drawn at a
temperature are chosen from whole logits, outside of the capture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.api import Sampling
from engine.cache.storage import KVCache
from engine.drafting import DraftHead
from engine.errors import MemoryExhausted
from engine.model.captured.buckets import READS_MIN, Bucket, bucket_of, usual_buckets
from engine.model.captured.prefill import chain_attention, is_chain
from engine.model.captured.steps import CapturedSteps
from engine.model.captured.weights import weights_of
from engine.model.network import Network
from engine.model.runner import Attention, ModelRunner, RowAdapter
from engine.reading import Reading
from engine.step import Step

logger = logging.getLogger(__name__)


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
        # A store that is given up takes its graphs and buffers with it.
        self._steps: WeakKeyDictionary[KVCache, CapturedSteps] = WeakKeyDictionary()

    @torch.inference_mode()
    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """As `ModelRunner.__call__`."""
        bucket = self.bucket(step, cache, reads=sampling.temperature == 0)
        if bucket is None:
            return super().__call__(step, cache, sampling)
        with self._memory_for(step):
            hidden = self.steps_of(cache).run(bucket, step, cache)
            if bucket.reads:
                return self.steps_of(cache).readings(bucket, len(step.read))
            return self.readings(self._read(hidden, step), step, sampling) if step.read else ()

    @torch.inference_mode()
    def logits(self, step: Step, cache: KVCache) -> Tensor:
        """As `ModelRunner.logits`."""
        bucket = self.bucket(step, cache, reads=False)
        if bucket is None:
            return super().logits(step, cache)
        with self._memory_for(step):
            return self._read(self.steps_of(cache).run(bucket, step, cache), step)

    def bucket(self, step: Step, cache: KVCache, *, reads: bool = True) -> Bucket | None:
        """The bucket that a step is computed in; None if the clear runner computes it."""
        assert self.adapter is not None or not any(step.drafter), "no drafter adapter is loaded"
        if cache.exact_sequences(step):
            return None
        return bucket_of(step, reads=reads)

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

    def _attention(self, step: Step, cache: KVCache) -> Attention:
        return chain_attention if is_chain(step) else super()._attention(step, cache)

    def _read(self, hidden: Tensor, step: Step) -> Tensor:
        """(len(step.read), V) fp32 logits, in a product of as many rows as the records' has."""
        rows = [*step.read, *[0] * (READS_MIN - len(step.read))]
        return self._logits(hidden.index_select(0, self._index(rows)))[: len(step.read)]
