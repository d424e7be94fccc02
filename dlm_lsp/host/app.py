"""`dlm-lsp serve`: one host process from its options to its exit status.

Combines lock, socket, logging, loader, routes and watch. The socket accepts connections before
the model is loaded.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from aiohttp import web

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.options import TOKEN_VARIABLE, ServeOptions
from dlm_lsp.client.paths import HostPaths, host_paths, identity
from dlm_lsp.client.starter import EXIT_TAKEN
from dlm_lsp.host.backend import Load, load_engine
from dlm_lsp.host.lifecycle import bind_private, serving_lock, watch
from dlm_lsp.host.loading import Loader
from dlm_lsp.host.routes import make_runner
from dlm_lsp.host.state import Host

__all__ = ["ServeOptions", "serve"]

logger = logging.getLogger(__name__)

_EXIT_OPTIONS = 2
_LOG_BYTES_MAX = 1 << 20


def serve(options: ServeOptions, load: Load = load_engine) -> int:
    """Serves until the host is asked to end, is idle for too long or cannot load.

    Returns:
        The exit status: 0 after an ordinary end, 1 if the checkpoint could not be loaded, 2 if the
        options cannot be used, 3 if another host already serves the same settings.
    """
    try:
        _configure_logging(options)
        if options.host is not None:
            return _serve_tcp(options, load)
        return _serve_private(host_paths(options.engine), options, load)
    except HostError as error:
        print(f"dlm-lsp serve: {error}", file=sys.stderr)
        return _EXIT_OPTIONS


def _serve_private(paths: HostPaths, options: ServeOptions, load: Load) -> int:
    with serving_lock(paths.lock) as is_ours:
        if not is_ours:
            print(f"dlm-lsp serve: another host serves {paths.socket}.", file=sys.stderr)
            return EXIT_TAKEN
        listener = bind_private(paths.socket)
        logger.info("listening on %s", paths.socket)

        def unlink() -> None:
            paths.socket.unlink(missing_ok=True)

        def is_current() -> bool:
            return identity(options.engine) == paths.socket.stem

        try:
            return asyncio.run(_run(options, load, listener, None, unlink, is_current))
        finally:
            unlink()


def _serve_tcp(options: ServeOptions, load: Load) -> int:
    token = _token(options)
    assert options.host is not None
    assert options.port is not None
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=128)
    except OSError as error:
        raise HostError(
            f"{options.host}:{options.port} cannot be listened on: {error.strerror or error}.",
            remedy="Choose another --host or --port.",
            code="option",
        ) from None
    port = listener.getsockname()[1]
    name = f"[{options.host}]" if ":" in options.host else options.host
    print(f"listening on http://{name}:{port}", flush=True)
    if token.is_generated:
        print(f"token: {token.text}", flush=True)
    return asyncio.run(_run(options, load, listener, token.text, lambda: None))


async def _run(
    options: ServeOptions,
    load: Load,
    listener: socket.socket,
    token: str | None,
    unlink: Callable[[], None],
    is_current: Callable[[], bool] = lambda: True,
) -> int:
    """Serves on a listening socket; `unlink` makes the host unreachable for new clients."""
    host = Host(Loader(load, options.engine), token)
    runner = make_runner(host)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(name, host.stop.set)
    host.loader.start()
    path = listener.getsockname() if listener.family == socket.AF_UNIX else None
    status = await watch(host, options.idle_seconds, path and Path(path), is_current)
    unlink()
    host.stop.set()  # New requests on open connections are now refused.
    await runner.cleanup()
    await host.loader.close()
    logger.info("ended")
    return status


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    is_generated: bool


def _token(options: ServeOptions) -> _Token:
    """Returns the bearer token for TCP; on loopback one is generated if none is given.

    Raises:
        HostError: the token is unusable, or missing for an address that others can reach.
    """
    source, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "")
    if not text and options.token_file is not None:
        source = str(options.token_file)
        try:
            text = options.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(
                f"--token-file {source} cannot be read: {error}.", code="option"
            ) from None
        if not text:
            raise HostError(f"--token-file {source} is empty.", code="option")
    if not text and not options.is_loopback():
        raise HostError(
            f"{options.host} can be reached from other machines and no token is set.",
            remedy=f"Set {TOKEN_VARIABLE} or give --token-file.",
            code="option",
        )
    if not all("!" <= character <= "~" for character in text):
        raise HostError(
            f"The token of {source} cannot be sent in a header.",
            remedy="Use letters, digits and ASCII signs without spaces.",
            code="option",
        )
    return _Token(text or secrets.token_urlsafe(32), not text)


def _configure_logging(options: ServeOptions) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if options.log_file is not None:
        try:
            handler = RotatingFileHandler(
                options.log_file, maxBytes=_LOG_BYTES_MAX, backupCount=1, encoding="utf-8"
            )
        except OSError as error:
            raise HostError(
                f"--log-file {options.log_file} cannot be written: {error.strerror}.",
                code="option",
            ) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    faulthandler.enable()  # A crash in native code leaves its stack in the log.
