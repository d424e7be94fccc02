"""The interface between the engine and what computes: a loaded network and its K/V store.

The engine, its decoding loop and the measurement of step times know only this protocol.
`engine.model.torch_runtime` and `engine.model.onnx.runtime` implement it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from engine.api import Sampling
from engine.cache.pages import PageCounts
from engine.loop import StepCache
from engine.model.config import ModelConfig
from engine.reading import Reading
from engine.step import Step


class Cache(StepCache, Protocol):
    """The K/V of all sequences, as the engine sees it. Only the engine thread calls it, but for
    `held` and `find_suffix`."""

    @property
    def capacity(self) -> int:
        """The number of tokens that fit."""
        ...

    def held(self, prompt: Sequence[int]) -> int:
        """As `PageTable.held`."""
        ...

    def counts(self) -> PageCounts:
        """The state of all pages, for metrics and for the law that cancelling leaks nothing."""
        ...


class Runtime(Protocol):
    """A loaded checkpoint as a function of steps.

    Only the engine thread calls it, and `begin_thread` first. Its attributes never change and may
    be read from any thread.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def has_drafter(self) -> bool:
        """Whether rows may run with the drafter LoRA, or with a mask adapter."""
        ...

    @property
    def draft_masks(self) -> tuple[int, ...]:
        """The token ids of a mask adapter's mask rows, by their offset from the row that they hang
        on; empty if no such adapter is loaded."""
        ...

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype of the weights as status lines show it: "float32", "bfloat16" or "int8"."""
        ...

    @property
    def machine(self) -> str:
        """The card's name, or the machine's if there is no card; it identifies step times."""
        ...

    @property
    def program(self) -> str:
        """The library and its version, such as "torch 2.13.0"; it identifies step times."""
        ...

    def __call__(self, step: Step, cache: Any, sampling: Sampling, /) -> Sequence[Reading]:
        """Computes the rows of a step, with a cache that this runtime made.

        Returns:
            One reading per entry of `step.read`, in its order.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        ...

    def new_cache(self, tokens: int) -> Cache:
        """An empty cache for this number of tokens.

        Raises:
            MemoryExhausted: the cache does not fit on the device; names engine.cache_tokens.
        """
        ...

    def begin_thread(self, threads: int) -> None:
        """Sets the number of CPU threads. Called once on the engine thread, before any step."""
        ...

    def settle(self) -> Iterator[None]:
        """Work for idle moments that makes later steps faster. Each `next`, on the engine thread,
        does a short piece of it."""
        ...
