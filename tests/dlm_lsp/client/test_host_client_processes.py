"""Real host processes on a tiny checkpoint: start, restart, end, and refusals with reasons."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import FinishedEvent, GenerateBody, HostEvent, LimitsBody
from dlm_lsp.client.options import ServeOptions
from dlm_lsp.client.paths import host_paths
from engine.config import EngineSettings
from tests.toy_backend import wait_until

BODY = GenerateBody(prefix="x = ", limits=LimitsBody(tokens_max=4))
LONG = GenerateBody(prefix="x = ", limits=LimitsBody(tokens_max=1500), mode="ar")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(
    private_runtime: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> HostSettings:
    """The settings of hosts that only this test uses."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return HostSettings(EngineSettings(checkpoint=tiny_checkpoint, device="cpu"), idle_seconds=60)


@pytest.fixture
async def client(settings: HostSettings) -> AsyncIterator[HostClient]:
    client = HostClient(settings)
    yield client
    await client.close()


async def last_event(client: HostClient, body: GenerateBody = BODY) -> HostEvent:
    return [event async for event in client.generate(body)][-1]


async def pid_of(client: HostClient) -> int:
    return (await client.health()).detail["pid"]


def is_alive(pid: int) -> bool:
    """Returns whether a process runs; a zombie does not run."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def starts_in(log: Path) -> int:
    return log.read_text().count("listening on")


async def test_generate_starts_a_host_and_the_next_client_shares_it(settings: HostSettings) -> None:
    first, second = HostClient(settings), HostClient(settings)
    assert (await first.health()).state == "absent"
    assert isinstance(await last_event(first), FinishedEvent)
    assert isinstance(await last_event(second), FinishedEvent)
    assert await pid_of(first) == await pid_of(second)
    paths = host_paths(settings.engine)
    assert starts_in(paths.log) == 1
    assert paths.socket.stat().st_mode & 0o777 == 0o600
    await first.close()
    assert isinstance(await last_event(second), FinishedEvent)  # The host outlives its starter.
    await second.close()


ONE_OF_FIVE = """
import asyncio, sys
from pathlib import Path
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import GenerateBody, LimitsBody
from engine.config import EngineSettings

async def main():
    engine = EngineSettings(checkpoint=Path(sys.argv[1]), device="cpu")
    client = HostClient(HostSettings(engine, idle_seconds=60))
    body = GenerateBody(prefix="x = ", limits=LimitsBody(tokens_max=4))
    events = [event async for event in client.generate(body)]
    print((await client.health()).detail["pid"], events[-1].event)
    await client.close()

