"""How long one operation takes on a device: by CUDA events on a card, by the clock elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.lab.rates import synchronize

_WARM_UP = 3
_REPEATS = 25
_IN_A_GRAPH = 10  # calls of one captured graph
_FLUSHED = 2**29  # bytes that are written before a cold run: more than any card's cache
# Cycles for which the card waits before a cold run, about 0.1 ms: meanwhile the processor queues
# the operation, so that its launch is not measured.
_WAITED = 200_000


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        cold: the median with nothing of its data in the card's cache.
        warm: the median of calls one after another, launches included only if `by` is "calls".
        by: how `warm` was measured: "graph" (a CUDA graph of calls), "calls", or "clock".
    """

    cold: float
    warm: float
    by: str


class Stopwatch:
    """Times operations on one device."""

    def __init__(self, device: torch.device, repeats: int = _REPEATS) -> None:
        self._device = device
        self._repeats = repeats
        self._flushed: torch.Tensor | None = None

    def time(self, run: Callable[[], object]) -> Timing:
        """Times one operation, after it has been compiled and has run a few times."""
        if self._device.type != "cuda":
            milliseconds = self._by_clock(run)
            return Timing(milliseconds, milliseconds, "clock")
        for _ in range(_WARM_UP):
            run()
        cold = self.cold(run)
        warm = self._by_graph(run)
        if warm is not None:
            return Timing(cold, warm, "graph")
        return Timing(cold, self._between(lambda: [run() for _ in range(_IN_A_GRAPH)]), "calls")

    def cold(self, run: Callable[[], object]) -> float:
        """Milliseconds with nothing in the cache; on a device without events, as `time`."""
        if self._device.type != "cuda":
            return self._by_clock(run)
        if self._flushed is None:
            self._flushed = torch.empty(_FLUSHED, dtype=torch.int8, device=self._device)
        pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        for _ in range(self._repeats):
            self._flushed.zero_()
            torch.cuda._sleep(_WAITED)
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            run()
            pair[1].record()
            pairs.append(pair)
        synchronize(self._device)
        return statistics.median(begun.elapsed_time(ended) for begun, ended in pairs)

    def _by_graph(self, run: Callable[[], object]) -> float | None:
        """Milliseconds of a call in a CUDA graph; None for what cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(_IN_A_GRAPH):
                    run()
        except RuntimeError:  # it waits for the card, or allocates outside of torch
            synchronize(self._device)
            return None
        return self._between(graph.replay)

    def _between(self, run: Callable[[], object]) -> float:
        """Milliseconds of one of the _IN_A_GRAPH calls that `run` makes."""
        run()
        found: list[float] = []
        for _ in range(3):
            begun = torch.cuda.Event(enable_timing=True)
            ended = torch.cuda.Event(enable_timing=True)
            begun.record()
            run()
            ended.record()
            synchronize(self._device)
            found.append(begun.elapsed_time(ended) / _IN_A_GRAPH)
        return statistics.median(found)

    def _by_clock(self, run: Callable[[], object]) -> float:
        run()
        found: list[float] = []
        for _ in range(self._repeats):
            began = time.perf_counter()
            run()
            found.append(time.perf_counter() - began)
        return 1000 * statistics.median(found)
