"""Runs the function of a bucket: captured once as a CUDA graph and replayed, or called.

The capture is written by torch's rules and has not been run, for want of a card: `make gpu` does.
The function warms up on the stream that captures it, because its first call compiles kernels and
makes the library's workspaces. The graphs of a store share a pool of memory: one is replayed at a
time, and none reads what another left there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WARM_UPS = 2


class Capture:
    """Where the graphs of one store are captured: a stream beside the current one, and a pool.

    Attributes:
        pool: what `torch.cuda.graph_pool_handle` gave.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool: Any = torch.cuda.graph_pool_handle()

    def of(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The graph of a function without arguments, whose effects are in fixed buffers. Runs the
        function with what stands in them."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(_WARM_UPS):
                function()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the card meanwhile: only calls of this one are checked.
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            function()
        current.wait_stream(self.stream)
        return graph


class Replay:
    """A function without arguments whose effects are in fixed buffers."""

    def __init__(self, function: Callable[[], None], capture: Capture | None) -> None:
        """
        Args:
            capture: None where the function is called instead, on a processor.
        """
        self._function = function
        self._capture = capture
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Leaves the function's results in its buffers, in the order of the current stream. On a
        card it allocates nothing, but the first time."""
        if self._capture is None:
            self._function()
            return
        self.prepare()
        assert self.graph is not None
        self.graph.replay()

    def prepare(self) -> None:
        """Captures the function, unless that is done or it is called instead. The buffers must hold
        a step."""
        if self._capture is not None and self.graph is None:
            self.graph = self._capture.of(self._function)
