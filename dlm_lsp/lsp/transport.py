"""The language server's process: its streams, its life cycle and its exit code.

Owns stdin and stdout, to which only the protocol may write, or the one TCP connection. The process
ends after `exit`, the end of the stream or the end of the editor's process. `lsp/server.py` handles
the messages; it is imported late, with pygls.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from dlm_lsp.lsp.framing import FrameReader, FramingError
from engine.errors import ConfigError

if TYPE_CHECKING:
    from dlm_lsp.lsp.server import Server

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_CLOSE_SECONDS_MAX = 2.0
_WATCH_SECONDS = 1.0


def run(options: argparse.Namespace) -> int:
    """Serves one editor until it leaves.

    Args:
        options: `tcp` (None for stdin and stdout, else "HOST:PORT", "PORT" or ":PORT"),
            `log_file`, `log_level`, `client_process_id`.

    Returns: the exit code that LSP specifies: 0 after `shutdown`, otherwise 1.
    Raises: ConfigError if the address or the log file cannot be used.
    """
    _set_up_logging(options)
    address = None if options.tcp is None else to_address(options.tcp)
    streams = _claim_stdio() if address is None else None
    # Importing pygls creates half a million permanent objects. Collecting garbage among them would
    # take 50 of the 300 ms until `initialize` is answered.
    gc.disable()
    from dlm_lsp.lsp.server import Server

    gc.freeze()
    gc.enable()
    with asyncio.Runner() as runner:
        return runner.run(_serve(Server(), address, streams, options.client_process_id))


def to_address(text: str) -> tuple[str, int]:
    """Reads "HOST:PORT" as a pair; the host defaults to loopback. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(
            f"--tcp is {text!r}.", remedy="Use HOST:PORT, such as 127.0.0.1:8124.", param="tcp"
        )
    return host, int(port)


class _Connection:
    """A connection that cuts the peer's bytes into messages for the server until the end."""

    def __init__(self, server: Server, send: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._server = server
        self._send = send
        self._reader = FrameReader()
        server.protocol.send = self._write
        server.protocol.on_exit = self.end

    def deliver(self, data: bytes) -> None:
        """Handles bytes of the stream; empty bytes mean that the stream has ended."""
        if not data:
            self.end(0 if self._server.protocol.is_shut_down else 1)
            return
        for item in self._reader.feed(data):
            if self.ended.done():
                return
            if isinstance(item, FramingError):
                self._server.protocol.refuse(None, -32700, f"Framing: {item.message}.")
            elif rest := self._server.protocol.receive(item):
                self._reader.give_back(rest)

    def end(self, code: int) -> None:
        """Ends the process with this code unless it is already ending."""
        if not self.ended.done():
            self.ended.set_result(code)

    def _write(self, data: bytes) -> None:
        try:
            self._send(data)
        except (BrokenPipeError, ConnectionError):
            self.end(1)


async def _serve(
    server: Server,
    address: tuple[str, int] | None,
    streams: tuple[int, BinaryIO] | None,
    client_process_id: int | None,
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        if streams is not None:
            connection = _over_stdio(server, *streams)
        else:
            assert address is not None
            connection = await _over_tcp(server, address, stack)
        watch = _EditorWatch(connection.end)
        stack.callback(watch.stop)
        watch.start(client_process_id)
        server.on_process_id = watch.start
        code = await connection.ended
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await server.close()
        return code


def _over_stdio(server: Server, source: int, sink: BinaryIO) -> _Connection:
    """Reads stdin on a thread, which works for pipes, files and terminals on every system.

    The thread always drains the pipe, so that an editor that writes before it reads is never
    blocked by a server that blocks on writing.
    """
    loop = asyncio.get_running_loop()

    def send(data: bytes) -> None:
        sink.write(data)
        sink.flush()

    connection = _Connection(server, send)

    def pump() -> None:
        with contextlib.suppress(RuntimeError):  # The loop has closed.
            while True:
                try:
                    data = os.read(source, _READ_BYTES)
                except OSError:
                    data = b""
                loop.call_soon_threadsafe(connection.deliver, data)
                if not data:
                    return

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    return connection


async def _over_tcp(
    server: Server, address: tuple[str, int], stack: contextlib.AsyncExitStack
) -> _Connection:
    """Waits for the first editor to connect; later connections are not accepted."""
    arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    arrived = asyncio.get_running_loop().create_future()

    def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if arrived.done():
            writer.close()
        else:
            arrived.set_result((reader, writer))

    try:
        listener = await asyncio.start_server(on_connect, *address)
    except OSError as error:
        raise ConfigError(
            f"--tcp cannot listen on {address[0]}:{address[1]}: {error.strerror}.",
            remedy="Take another address or port.",
            param="tcp",
        ) from None
    name = listener.sockets[0].getsockname()
    # The address goes to stderr for the program that started this one, as port 0 takes a free port.
    print(f"listening on {name[0]}:{name[1]}", file=sys.stderr, flush=True)
    if not ipaddress.ip_address(name[0]).is_loopback:
        logger.warning("--tcp: whoever reaches %s can use this server, without a password", name[0])
    reader, writer = await arrived
    listener.close()
    stack.callback(writer.close)
    connection = _Connection(server, writer.write)

    async def pump() -> None:
        while True:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError:
                data = b""
            connection.deliver(data)
            if not data:
                return

    pumping = asyncio.create_task(pump())
    stack.callback(pumping.cancel)
    return connection


class _EditorWatch:
    """Ends this process with the editor's, as a child of the editor may keep the pipe open."""

    def __init__(self, end: Callable[[int], None]) -> None:
        self._end = end
        self._task: asyncio.Task[None] | None = None

    def start(self, process_id: int | None) -> None:
        """Watches a process unless one is already watched.

        A process that is not alive now is in another namespace and is not watched.
        """
        if self._task is not None or process_id is None or process_id <= 0:
            return
        if os.name == "posix" and _is_alive(process_id):  # On Windows, signal 0 would kill.
            self._task = asyncio.create_task(self._watch(process_id))

    def stop(self) -> None:
        """Stops watching."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self, process_id: int) -> None:
        while _is_alive(process_id):
            await asyncio.sleep(_WATCH_SECONDS)
        logger.warning("the editor's process %d has ended", process_id)
        self._end(1)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _claim_stdio() -> tuple[int, BinaryIO]:
    """Reserves stdin and stdout for the protocol and sends all other output to stderr.

    Output of libraries and child processes must not get between two messages.
    """
    source, sink = os.dup(0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return source, sink


def _set_up_logging(options: argparse.Namespace) -> None:
    try:
        handler = logging.FileHandler(options.log_file) if options.log_file else None
    except OSError as error:
        raise ConfigError(
            f"--log-file {options.log_file} cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that exists.",
            param="log_file",
        ) from None
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[handler or logging.StreamHandler(sys.stderr)],
        force=True,
    )
    # At the level INFO pygls logs every message, which contains the user's code.
    logging.getLogger("pygls").setLevel(logging.WARNING)
