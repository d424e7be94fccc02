"""`dlm-lsp serve`: runs an engine host by hand, by default on the user's private socket.

Converts the command line's arguments to `ServeOptions`; the host serves.
"""

from __future__ import annotations

import argparse

from dlm_lsp.client.options import ServeOptions
from dlm_lsp.host.app import serve
from dlm_lsp.store.choice import choose
from engine.config import EngineSettings


def run(options: argparse.Namespace) -> int:
    """Serves until the host is asked to end; returns the exit code."""
    engine = EngineSettings(
        checkpoint=choose(options.checkpoint).path,
        device=options.device or "auto",
        dtype=options.dtype or "auto",
        threads=options.threads,
        backend=options.backend or "auto",
        steps=options.steps or "auto",
        cache_tokens=options.cache_tokens,
    )
    return serve(
        ServeOptions(
            engine=engine,
            idle_seconds=options.idle_seconds,
            host=options.host or (None if options.port is None else "127.0.0.1"),
            port=options.port,
            token_file=options.token_file,
            log_file=options.log_file,
        )
    )