asyncio.run(main())
"""


def test_ensure_five_clients_at_once_start_one_host(settings: HostSettings) -> None:
    command = [sys.executable, "-c", ONE_OF_FIVE, str(settings.engine.checkpoint)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(5)]
    answers = {client.communicate(timeout=120)[0] for client in clients}
    assert all(client.returncode == 0 for client in clients)
    assert len(answers) == 1
    assert b"finished" in answers.pop()
    assert starts_in(host_paths(settings.engine).log) == 1


async def test_generate_after_kill_9_is_answered_by_a_new_host(client: HostClient) -> None:
    assert isinstance(await last_event(client), FinishedEvent)
    first = await pid_of(client)
    os.kill(first, signal.SIGKILL)
    assert isinstance(await last_event(client), FinishedEvent)
    second = await pid_of(client)
    assert second != first
    events: list[HostEvent] = []

    async def ask_and_kill() -> None:
        async with aclosing(client.generate(LONG)) as stream:
            async for event in stream:
                events.append(event)
                os.kill(second, signal.SIGKILL)

    with pytest.raises(HostError, match="in the middle of a request") as caught:
        await ask_and_kill()
    assert caught.value.code == "host_lost"
    assert not any(isinstance(event, FinishedEvent) for event in events)
    assert isinstance(await last_event(client), FinishedEvent)
    assert await pid_of(client) not in (first, second)


async def test_generate_closed_stream_leaves_the_real_engine_free(
    settings: HostSettings, client: HostClient
) -> None:
    for _ in range(8):  # more than the engine runs at a time
        async with aclosing(client.generate(LONG)) as events:
            await anext(events)
            await anext(events)
    async with asyncio.timeout(60):
        while (await client.health()).detail["requests"]:
            await asyncio.sleep(0.02)
    assert isinstance(await last_event(client), FinishedEvent)
    assert host_paths(settings.engine).log.read_text().count("outcome=cancelled") == 8


async def test_ensure_idle_host_ends_and_leaves_nothing_but_locks(settings: HostSettings) -> None:
    client = HostClient(HostSettings(settings.engine, idle_seconds=0.3))
    await last_event(client)
    pid = await pid_of(client)
    paths = host_paths(settings.engine)
    assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid))
    assert not paths.socket.exists()
    assert "idle for" in paths.log.read_text()
    await client.close()


async def test_shut_down_ends_the_host_after_what_is_in_flight(client: HostClient) -> None:
    assert not await client.shut_down()
    await last_event(client)
    pid = await pid_of(client)
    asking = asyncio.create_task(last_event(client))
    assert await client.shut_down()
    assert isinstance(await asking, FinishedEvent)
    assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid))


async def test_signal_ends_the_host_in_order(settings: HostSettings, client: HostClient) -> None:
    await last_event(client)
    pid = await pid_of(client)
    os.kill(pid, signal.SIGTERM)
    assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid))
    paths = host_paths(settings.engine)
    assert not paths.socket.exists()
    assert paths.log.read_text().rstrip().endswith("ended")


async def test_ensure_stale_socket_of_a_dead_host_is_replaced(
    settings: HostSettings, client: HostClient
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(host_paths(settings.engine).socket))
    assert isinstance(await last_event(client), FinishedEvent)


async def test_ensure_workspace_with_our_names_shadows_nothing(
    settings: HostSettings, private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = private_runtime / "workspace"
    for name in ("engine", "dlm_lsp", "torch"):
        (workspace / name).mkdir(parents=True)
        (workspace / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("PYTHONPATH", f"{workspace}{os.pathsep}.")
    client = HostClient(settings)
    assert isinstance(await last_event(client), FinishedEvent)
    await client.close()


@contextmanager
def broken_checkpoint(checkpoint: Path, folder: Path) -> Iterator[Path]:
    """A copy of the checkpoint with truncated weights."""
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    yield folder


async def test_ensure_checkpoint_that_cannot_be_loaded_tells_every_client_why_and_rests(
    settings: HostSettings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with broken_checkpoint(tiny_checkpoint, tmp_path) as folder:
        engine = EngineSettings(checkpoint=folder, device="cpu")
        clients = [HostClient(HostSettings(engine, idle_seconds=60)) for _ in range(3)]
        answers = await asyncio.gather(
            *(last_event(client) for client in clients), return_exceptions=True
        )
        for answer in answers:
            assert isinstance(answer, HostError)
            assert answer.code == "load_failed"
            assert "model.safetensors" in str(answer)
        for client in clients:
            with pytest.raises(HostError, match=r"model\.safetensors"):
                await last_event(client)
        assert (await clients[0].health()).state == "error"
        assert "Copy the file again" in (await clients[0].health()).message
        assert starts_in(host_paths(engine).log) == 1
        for client in clients:
            await client.close()


async def test_ensure_mended_checkpoint_is_loaded_at_once(
    settings: HostSettings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with broken_checkpoint(tiny_checkpoint, tmp_path) as folder:
        client = HostClient(
            HostSettings(EngineSettings(checkpoint=folder, device="cpu"), idle_seconds=60)
        )
        with pytest.raises(HostError, match=r"model\.safetensors"):
            await last_event(client)
        weights = (tiny_checkpoint / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights)
        assert isinstance(await last_event(client), FinishedEvent)
        await client.close()


async def test_ensure_process_that_dies_at_once_is_an_error_with_its_last_words(
    settings: HostSettings, private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = private_runtime / "python"
    program.write_text("#!/bin/sh\necho $$ >> pids\necho no such module >&2\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    client = HostClient(settings)
    for _ in range(2):
        with pytest.raises(HostError, match=r"with status 7.*no such module") as caught:
            await last_event(client)
        assert caught.value.code == "start_failed"
    pids = (host_paths(settings.engine).folder / "pids").read_text().split()
    assert len(pids) == 1  # There was no second attempt.
    monkeypatch.setattr(sys, "executable", str(private_runtime / "nothing"))
    with pytest.raises(HostError, match="cannot be started"):
        await last_event(HostClient(settings))
    await client.close()


def serve(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts `dlm-lsp serve` by hand."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dlm_lsp", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )


async def test_serve_second_host_of_the_same_is_refused(
    settings: HostSettings, client: HostClient
) -> None:
    await client.ensure()
    arguments = ServeOptions(settings.engine).arguments()[1:]
    second = await asyncio.to_thread(serve(*arguments).communicate, timeout=60)
    assert "another host serves" in second[1]
    assert isinstance(await last_event(client), FinishedEvent)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_serve_address_that_others_reach_needs_a_token(
    settings: HostSettings, address: str
) -> None:
    process = serve("--host", address, "--port", "0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "DLM_LSP_TOKEN" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("content", [None, "", "with space"])
def test_serve_token_file_that_cannot_be_used_is_named(
    settings: HostSettings, private_runtime: Path, content: str | None
) -> None:
    file = private_runtime / "token"
    if content is not None:
        file.write_text(content)
    process = serve("--host", "127.0.0.1", "--port", "0", "--token-file", str(file))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(file) in errors
    assert "Traceback" not in errors


def test_serve_port_that_is_taken_is_named(settings: HostSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = serve("--host", "127.0.0.1", "--port", str(port))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in errors


@contextmanager
def serving(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yields the URL that a TCP host prints. The host must end well by itself."""
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.wait()


async def test_serve_tcp_on_loopback_prints_a_token_and_is_used_by_url(
    settings: HostSettings,
) -> None:
    arguments = ServeOptions(settings.engine, host="127.0.0.1", port=0).arguments()[1:]
    process = serve(*arguments)
    with serving(process) as url:
        assert process.stdout is not None
        token = process.stdout.readline().split()[-1]
        assert len(token) >= 32
        stranger = HostClient(HostSettings(url=url))
        with pytest.raises(HostError, match="token"):
            await stranger.ensure()
        await stranger.close()
        client = HostClient(HostSettings(url=url, token=token))
        assert isinstance(await last_event(client), FinishedEvent)
        assert await client.shut_down()
        await client.close()


@pytest.mark.parametrize("source", ["variable", "file"])
async def test_serve_tcp_token_comes_from_the_environment_or_a_file(
    settings: HostSettings, private_runtime: Path, source: str
) -> None:
    """A host ends at once while it still loads the model."""
    arguments = ServeOptions(settings.engine, host="127.0.0.1", port=0).arguments()[1:]
    file = private_runtime / "token"
    file.write_text("of-the-file\n")
    environment = {"DLM_LSP_TOKEN": "of-the-variable"} if source == "variable" else {}
    with serving(serve(*arguments, "--token-file", str(file), **environment)) as url:
        client = HostClient(HostSettings(url=url, token=f"of-the-{source}"))
        assert (await client.health()).state in ("loading", "ready")
        assert await client.shut_down()
        await client.close()
