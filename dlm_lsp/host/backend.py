"""What the host needs of an engine, and how it gets one. Imports no engine until asked to load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from dlm_lsp.host.layout import TextEncoder
from dlm_lsp.host.paths import times_file
from dlm_lsp.store.folder import GRAPHS, default_root
from engine.api import Emit, EngineInfo, Handle, Preparing, Request
from engine.config import EngineSettings


class Backend(Protocol):
    """A loaded checkpoint; `engine.engine.Engine` is one. Callable from any thread."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def tokenizer(self) -> TextEncoder: ...
    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        ...

    @property
    def block_length(self) -> int:
        """The checkpoint's own; `info.context_max` has room for one block already taken off."""
        ...

    def submit(self, request: Request, emit: Emit) -> Handle:
        """`emit` is called on the engine's thread. Raises RequestError."""
        ...

    def close(self) -> None: ...


Load = Callable[[EngineSettings, Preparing], Backend]


def load_engine(settings: EngineSettings, preparing: Preparing) -> Backend:
    """Loads the checkpoint; takes seconds, and longer the first time. Raises EngineError."""
    # Lazily: what computes takes up to a second to import, and the socket is to accept before.
    from engine.engine import Engine

    graphs = default_root() / GRAPHS
    return Engine.load(replace(settings, graphs=graphs), times_file(settings), preparing)
