"""The client against hosts in this process: streaming, cancelling, refusals, bad hosts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from dlm_lsp.client import answers, connection, paths
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import (
    DraftEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    LimitsBody,
    StartedEvent,
)
from dlm_lsp.client.paths import HostPaths, host_paths
from dlm_lsp.client.starter import Backoff, Starter
from dlm_lsp.host import routes
from dlm_lsp.version import PROTOCOL, VERSION
from engine.api import Draft, Event, Finished, Started, Usage
from engine.config import EngineSettings
from tests.toy_backend import Script, ToyHost, ToyJob, count_up, draft_until_cancelled, toy_host

BODY = GenerateBody(prefix="x = ", limits=LimitsBody(tokens_max=3))
# A checkpoint folder that does not exist: these hosts are found, never started.
SETTINGS = HostSettings(EngineSettings(checkpoint=Path("/nonexistent")))


async def all_events(client: HostClient, body: GenerateBody = BODY) -> list[HostEvent]:
    return [event async for event in client.generate(body)]


@asynccontextmanager
async def connected(
    folder: Path, script: Script = count_up
) -> AsyncIterator[tuple[ToyHost, HostClient]]:
    """A toy host where a client of SETTINGS looks for it, and the client."""
    path = host_paths(SETTINGS.engine).socket
    async with toy_host(folder, script, path=path) as host:
        client = HostClient(SETTINGS)
        yield host, client
        await client.close()


async def test_generate_streams_the_events(private_runtime: Path) -> None:
    async with connected(private_runtime) as (_, client):
        events = await all_events(client)
    assert isinstance(events[0], StartedEvent)
    assert isinstance(events[-1], FinishedEvent)
    assert events[-1].text == "012"


async def test_generate_many_at_once_on_one_client(private_runtime: Path) -> None:
    async with connected(private_runtime) as (_, client):
        answers = await asyncio.gather(*(all_events(client) for _ in range(20)))
    assert {answer[-1].text for answer in answers if isinstance(answer[-1], FinishedEvent)} == {
        "012"
    }
    assert len(answers) == 20


async def test_a_host_is_started_before_the_first_connection_is_made(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the host would wait for the imports of the client's connection."""
    order: list[str] = []

    async def open_connection(self: connection.HostConnection, *, look: bool) -> None:
        order.append("open")
        raise HostError("Enough.")

    monkeypatch.setattr(connection.HostConnection, "open", open_connection)
    monkeypatch.setattr(Starter, "attempt", lambda self, paths: order.append("start"))
    client = HostClient(SETTINGS)
    for _ in range(2):
        with pytest.raises(HostError, match="Enough"):
            await client.ensure()
    assert order == ["start", "open", "open"]
    await client.close()


async def test_a_request_looks_for_the_host_once_in_a_while_alone(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[EngineSettings] = []

    def look(settings: EngineSettings) -> HostPaths:
        looks.append(settings)
        return host_paths(settings)

    monkeypatch.setattr(connection, "host_paths", look)
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 1000.0)
    async with connected(private_runtime) as (_, client):
        await all_events(client)
        count = len(looks)
        for _ in range(3):
            await all_events(client)
        assert len(looks) == count
        monkeypatch.setattr(connection, "_LOOK_SECONDS", -1.0)
        await all_events(client)
        assert len(looks) > count


@pytest.mark.parametrize("events_read", [1, 2, 5])
async def test_generate_closed_at_any_event_cancels_the_engine(
    private_runtime: Path, events_read: int
) -> None:
    async with connected(private_runtime, draft_until_cancelled) as (host, client):
        async with aclosing(client.generate(BODY)) as events:
            for _ in range(events_read):
                await anext(events)
        assert await asyncio.to_thread(host.backend.jobs[0].ended.wait, 20)


async def test_generate_cancelled_task_cancels_the_engine(private_runtime: Path) -> None:
    async with connected(private_runtime, draft_until_cancelled) as (host, client):
        task = asyncio.create_task(all_events(client))
        async with asyncio.timeout(20):
            while not host.backend.jobs:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(host.backend.jobs[0].ended.wait, 20)


async def test_generate_slow_reader_is_not_shown_overtaken_drafts(private_runtime: Path) -> None:
    def flood(job: ToyJob) -> Iterator[Event]:
        yield Started(Usage())
        for number in range(1000):
            yield Draft(str(number), "", (), Usage())
        yield Finished("done", "end", 1.0, Usage())

    async with connected(private_runtime, flood) as (host, client):
        seen: list[HostEvent] = []
        async with aclosing(client.generate(BODY)) as events:
            seen.append(await anext(events))
            assert await asyncio.to_thread(host.backend.jobs[0].ended.wait, 20)
            seen += [event async for event in events]
    drafts = [event for event in seen if isinstance(event, DraftEvent)]
    assert isinstance(seen[-1], FinishedEvent)
    assert len(drafts) < 100
    assert drafts[-1].committed == "999"


