"""A host's beginning and end: the lock that decides who serves, the private socket, idle exit.

Knows neither HTTP nor what is served.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dlm_lsp.host.state import Host

logger = logging.getLogger(__name__)

_LOCK_SECONDS_MAX = 1.0
_CHECK_SECONDS = 5.0


@contextmanager
def serving_lock(path: Path) -> Iterator[bool]:
    """Holds the lock that makes this process the host; yields whether it could be taken.

    The kernel gives it back when the process dies, however it dies. The file stays: removing it
    would let two processes hold locks of the same name.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    # Clients probe the lock for a moment, so one refusal does not mean that a host holds it.
    give_up = time.monotonic() + _LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
        else:
            return True


def bind_private(path: Path) -> socket.socket:
    """A listening unix socket that only this user can open (0600). Call with the lock held: what
    lies at the path is then a dead host's, and is removed."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # before bind: a moment of a wider mode would be long enough
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


async def watch(
    host: Host,
    idle_seconds: float,
    path: Path | None,
    is_current: Callable[[], bool] = lambda: True,
) -> int:
    """Waits until the host is to end; returns the exit status.

    It ends when it was asked to, after `idle_seconds` without a request (0: never), shortly after
    it failed to load, and when nobody can reach it any more: its socket was taken away, or the
    checkpoint is no longer what it was, so that clients look for another host.

    Args:
        is_current: whether clients would still look for this host.
    """
    await _loaded_or_stopped(host)
    if host.loader.error is not None:
        await _stopped_within(host, host.limits.linger_seconds)
        return 1
    host.last_active = time.monotonic()  # a slow load is not idleness
    inode = path.stat().st_ino if path is not None and path.exists() else None
    while not host.stop.is_set():
        pause = _CHECK_SECONDS
        if idle_seconds:
            left = idle_seconds - host.idle_seconds()
            if left <= 0:
                logger.info("idle for %.0f s", idle_seconds)
                break
            pause = min(pause, left)
        if path is not None and not _is_ours(path, inode):
            logger.warning("%s was removed", path)
            break
        if not is_current():
            logger.info("the checkpoint was changed or removed")
            break
        await _stopped_within(host, pause)
    return 0


async def _loaded_or_stopped(host: Host) -> None:
    waits = [asyncio.create_task(host.loader.wait()), asyncio.create_task(host.stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _stopped_within(host: Host, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await host.stop.wait()
    except TimeoutError:
        pass


def _is_ours(path: Path, inode: int | None) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False
