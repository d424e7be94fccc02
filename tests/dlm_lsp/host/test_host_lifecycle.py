"""The lock, the socket and the end of a host."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import stat
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dlm_lsp.host import lifecycle
from dlm_lsp.host.lifecycle import bind_private, serving_lock, watch
from dlm_lsp.host.loading import Loader
from dlm_lsp.host.state import Host, HostLimits
from dlm_lsp.session.engine_link import VISIT_SECONDS
from engine.api import Preparing
from engine.config import EngineSettings
from engine.errors import CheckpointError
from tests.toy_backend import ToyBackend


def hold_lock(path: Path, pipe: Connection) -> None:
    """Takes the lock, reports it and waits to be killed."""
    with serving_lock(path) as is_ours:
        pipe.send(is_ours)
        signal.pause()


def test_lock_is_one_processs_and_free_once_it_is_killed(private_runtime: Path) -> None:
    path = private_runtime / "lock"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold_lock, args=(path, theirs))
    process.start()
    try:
        assert ours.poll(60)
        assert ours.recv() is True
        with serving_lock(path) as is_ours:
            assert not is_ours
    finally:
        process.kill()
        process.join()
    with serving_lock(path) as is_ours:
        assert is_ours


def test_lock_is_free_after_use(private_runtime: Path) -> None:
    for _ in range(2):
        with serving_lock(private_runtime / "lock") as is_ours:
            assert is_ours


def test_bind_replaces_a_dead_hosts_socket_and_only_the_user_can_open_it(
    private_runtime: Path,
) -> None:
    path = private_runtime / "host.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    mask = os.umask(0)
    try:
        listener = bind_private(path)
        assert os.umask(0) == 0  # as before
    finally:
        os.umask(mask)
    with listener, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.connect(str(path))


async def loaded_host(limits: HostLimits | None = None) -> Host:
    backend = ToyBackend()
    host = Host(
        Loader(lambda settings, preparing: backend, EngineSettings()), limits=limits or HostLimits()
    )
    host.loader.start()
    await host.loader.wait(20)
    return host


async def test_watch_idle_host_ends() -> None:
    async with asyncio.timeout(20):
        assert await watch(await loaded_host(), 0.1, None) == 0


async def test_watch_host_without_clients_gives_its_memory_back_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An open editor keeps its host for the idle time; after the last has left it ends sooner."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 0.4)
    host = await loaded_host()
    (tmp_path / "socket").touch()
    watching = asyncio.create_task(watch(host, 60, tmp_path / "socket"))
    for _ in range(8):
        host.last_seen = time.monotonic()
        await asyncio.sleep(0.1)
    assert not watching.done()
    async with asyncio.timeout(20):
        assert await watching == 0


async def test_watch_host_started_by_hand_stays_without_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 0.1)
    """On a socket without an idle time, and on an address with one."""
    (tmp_path / "socket").touch()
    for idle, path in ((0, tmp_path / "socket"), (60, None)):
        watching = asyncio.create_task(watch(await loaded_host(), idle, path))
        done, _ = await asyncio.wait({watching}, timeout=0.5)
        assert not done
        watching.cancel()


async def test_watch_host_without_clients_finishes_its_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A client that asks for nothing else than an answer is there all the same."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 0.2)
    host = await loaded_host()
    (tmp_path / "socket").touch()
    with host.working():
        watching = asyncio.create_task(watch(host, 60, tmp_path / "socket"))
        done, _ = await asyncio.wait({watching}, timeout=0.6)
        assert not done
    async with asyncio.timeout(20):
        assert await watching == 0


async def test_watch_host_that_was_loaded_for_nobody_ends_soon_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its client left while it loaded."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 0.2)
    host = await loaded_host()
    host.last_seen = host.last_active = float("-inf")
    (tmp_path / "socket").touch()
    watching = asyncio.create_task(watch(host, 60, tmp_path / "socket"))
    done, _ = await asyncio.wait({watching}, timeout=0.05)
    assert not done  # Loading does not count.
    async with asyncio.timeout(20):
        assert await watching == 0


def test_a_host_that_nobody_uses_stays_two_minutes_and_an_editor_is_seen_before() -> None:
    assert lifecycle.LONELY_SECONDS <= 120
    assert VISIT_SECONDS * 2 < lifecycle.LONELY_SECONDS


async def test_watch_host_at_work_does_not_end() -> None:
    host = await loaded_host()
    with host.working():
        watching = asyncio.create_task(watch(host, 0.05, None))
        done, _ = await asyncio.wait({watching}, timeout=0.5)
        assert not done
    async with asyncio.timeout(20):
        assert await watching == 0


async def test_watch_loading_host_is_not_idle() -> None:
    backend, loaded = ToyBackend(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(settings: EngineSettings, preparing: Preparing) -> ToyBackend:
        asyncio.run_coroutine_threadsafe(loaded.wait(), loop).result(20)
        return backend

    host = Host(Loader(load, EngineSettings()))
    host.loader.start()
    watching = asyncio.create_task(watch(host, 0.05, None))
    done, _ = await asyncio.wait({watching}, timeout=0.5)
    assert not done
    before = time.monotonic()
    loaded.set()
    async with asyncio.timeout(20):
        assert await watching == 0
    assert host.last_active >= before


async def test_watch_host_without_an_idle_time_waits_to_be_asked() -> None:
    host = await loaded_host()
    watching = asyncio.create_task(watch(host, 0, None))
    done, _ = await asyncio.wait({watching}, timeout=0.3)
    assert not done
    host.stop.set()
    async with asyncio.timeout(20):
        assert await watching == 0


async def test_watch_host_of_a_checkpoint_that_has_changed_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "_CHECK_SECONDS", 0.01)
    is_current = iter((True, True, False))
    async with asyncio.timeout(20):
        assert await watch(await loaded_host(), 0, None, lambda: next(is_current)) == 0


async def test_watch_host_that_cannot_load_ends_after_telling_so() -> None:
    def load(settings: EngineSettings, preparing: Preparing) -> ToyBackend:
        raise CheckpointError("broken")

    host = Host(Loader(load, EngineSettings()), limits=HostLimits(linger_seconds=0.1))
    host.loader.start()
    async with asyncio.timeout(20):
        assert await watch(host, 0, None) == 1


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_watch_host_that_nobody_can_reach_ends(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("dlm_lsp.host.lifecycle._CHECK_SECONDS", 0.05)
    path = private_runtime / "host.sock"
    with bind_private(path):
        watching = asyncio.create_task(watch(await loaded_host(), 0, path))
        done, _ = await asyncio.wait({watching}, timeout=0.3)
        assert not done
        other = bind_private(path) if how == "replaced" else None
        if other is None:
            path.unlink()
        async with asyncio.timeout(20):
            assert await watching == 0
        if other is not None:
            other.close()