async def test_generate_refused_request_is_an_error_that_names_the_field(
    private_runtime: Path,
) -> None:
    async with connected(private_runtime) as (_, client):
        body = GenerateBody.model_validate({"prefix": "", "marks": {"prefixStart": 9}})
        with pytest.raises(HostError, match=r"marks\.prefixStart is 9") as caught:
            await all_events(client, body)
        assert caught.value.code == "invalid_request"
        assert isinstance((await all_events(client))[-1], FinishedEvent)


async def test_health_ready_carries_what_is_loaded(private_runtime: Path) -> None:
    async with connected(private_runtime) as (host, client):
        await host.host.loader.wait()
        health = await client.health()
    assert health.state == "ready"
    assert health.detail["contextMax"] == 2032


async def test_health_nothing_there_is_absent_and_starts_nothing(private_runtime: Path) -> None:
    client = HostClient(SETTINGS)
    health = await client.health()
    await client.close()
    assert health.state == "absent"
    assert not list(private_runtime.glob("dlm-lsp/*"))


async def test_health_folder_that_is_not_private_is_an_error_with_its_remedy(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = private_runtime / "dlm-lsp"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setattr(paths, "_candidates", lambda: [folder])  # There is no other place.
    client = HostClient(SETTINGS)
    health = await client.health()
    assert health.state == "error"
    assert "Remove it" in health.message
    with pytest.raises(HostError, match="has mode 0755"):
        await all_events(client)
    await client.close()


async def test_ensure_older_host_is_asked_to_end_and_not_used(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "VERSION", "0.0.9")
    async with connected(private_runtime) as (host, client):
        ensuring = asyncio.create_task(client.ensure())
        async with asyncio.timeout(20):
            await host.host.stop.wait()
        assert not ensuring.done()
        ensuring.cancel()


async def test_ensure_newer_host_is_used(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "VERSION", "999.0.0")
    async with connected(private_runtime) as (host, client):
        assert isinstance((await all_events(client))[-1], FinishedEvent)
        assert not host.host.stop.is_set()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def peculiar_host(
    health: object, generate: Answer | None = None, *, status: int = 200
) -> AsyncIterator[HostClient]:
    """A host with the test's answers, where a client of SETTINGS looks for one."""

    async def get_health(request: web.Request) -> web.Response:
        text = health if isinstance(health, str) else json.dumps(health)
        return web.Response(text=text, status=status)

    app = web.Application()
    app.router.add_get("/health", get_health)
    if generate is not None:
        app.router.add_post("/v1/generate", generate)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(host_paths(SETTINGS.engine).socket)).start()
    client = HostClient(SETTINGS)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


@pytest.mark.usefixtures("private_runtime")
async def test_ensure_host_of_another_protocol_is_refused() -> None:
    async with peculiar_host({"protocol": PROTOCOL + 1, "version": VERSION}) as client:
        with pytest.raises(HostError, match="protocol") as caught:
            await client.ensure()
        assert caught.value.code == "protocol"
        assert caught.value.remedy


@pytest.mark.usefixtures("private_runtime")
@pytest.mark.parametrize("answer", ["<html>", "[1]", "", "null"])
async def test_ensure_something_else_on_the_socket_is_refused(answer: str) -> None:
    async with peculiar_host(answer) as client:
        assert (await client.health()).state == "error"
        with pytest.raises(HostError, match="no dlm-lsp host"):
            await client.ensure()


