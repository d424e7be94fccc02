"""Runs the function of a bucket: captured once as a CUDA graph and replayed, or called.

Capturing is written by torch's rules and has not been run, for want of a card: `make gpu` does. The
function must have warmed up before, on the stream that captures, because a first call compiles
kernels and makes the libraries' workspaces; graphs of one store share a pool of memory, since one
is replayed at a time and none reads what another left there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WARM_UPS = 2


class Replay:
    """A function without arguments whose effects are in fixed buffers."""

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any) -> None:
        """
        Args:
            pool: of `torch.cuda.graph_pool_handle`; None where the device is no card.
        """
        self._function = function
        self._device = device
        self._pool = pool
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Leaves the function's results in its buffers, in the order of the current stream."""
        if self._device.type != "cuda":
            self._function()
            return
        self.prepare()
        assert self._graph is not None
        self._graph.replay()

    def prepare(self) -> None:
        """Captures the function, unless that is done or the device is no card. Runs it with what
        stands in the buffers, so that these must hold a step."""
        if self._device.type != "cuda" or self._graph is not None:
            return
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._function()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the card meanwhile: only this thread's calls are checked.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            self._function()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._graph = graph
