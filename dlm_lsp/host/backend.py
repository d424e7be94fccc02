"""The engine as the host sees it, and its loading. Imports the engine only when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dlm_lsp.client.paths import adapters_folder, graphs_folder, times_file
from dlm_lsp.host.layout import TextEncoder
from dlm_lsp.store.choice import name_of
from dlm_lsp.store.memory import smaller_model
from dlm_lsp.store.progress import sized
from engine.api import Emit, EngineInfo, Handle, Preparing, Request
from engine.config import EngineSettings
from engine.errors import MemoryExhausted, ModelTooLarge


class Backend(Protocol):
    """A loaded checkpoint, such as `engine.engine.Engine`. Methods may run on any thread."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def tokenizer(self) -> TextEncoder: ...
    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that end a text."""
        ...

    @property
    def block_length(self) -> int:
        """The checkpoint's block length; `info.context_max` already leaves room for one block."""
        ...

    def uncached(self, prompt: tuple[int, ...], suffix: tuple[int, int]) -> int:
        """About how many tokens of a prompt would have to be computed if its suffix, as in
        `engine.api.Request.suffix`, may be reused."""
        ...

    def submit(self, request: Request, emit: Emit) -> Handle:
        """Starts a request; `emit` is called on the engine's thread. Raises RequestError."""
        ...

    def close(self) -> None: ...


Load = Callable[[EngineSettings, Preparing], Backend]


def load_engine(settings: EngineSettings, preparing: Preparing) -> Backend:
    """Loads the checkpoint within seconds, or longer the first time. Raises EngineError."""
    # Importing the engine takes up to a second; the socket accepts connections before that.
    from engine.engine import Engine

    try:
        kept = replace(settings, graphs=graphs_folder(), adapters=adapters_folder())
        return Engine.load(kept, times_file(settings), preparing)
    except ModelTooLarge as error:
        raise in_the_stores_words(error, settings.checkpoint) from None


def in_the_stores_words(error: ModelTooLarge, checkpoint: Path | None) -> MemoryExhausted:
    """Returns the engine's error with the model's name, and a smaller model as the remedy."""
    needed, free = error.needed_bytes, error.free_bytes
    return MemoryExhausted(
        f"{name_of(checkpoint)} needs about {sized(needed)} of memory, and {sized(free)} are free.",
        remedy=smaller_model(needed, free),
        param=error.param,
    )
