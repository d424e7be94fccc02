"""A host's start and end: the serving lock, the private socket and the exit when idle.

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
# The editors' servers look at the host every 40 s (`session/engine_link.py`).
LONELY_SECONDS = 120.0


@contextmanager
def serving_lock(path: Path) -> Iterator[bool]:
    """Holds the lock that makes this process the host; yields whether the lock was free.

    The kernel releases the lock when the process dies. The file stays, because removing it would
    let two processes hold locks of the same name.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    # Clients hold the lock for a moment to test it, so one refusal does not mean that a host runs.
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
    """Returns a listening unix socket that only this user can open (mode 0600).

    Call this with the lock held: a file at the path then belongs to a dead host and is removed.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # Set before bind, so that the mode is never wider.
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
    """Waits until the host must end; returns the exit status.

    A host ends when asked to, after `idle_seconds` without a request (0: never) or LONELY_SECONDS
    without a client on its socket, which gives the memory back soon after the last editor was
    closed, shortly after a failed load, and when no client can find it any more because its socket
    was removed or the checkpoint has changed.

    Args:
        is_current: returns whether clients would still look for this host.
    """
    await _loaded_or_stopped(host)
    if host.loader.error is not None:
        await _stopped_within(host, host.limits.linger_seconds)
        return 1
    host.last_active = host.last_seen = time.monotonic()  # Loading does not count as idle time.
    inode = path.stat().st_ino if path is not None and path.exists() else None
    while not host.stop.is_set():
        pause = _CHECK_SECONDS
        if idle_seconds:
            left = idle_seconds - host.idle_seconds()
            if left <= 0:
                logger.info("idle for %.0f s", idle_seconds)
                break
            if path is not None:  # on an address, clients need not say that they are there
                left = min(left, LONELY_SECONDS - host.lonely_seconds())
            if left <= 0:
                logger.info("no client for %.0f s", LONELY_SECONDS)
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
