"""Processes of the program that start at once: each is forked from one that has imported it.

A language server imports a third of a second of libraries before it can answer, and the tests start
more than a hundred of them. Each one here is still a process of its own, with its own streams,
environment, working folder and signals, and it runs `main` as `python -m dlm_lsp` does; only the
imports are shared. A test of how the program is started, or of what it imports, starts a real one.

This file is also the program that is forked from, which is why it imports nothing of the tests.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine, Mapping, Sequence
from functools import cache
from typing import Any, BinaryIO

# What takes time to import. A name that is missing here costs time and nothing else.
_IMPORTED = (
    "aiohttp",
    "dlm_lsp.client.host_client",
    "dlm_lsp.lsp.server",
    "dlm_lsp.session.engine_link",
    "dlm_lsp.session.session",
    "dlm_lsp.settings.files",
    "dlm_lsp.store.told",
)
_MESSAGE_BYTES_MAX = 1 << 18


class WarmProcess:
    """One forked process, with the part of the face of `asyncio.subprocess.Process` tests use."""

    def __init__(
        self,
        pid: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        ended: Coroutine[Any, Any, int],
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._ended = asyncio.create_task(ended)

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Returns the exit code once the process has ended."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Sends a signal to a process that has not ended."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the process at once."""
        self.send_signal(signal.SIGKILL)


async def start_warm(
    arguments: Sequence[str], environment: Mapping[str, str], stderr: BinaryIO
) -> WarmProcess:
    """Starts `dlm-lsp` with these arguments, pipes as its stdin and stdout."""
    stdin_end, stdin = os.pipe()
    stdout, stdout_end = os.pipe()
    status, status_end = os.pipe()
    message = json.dumps([list(arguments), dict(environment), os.getcwd()]).encode()
    assert len(message) < _MESSAGE_BYTES_MAX
    ends = [stdin_end, stdout_end, stderr.fileno(), status_end]
    socket.send_fds(_parent(), [message], ends)
    for end in (stdin_end, stdout_end, status_end):
        os.close(end)
    told = await _reader(status)
    pid = int(await told.readline())
    return WarmProcess(pid, await _writer(stdin), await _reader(stdout), _exit_code(told))


async def _exit_code(told: asyncio.StreamReader) -> int:
    return int(await told.readline())


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 28)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(end, "rb", 0))
    return reader


async def _writer(end: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(end, "wb", 0))
    return asyncio.StreamWriter(transport, protocol, None, loop)


@cache
def _parent() -> socket.socket:
    """The way to the process that is forked from. It ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return ours


# Below: in the process that is forked from, and in its children.


def _import_the_program() -> None:
    """Whatever a language server imports by its first completion."""
    for name in _IMPORTED:
        importlib.import_module(name)


def _fork_for(connection: socket.socket) -> list[str]:
    """Returns in each child, with the arguments that it is to run with, and nowhere else."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps those who wait
    while True:
        message, ends, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES_MAX, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            connection.close()
            *streams, status = ends
            _wait_for_child(status)
            os.close(status)
            arguments, environment, folder = json.loads(message)
            for number, end in enumerate(streams):
                os.dup2(end, number)
                os.close(end)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            return arguments
        for end in ends:
            os.close(end)


def _wait_for_child(status: int) -> None:
    """Forks once more: the child returns, its parent tells its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        return
    os.write(status, b"%d\n" % child)
    _, code = os.waitpid(child, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(code))
    os._exit(0)


if __name__ == "__main__":
    _import_the_program()
    sys.argv[1:] = _fork_for(socket.socket(fileno=int(sys.argv[1])))
    from dlm_lsp.cli.main import main

    sys.exit(main())