@pytest.mark.usefixtures("private_runtime")
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b"not json\n", "protocol"),
        (b'{"event":"surprise"}\n', "protocol"),
        (b'{"event":"draft"}\n', "protocol"),
        (b"x" * 200_000 + b"\n", "protocol"),
        (b"", "host_lost"),
        (b'{"event":"started","mode":"ar","marks":{},"usage":{}}\n', "host_lost"),
        (b'{"event":"started","mo', "host_lost"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_generate_garbled_or_broken_answer_is_one_named_error(
    lines: bytes, code: str
) -> None:
    async def generate(request: web.Request) -> web.Response:
        return web.Response(body=lines)

    async with peculiar_host({"protocol": PROTOCOL, "version": VERSION}, generate) as client:
        with pytest.raises(HostError) as caught:
            await all_events(client)
        assert caught.value.code == code


@pytest.mark.usefixtures("private_runtime")
async def test_generate_endless_line_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LINE_BYTES_MAX", 1 << 16)

    async def generate(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
        return response

    async with peculiar_host({"protocol": PROTOCOL, "version": VERSION}, generate) as client:
        with pytest.raises(HostError, match="line longer"):
            await all_events(client)


@pytest.mark.usefixtures("private_runtime")
async def test_generate_host_lost_before_the_first_event_is_asked_once_more() -> None:
    asked = 0

    async def generate(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        finished = FinishedEvent(
            text="ok",
            finish_reason="end",
            confidence=1,
            mode="ar",
            usage={},  # pyright: ignore
        )
        return web.Response(text=finished.model_dump_json(by_alias=True) + "\n")

    async with peculiar_host({"protocol": PROTOCOL, "version": VERSION}, generate) as client:
        events = await all_events(client)
    assert [type(event) for event in events] == [FinishedEvent]
    assert asked == 2


@pytest.mark.usefixtures("private_runtime")
async def test_requests_that_die_with_one_host_cost_one_failure() -> None:
    """However many they were, the next request is asked at once; a second death costs a pause."""
    asked: list[web.Request] = []
    may_die = asyncio.Event()

    async def generate(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"event":"started","mode":"ar","marks":{},"usage":{}}\n')
        asked.append(request)
        await may_die.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    async with peculiar_host({"protocol": PROTOCOL, "version": VERSION}, generate) as client:
        for count, num_asked in ((5, 5), (1, 6), (1, 6)):
            may_die.clear()
            running = [asyncio.create_task(all_events(client)) for _ in range(count)]
            async with asyncio.timeout(60):
                while len(asked) < num_asked:
                    await asyncio.sleep(0.01)
            may_die.set()
            errors = await asyncio.gather(*running, return_exceptions=True)
            assert {getattr(error, "code", error) for error in errors} == {"host_lost"}
            assert len(asked) == num_asked


@asynccontextmanager
async def remote(folder: Path, token: str) -> AsyncIterator[str]:
    """The URL of a toy host over TCP that requires a token."""
    async with toy_host(folder, token=token) as host:
        runner = routes.make_runner(host.host)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        await runner.cleanup()


async def test_remote_right_token_is_served(private_runtime: Path) -> None:
    async with remote(private_runtime, "secret") as url:
        client = HostClient(HostSettings(url=url, token="secret"))
        assert isinstance((await all_events(client))[-1], FinishedEvent)
        assert (await client.health()).state == "ready"
        await client.close()


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_remote_wrong_token_is_an_error_that_says_so(
    private_runtime: Path, token: str | None
) -> None:
    async with remote(private_runtime, "secret") as url:
        client = HostClient(HostSettings(url=url, token=token))
        with pytest.raises(HostError, match="token") as caught:
            await all_events(client)
        assert caught.value.code == "unauthorized"
        await client.close()


async def test_remote_nobody_there_is_an_error_and_nothing_is_started(
    private_runtime: Path,
) -> None:
    client = HostClient(HostSettings(url="http://127.0.0.1:9", token="t"))
    with pytest.raises(HostError, match=r"127\.0\.0\.1:9") as caught:
        await all_events(client)
    assert "engine.url" in caught.value.remedy
    assert not list(private_runtime.glob("dlm-lsp/*"))
    await client.close()


@pytest.mark.parametrize(
    "url", ["gpu-box:8123", "ftp://gpu-box", "http://", "http://host/path", "http://host:port", ""]
)
async def test_remote_address_that_is_none_is_named(url: str) -> None:
    client = HostClient(HostSettings(url=url, token="t"))
    assert (await client.health()).state == "error"
    with pytest.raises(HostError, match=r"engine\.url") as caught:
        await client.ensure()
    assert "http://" in caught.value.remedy
    await client.close()


async def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    client = HostClient(HostSettings(url="http://me:secret@127.0.0.1:9", token="t"))
    for said in (await client.health()).message, str(await refusal(client)):
        assert "engine.url" in said
        assert "secret" not in said
    await client.close()


async def refusal(client: HostClient) -> HostError:
    with pytest.raises(HostError) as caught:
        await client.ensure()
    return caught.value


async def test_remote_token_that_no_header_can_carry_is_named_but_not_shown() -> None:
    client = HostClient(HostSettings(url="http://127.0.0.1:9", token="two\r\nlines"))
    with pytest.raises(HostError, match=r"engine\.token") as caught:
        await client.ensure()
    assert "lines" not in str(caught.value)
    await client.close()


@pytest.mark.usefixtures("private_runtime")
@pytest.mark.parametrize("status", [302, 307])
async def test_redirect_is_not_followed(status: int) -> None:
    """Source text and token go where the settings say, and nowhere else."""

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/health"})

    async with peculiar_host({"protocol": PROTOCOL, "version": VERSION}, redirect) as client:
        with pytest.raises(HostError, match=f"HTTP {status}"):
            await all_events(client)


def test_backoff_doubles_its_pause_until_an_answer_comes() -> None:
    backoff, error = Backoff(), HostError("broken", remedy="mend it", code="load_failed")
    pauses = []
    for _ in range(8):
        backoff.failed(error, now=100.0)
        with pytest.raises(HostError, match="broken mend it"):
            backoff.check(100.5)
        pauses.append(backoff.until - 100.0)
        backoff.check(backoff.until)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    backoff.succeeded()
    backoff.check(100.5)


def test_backoff_first_death_costs_no_pause() -> None:
    backoff = Backoff()
    backoff.failed(HostError("lost"), now=100.0, free=1)
    backoff.check(100.0)
    backoff.failed(HostError("lost"), now=100.0, free=1)
    with pytest.raises(HostError):
        backoff.check(100.0)
