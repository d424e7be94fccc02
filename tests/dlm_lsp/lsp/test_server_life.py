"""The language server's process: its life cycle, its imports and its streams."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.lsp.transport import run, to_address
from engine.errors import ConfigError
from tests.dlm_lsp.lsp_client import SECONDS_MAX, URI, LspClient, lsp_client
from tests.dlm_lsp.scripted_host import ScriptedHost

# The server process prints this at its end, after it has served a completion.
TELL_MODULES = """
import atexit, os, sys

def tell():
    names = ("torch", "pygls", "aiohttp", "pydantic", "numpy", "tokenizers", "safetensors")
    path = os.environ["TELL"] + str(len(sys.orig_argv))
    open(path, "w").write(" ".join(name for name in names if name in sys.modules))

if "--stdio" in sys.orig_argv:
    atexit.register(tell)
"""


async def test_the_process_imports_no_torch_even_after_a_completion(
    tmp_path: Path, scripted: ScriptedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELL_MODULES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TELL", str(tmp_path / "modules"))
    async with lsp_client(tmp_path, warm=False) as editor:
        await editor.greet(scripted.url)
        scripted.script = ["a + b"]
        assert await editor.inline(URI, 1, 11)
        assert await editor.leave() == 0
    (told,) = tmp_path.glob("modules*")
    assert set(told.read_text().split()) == {"pygls", "aiohttp", "pydantic"}


async def test_initialize_is_answered_although_no_engine_can_be_reached(
    editor: LspClient,
) -> None:
    await editor.greet("http://127.0.0.1:9")
    assert await editor.inline(URI, 1, 11) == []
    assert "127.0.0.1:9" in (await editor.seen("window/showMessage"))["message"]
    assert await editor.leave() == 0


async def test_request_made_while_the_engine_loads_is_answered_when_it_has(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    ready = scripted.health
    loading = {"error": {"message": "Loading.", "type": "unavailable_error", "code": "loading"}}
    scripted.health = (503, ready[1] | loading)
    await editor.greet(scripted.url)
    asking = editor.ask_inline(URI, 1, 11)
    job = await scripted.job()
    scripted.health = ready
    job.start()
    job.finish("a + b")
    assert len(await editor.answer(asking)) == 1


@pytest.mark.parametrize("when", ["at once", "initialized", "after shutdown", "in a message"])
async def test_end_of_stdin_ends_the_process(editor: LspClient, when: str) -> None:
    if when != "at once":
        await editor.initialize()
    if when == "after shutdown":
        await editor.request("shutdown")
    if when == "in a message":
        editor.send_bytes(b"Content-Length: 100\r\n\r\n{")
    assert editor.process.stdin is not None
    editor.process.stdin.close()
    assert await editor.wait() == (0 if when == "after shutdown" else 1)


async def test_end_of_stdin_stops_the_engine(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url)
    editor.ask_inline(URI, 1, 11)
    job = await scripted.job()
    job.start()
    assert editor.process.stdin is not None
    editor.process.stdin.close()
    await job.cancelled()
    assert await editor.wait() == 1


@pytest.mark.parametrize("how", ["processId", "--clientProcessId"])
async def test_death_of_the_editor_ends_the_process_although_stdin_stays_open(
    tmp_path: Path, how: str
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(600)"
    )
    arguments = ["--stdio"] + ([how, str(parent.pid)] if how.startswith("--") else [])
    async with lsp_client(tmp_path, *arguments) as editor:
        await editor.initialize(processId=parent.pid if how == "processId" else None)
        parent.kill()
        await parent.wait()
        assert await editor.wait() == 1


async def test_editor_of_another_process_namespace_is_not_missed(tmp_path: Path) -> None:
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(processId=2**22 + 1)  # Larger than any process id of Linux.
        await asyncio.sleep(1.5)
        await editor.round_trip()
        assert await editor.leave() == 0


async def test_client_that_stops_reading_does_not_stop_the_server_from_ending(
    tmp_path: Path,
) -> None:
    async with lsp_client(tmp_path, warm=False) as editor:
        await editor.initialize()
        transport = editor.process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.close()
        editor.notify("textDocument/didClose", {"textDocument": {"uri": "file:///nowhere.py"}})
        assert await editor.wait() == 1


async def test_terminate_signal_ends_the_process(editor: LspClient) -> None:
    await editor.initialize()
    editor.process.send_signal(signal.SIGTERM)
    assert await editor.wait() == -signal.SIGTERM


# TCP


class TcpProcess:
    """Starts a server on a loopback port; yields the server and its port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0

    async def listening(self) -> TcpProcess:
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS_MAX):
            while b"listening on" not in (line := await self.process.stderr.readline()):
                assert line, "the server ended"
        self.port = int(line.rpartition(b":")[2])
        return self


@pytest.fixture
async def tcp_processes() -> AsyncIterator[list[TcpProcess]]:
    started: list[TcpProcess] = []
    yield started
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
        await one.process.communicate()


async def start_tcp(started: list[TcpProcess], address: str) -> TcpProcess:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "dlm_lsp", "--tcp", address), stderr=pipe
    )
    started.append(TcpProcess(process))
    return await started[-1].listening()


async def test_tcp_serves_the_first_client_and_ends_with_it(
    tcp_processes: list[TcpProcess],
) -> None:
    server = await start_tcp(tcp_processes, "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":'
        b'{"processId":null,"rootUri":null,"capabilities":{}}}'
    )
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(SECONDS_MAX):
        assert await reader.readuntil(b'"dlm-lsp"')
        writer.close()
        assert await server.process.wait() == 1


async def test_tcp_listens_on_loopback_unless_told(tcp_processes: list[TcpProcess]) -> None:
    server = await start_tcp(tcp_processes, ":0")
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("needs /proc")
    listening = [line.split()[1] for line in table.read_text().splitlines()[1:]]
    assert f"0100007F:{server.port:04X}" in listening


async def test_tcp_address_in_use_is_named(tcp_processes: list[TcpProcess]) -> None:
    server = await start_tcp(tcp_processes, "127.0.0.1:0")
    pipe = asyncio.subprocess.PIPE
    address = f"127.0.0.1:{server.port}"
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "dlm_lsp", "--tcp", address), stderr=pipe
    )
    _, errors = await second.communicate()
    assert second.returncode == 2
    assert address in errors.decode()


@given(st.integers(0, 65_535))
def test_address_without_host_is_loopback(port: int) -> None:
    assert to_address(str(port)) == to_address(f":{port}") == ("127.0.0.1", port)
    assert to_address(f"[::1]:{port}") == ("::1", port)
    assert to_address(f"0.0.0.0:{port}") == ("0.0.0.0", port)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:port", "host:70000", "1.2.3.4:-1", "٣"]
)
def test_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--tcp"):
        to_address(text)


def test_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    options = argparse.Namespace(
        tcp=None, log_file=tmp_path / "none" / "log", log_level="info", client_process_id=None
    )
    with pytest.raises(ConfigError, match="--log-file"):
        run(options)
