"""Health while loading, ready and failed; authorisation; errors common to all paths."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.host.state import HostLimits
from dlm_lsp.version import PROTOCOL, VERSION
from engine.api import Preparing
from engine.config import EngineSettings
from engine.errors import CheckpointError
from tests.toy_backend import ToyBackend, ToyHost, toy_host

BODY = {"prefix": "x = "}


class SlowLoad:
    """A load that ends when the test lets it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.has_prepared = threading.Event()
        self.backend = ToyBackend()

    def __call__(self, settings: EngineSettings, preparing: Preparing) -> ToyBackend:
        preparing(0.344)
        self.has_prepared.set()
        self.may_end.wait(20)
        return self.backend


def broken_load(settings: EngineSettings, preparing: Preparing) -> ToyBackend:
    raise CheckpointError("config.json is missing.", remedy="Give another folder.", param="x")


async def answer(host: ToyHost, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Returns the status and the JSON of one answer."""
    async with host.session.request(method, path, **options) as response:
        return response.status, await response.json()


async def test_health_ready_tells_what_is_loaded(host: ToyHost) -> None:
    await host.host.loader.wait()
    status, health = await answer(host, "GET", "/health")
    assert status == 200
    expected = {
        "status": "ok",
        "protocol": PROTOCOL,
        "version": VERSION,
        "pid": os.getpid(),
        "checkpoint": "/toy",
        "device": "cpu",
        "dtype": "float32",
        "contextMax": 2032,
    }
    assert expected.items() <= health.items()


async def test_health_loading_is_unavailable_and_generate_waits(private_runtime: Path) -> None:
    load = SlowLoad()
    async with toy_host(private_runtime, load=load) as host:
        assert await asyncio.to_thread(load.has_prepared.wait, 20)
        status, health = await answer(host, "GET", "/health")
        assert status == 503
        message = "Preparing nano for this machine, once (34 %)"
        error = {"code": 503, "message": message, "type": "unavailable_error"}
        assert health["error"] == error
        assert health["protocol"] == PROTOCOL
        asking = asyncio.create_task(host.post(BODY))
        done, _ = await asyncio.wait({asking}, timeout=0.2)
        assert not done
        load.may_end.set()
        async with await asking as response:
            assert response.status == 200
            assert b'"finished"' in await response.read()


async def test_generate_load_that_takes_too_long_is_unavailable(private_runtime: Path) -> None:
    load, limits = SlowLoad(), HostLimits(load_seconds=0.1)
    async with toy_host(private_runtime, load=load, limits=limits) as host:
        async with await host.post(BODY) as response:
            assert response.status == 503
            assert "Retry-After" in response.headers
            assert (await response.json())["error"]["code"] == "loading"
        load.may_end.set()


@pytest.mark.parametrize("failure", ["named", "unforeseen"])
async def test_load_that_fails_tells_every_client_why(private_runtime: Path, failure: str) -> None:
    def unforeseen(settings: EngineSettings, preparing: Preparing) -> ToyBackend:
        raise OSError("the disk is on fire")

    load = broken_load if failure == "named" else unforeseen
    word = "config.json" if failure == "named" else "the disk is on fire"
    async with toy_host(private_runtime, load=load) as host:
        await host.host.loader.wait()
        status, health = await answer(host, "GET", "/health")
        assert status == 503
        assert health["error"]["type"] == "load_error"
        assert word in health["error"]["message"]
        assert health["error"]["remedy"]
        status, refused = await answer(host, "POST", "/v1/generate", json=BODY)
        assert status == 503
        assert refused["error"]["code"] == "load_failed"
        assert word in refused["error"]["message"]


async def test_shutdown_ends_the_host_and_new_requests_go_elsewhere(host: ToyHost) -> None:
    await host.host.loader.wait()
    status, reply = await answer(host, "POST", "/v1/shutdown")
    assert (status, reply["status"]) == (202, "stopping")
    assert host.host.stop.is_set()
    status, refused = await answer(host, "POST", "/v1/generate", json=BODY)
    assert (status, refused["error"]["code"]) == (503, "stopping")
    status, health = await answer(host, "GET", "/health")
    assert (status, health["error"]["type"]) == (503, "stopping")


PATHS = [
    ("POST", "/v1/generate"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("POST", "/v1/shutdown"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "Bearer tökén", "right"])
async def test_token_wrong_or_missing_opens_nothing(
    private_runtime: Path, method: str, path: str, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with toy_host(private_runtime, token="right") as host:
        status, refused = await answer(host, method, path, headers=headers)
        assert status == 401
        assert refused["error"]["code"] == "unauthorized"
        assert not host.host.stop.is_set()


async def test_token_right_opens_everything(private_runtime: Path) -> None:
    headers = {"Authorization": "Bearer right"}
    async with toy_host(private_runtime, token="right") as host:
        async with await host.post(BODY, headers=headers) as response:
            assert response.status == 200
        status, _ = await answer(host, "GET", "/health", headers=headers)
        assert status == 200
        status, _ = await answer(host, "POST", "/v1/shutdown", headers=headers)
        assert status == 202


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [("GET", "/", 404), ("POST", "/v1/nothing", 404), ("GET", "/v1/generate", 405)],
)
async def test_unknown_path_or_method_is_a_json_error(
    host: ToyHost, method: str, path: str, expected: int
) -> None:
    status, refused = await answer(host, method, path)
    assert status == expected
    assert path in refused["error"]["message"]


async def test_every_json_answer_is_compact(host: ToyHost) -> None:
    for path in ("/health", "/nothing"):
        async with host.session.get(path) as response:
            assert '": ' not in await response.text()
