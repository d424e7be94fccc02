"""What the engine runs on: a loaded network that computes steps, and the K/V store beside it.

The engine, its decoding loop and the measurement of step times know this protocol alone, so that
what computes can be torch or anything else. `engine.model.torch_runtime` implements it. No torch.
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
    """The K/V of all sequences, as the engine sees it. Owned by the engine's thread."""

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        ...

    def counts(self) -> PageCounts:
        """Where the pages are: for metrics, and for the law that cancelling leaks nothing."""
        ...


class Runtime(Protocol):
    """A loaded checkpoint as a function of steps. Called by the engine's thread alone, once
    `begin_thread` was; its attributes may be read from any thread and never change."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def has_drafter(self) -> bool:
        """Whether rows may have the drafter LoRA, or the mask adapter, on."""
        ...

    @property
    def draft_masks(self) -> tuple[int, ...]:
        """Token ids of a mask adapter's mask rows, by their offset from the row that they hang on;
        empty where no such adapter is loaded."""
        ...

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        ...

    @property
    def dtype(self) -> str:
        """Of the weights, as status lines show it: "float32", "bfloat16" or "int8"."""
        ...

    @property
    def machine(self) -> str:
        """What step times hold for: the card's name, else the node's."""
        ...

    @property
    def program(self) -> str:
        """What computes and its version, such as "torch 2.13.0": step times hold for it alone."""
        ...

    def __call__(self, step: Step, cache: Any, sampling: Sampling, /) -> Sequence[Reading]:
        """Computes the rows, with the K/V of a cache that this runtime made.

        Returns:
            One reading per entry of `step.read`, in its order.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        ...

    def new_cache(self, tokens: int) -> Cache:
        """An empty store for so many tokens.

        Raises:
            MemoryExhausted: it does not fit on the device; names engine.cache_tokens.
        """
        ...

    def begin_thread(self, threads: int) -> None:
        """Called once on the engine's thread, before any step: so many CPU threads may be used."""
        ...

    def settle(self) -> Iterator[None]:
        """Work that makes later steps faster, for idle moments; each `next` is a short piece of it,
        on the engine's thread."""
        ...
