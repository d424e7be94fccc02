"""One completion through the host's HTTP interface, on a scripted engine."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorEvent,
    FinishedEvent,
    HostEvent,
    StartedEvent,
    StoppedEvent,
    parse_event,
)
from dlm_lsp.host.generate import parse_body
from dlm_lsp.host.state import HostLimits
from engine.api import (
    Draft,
    Event,
    Failed,
    Finished,
    Started,
    Usage,
)
from tests.tiny import sentinel_tokenizer
from tests.toy_backend import (
    ToyHost,
    ToyJob,
    draft_until_cancelled,
    prefill_until_cancelled,
    silent,
    toy_host,
)

BODY: dict[str, Any] = {"prefix": "def f(x):\n    return ", "suffix": "\n\nprint(f(1))\n"}


JSON = {"Content-Type": "application/json"}


async def events_of(host: ToyHost, body: dict[str, Any]) -> list[HostEvent]:
    """Returns all events of one request, which is read at once."""
    async with await host.post(body) as response:
        assert response.status == 200
        return [parse_event(line) for line in (await response.read()).splitlines()]


async def refusal(host: ToyHost, payload: Any, **options: Any) -> tuple[int, dict[str, Any]]:
    """Returns the status and the error of an invalid request."""
    async with host.session.post("/v1/generate", data=payload, **options) as response:
        return response.status, (await response.json())["error"]


async def ask_without_reading(host: ToyHost, *, length: int | None = None) -> asyncio.StreamWriter:
    """A connection on which a request was written, and whose answer nobody reads.

    Args:
        length: of the body as announced, where that is not the truth.
    """
    payload = json.dumps(BODY).encode()
    _, writer = await asyncio.open_unix_connection(str(host.socket), limit=1024)
    writer.write(
        b"POST /v1/generate HTTP/1.1\r\nHost: host\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (length or len(payload), payload)
    )
    await writer.drain()
    return writer


async def taken_up(host: ToyHost) -> ToyJob:
    """Returns the engine's first request."""
    async with asyncio.timeout(20):
        while not host.backend.jobs:
            await asyncio.sleep(0.01)
    return host.backend.jobs[0]


async def ended(job: ToyJob) -> bool:
    """Returns whether the engine ends a job, within a limit that only a hang exceeds."""
    return await asyncio.to_thread(job.ended.wait, 20)


async def idle(host: ToyHost) -> None:
    """Waits until the host has no request left."""
    async with asyncio.timeout(20):
        while host.host.requests:
            await asyncio.sleep(0.01)


async def test_generate_started_drafts_finished_each_whole_state(host: ToyHost) -> None:
    events = await events_of(host, {**BODY, "limits": {"tokensMax": 5}})
    assert isinstance(events[0], StartedEvent)
    assert events[0].mode == "copy_spec"  # The choice of "auto" on a CPU without measurements.
    assert events[0].marks.prefix_start == 0
    assert events[0].marks.far_suffix_start == 2  # two line ends
    drafts = events[1:-1]
    assert all(isinstance(event, DraftEvent) for event in drafts)
    assert [event.sequence for event in drafts] == list(range(1, len(drafts) + 1))
    last = events[-1]
    assert isinstance(last, FinishedEvent)
    assert (last.text, last.finish_reason, last.mode) == ("01234", "length", "copy_spec")
    assert all(last.text.startswith(event.committed) for event in drafts)
    assert last.usage.tokens == 5
    assert last.usage.total_ms >= 3.0  # The engine's time and the host's.


async def test_generate_tells_the_engine_what_was_asked(host: ToyHost) -> None:
    body = {
        **BODY,
        "mode": "ar",
        "limits": {"tokensMax": 7, "stepsMax": 9},
        "sampling": {"temperature": 0.5, "topP": 0.9, "seed": 3},
        "block": {"length": 8, "threshold": 0.7},
        "stop": ["\n\n"],
    }
    await events_of(host, body)
    request = host.backend.jobs[0].request
    infill = host.backend.tokenizer.infill
    assert infill is not None
    assert request.prompt[0] == infill.begin
    assert request.mode == "ar"
    assert (request.limits.tokens_max, request.limits.steps_max) == (7, 9)
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.seed) == (
        0.5,
        0.9,
        3,
    )
    assert (request.block.length, request.block.threshold) == (8, 0.7)
    assert request.stop == ("\n\n",)
    assert request.stop_token_ids == (infill.end_of_middle, 2)


async def test_a_model_asked_through_sentinels_ends_at_a_markdown_fence(
    host: ToyHost,
) -> None:
    host.backend.tokenizer = sentinel_tokenizer()
    await events_of(host, {**BODY, "mode": "ar", "stop": ["\n\n"]})
    request = host.backend.jobs[0].request
    assert request.stop == ("\n\n", "\n```")


async def test_generate_block_longer_than_the_checkpoints_takes_its_room_from_the_prompt(
    host: ToyHost,
) -> None:
    body = {
        "prefix": "x\n" * 850,
        "suffix": "y\n" * 500,
        "budget": {"prefixTokens": 100_000},
        "block": {"length": 256},
    }
    await events_of(host, body)
    request, backend = host.backend.jobs[0].request, host.backend
    needed = len(request.prompt) + request.limits.tokens_max + request.block.length
    assert needed <= backend.info.context_max + backend.block_length


@pytest.mark.parametrize(
    ("mode", "block", "length"),
    [("quadratic_spec", {}, 2), ("quadratic_spec", {"length": 8}, 8), ("linear_spec", {}, 16)],
)
async def test_generate_quadratic_blocks_are_as_long_as_pays_unless_somebody_says(
    mode: str, block: dict[str, int], length: int, host: ToyHost
) -> None:
    await events_of(host, {**BODY, "mode": mode, "block": block})
    assert host.backend.jobs[0].request.block.length == length


async def test_generate_no_tokens_only_warms_the_cache(host: ToyHost) -> None:
    events = await events_of(host, {**BODY, "limits": {"tokensMax": 0}})
    assert isinstance(events[-1], FinishedEvent)
    assert (events[-1].text, events[-1].finish_reason) == ("", "warm")


async def test_generate_without_drafts_sends_only_the_end(host: ToyHost) -> None:
    events = await events_of(host, {**BODY, "draft": False})
    assert [type(event) for event in events] == [StartedEvent, FinishedEvent]


async def test_generate_deadline_ends_with_what_is_final(private_runtime: Path) -> None:
    async with toy_host(private_runtime, draft_until_cancelled) as host:
        events = await events_of(host, {**BODY, "limits": {"millisecondsMax": 100}})
        assert await ended(host.backend.jobs[0])
    last = events[-1]
    assert isinstance(last, FinishedEvent)
    assert last.finish_reason == "time"
    assert set(last.text) == {"x"}


@pytest.mark.parametrize("script", [silent, prefill_until_cancelled])
async def test_generate_deadline_while_queued_or_in_the_prompt_ends_with_nothing(
    private_runtime: Path, script: Any
) -> None:
    async with toy_host(private_runtime, script) as host:
        events = await events_of(host, {**BODY, "limits": {"millisecondsMax": 50}})
    assert isinstance(events[-1], FinishedEvent)
    assert (events[-1].text, events[-1].finish_reason) == ("", "time")


async def test_generate_deadline_that_the_engine_misses_is_answered_without_it(
    private_runtime: Path,
) -> None:
    def stuck(job: ToyJob) -> Iterator[Event]:
        yield Started(Usage(prompt_tokens=3))
        yield Draft("fin", "al", (), Usage(prompt_tokens=3, tokens=1))
        hold.wait(60)

    hold = threading.Event()
    async with toy_host(private_runtime, stuck) as host:
        async with asyncio.timeout(20):
            events = await events_of(host, {**BODY, "limits": {"millisecondsMax": 50}})
        hold.set()
    assert isinstance(events[-1], FinishedEvent)
    assert (events[-1].text, events[-1].finish_reason) == ("fin", "time")
    assert events[-1].usage.tokens == 1


async def test_generate_engine_failure_is_an_error_event(private_runtime: Path) -> None:
    def failing(job: ToyJob) -> Iterator[Event]:
        yield Failed("out_of_memory", "The request does not fit into the cache.")

    async with toy_host(private_runtime, failing) as host:
        events = await events_of(host, BODY)
        assert (await metrics_of(host))["dlm_requests_total"] == 1
    assert isinstance(events[-1], ErrorEvent)
    assert events[-1].error.code == "out_of_memory"


async def test_generate_end_of_the_host_is_a_stopped_event(private_runtime: Path) -> None:
    async with toy_host(private_runtime, draft_until_cancelled) as host:
        response = await host.post(BODY)
        await response.content.readline()
        host.backend.close()
        rest = (await response.read()).splitlines()
    assert isinstance(parse_event(rest[-1]), StoppedEvent)


@pytest.mark.parametrize("events_read", [0, 1, 2, 3, 10])
async def test_generate_client_that_leaves_at_any_event_cancels_the_engine(
    private_runtime: Path, events_read: int
) -> None:
    async with toy_host(private_runtime, draft_until_cancelled) as host:
        response = await host.post(BODY)
        for _ in range(events_read):
            parse_event(await response.content.readline())
        response.close()
        assert await ended(host.backend.jobs[0])
        await idle(host)


@pytest.mark.parametrize("script", [silent, prefill_until_cancelled])
async def test_generate_client_that_leaves_while_queued_or_prefilling_cancels_the_engine(
    private_runtime: Path, script: Any
) -> None:
    async with toy_host(private_runtime, script) as host:
        writer = await ask_without_reading(host)
        job = await taken_up(host)
        writer.close()
        assert await ended(job)
        await idle(host)


async def test_generate_client_that_leaves_in_the_middle_of_its_body_is_forgotten(
    host: ToyHost,
) -> None:
    writer = await ask_without_reading(host, length=1000)
    writer.close()
    events = await events_of(host, BODY)
    assert isinstance(events[-1], FinishedEvent)
    assert len(host.backend.jobs) == 1


async def test_generate_slow_reader_gets_the_newest_draft_and_the_end(
    private_runtime: Path,
) -> None:
    """A reader waits until 4,000 drafts of 4 KB are emitted; it then reads those that fitted into
    the buffers, and the end."""

    def flood(job: ToyJob) -> Iterator[Event]:
        yield Started(Usage())
        for number in range(4000):
            yield Draft(f"{number:04}" + "x" * 4000, "", (), Usage())
        yield Finished("done", "end", 1.0, Usage())

    async with toy_host(private_runtime, flood) as host, await host.post(BODY) as response:
        assert await ended(host.backend.jobs[0])
        lines = (await response.read()).splitlines()
    assert isinstance(parse_event(lines[-1]), FinishedEvent)
    drafts = [event for event in map(parse_event, lines) if isinstance(event, DraftEvent)]
    assert len(drafts) < 1000
    assert drafts[-1].committed.startswith("3999")
    assert [event.sequence for event in drafts] == list(range(1, len(drafts) + 1))


async def test_generate_client_that_never_reads_is_cut_off(private_runtime: Path) -> None:
    def flood(job: ToyJob) -> Iterator[Event]:
        yield Started(Usage())
        while not job.cancelled.is_set():
            yield Draft("x" * 100_000, "", (), Usage())

    limits = HostLimits(write_seconds=0.2)
    async with toy_host(private_runtime, flood, limits=limits) as host:
        writer = await ask_without_reading(host)
        assert await ended(await taken_up(host))
        await idle(host)
        writer.close()


async def test_generate_two_clients_do_not_mix(host: ToyHost) -> None:
    answers = await asyncio.gather(
        *(events_of(host, {**BODY, "limits": {"tokensMax": count}}) for count in range(1, 20))
    )
    texts = [event.text for event in (a[-1] for a in answers) if isinstance(event, FinishedEvent)]
    assert texts == ["0123456789012345678"[:count] for count in range(1, 20)]


async def test_generate_the_newest_request_for_a_typed_document_ends_the_one_before(
    private_runtime: Path,
) -> None:
    typed = {**BODY, "soon": True, "client": "editor", "document": "file:///a.py"}
    others = [
        {**typed, "document": "file:///b.py"},
        {**typed, "client": "another"},
        {**typed, "soon": False},
        {**typed, "document": ""},
        {**typed, "document": ""},
    ]
    async with toy_host(private_runtime, draft_until_cancelled) as host:
        kept = [await host.post(body) for body in others]
        first = await host.post(typed)
        newest = await host.post(typed)
        text = (await first.text()).splitlines()
        assert json.loads(text[-1])["event"] == "stopped"
        running = [job for job in host.backend.jobs if not job.ended.is_set()]
        assert len(running) == len(others) + 1, "nothing else is ended"
        for one in (*kept, newest):
            one.close()
        await idle(host)
        assert host.host.typing == {}


async def test_generate_more_requests_than_allowed_are_told_when_to_come_again(
    private_runtime: Path,
) -> None:
    limits = HostLimits(requests_max=2)
    async with toy_host(private_runtime, draft_until_cancelled, limits=limits) as host:
        running = [await host.post(BODY) for _ in range(2)]
        async with await host.post(BODY) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "busy"
        for one in running:
            one.close()
        await idle(host)
        async with await host.post(BODY) as response:
            assert response.status == 200


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"\xff\xfe", None),
    (b"[" * 100_000, None),
    (b"{}", "prefix"),
    (b'{"prefix": 1}', "prefix"),
    (b'{"prefix": "", "surplus": 1}', "surplus"),
    (b'{"prefix": "", "mode": "linear"}', "mode"),
    (b'{"prefix": "", "limits": {"tokensMax": -1}}', "limits.tokensMax"),
    (b'{"prefix": "", "limits": {"tokensMax": 3000}}', "limits.tokensMax"),
    (b'{"prefix": "", "limits": {"maxTokens": 1}}', "limits.maxTokens"),
    (b'{"prefix": "", "sampling": {"temperature": NaN}}', "sampling.temperature"),
    (b'{"prefix": "", "stop": [""]}', "stop.0"),
    (b'{"prefix": "ab", "marks": {"prefixStart": 3}}', "marks.prefixStart"),
    (b'{"prefix": "", "budget": {"prefixTokens": 1}}', "budget.prefixTokens"),
    (json.dumps({"prefix": "x" * 200_001}).encode(), "prefix"),
]


@pytest.mark.parametrize(("payload", "param"), BAD_BODIES, ids=lambda value: str(value)[:40])
async def test_generate_bad_body_is_refused_by_name_and_the_host_goes_on(
    host: ToyHost, payload: bytes, param: str | None
) -> None:
    status, error = await refusal(host, payload, headers=JSON)
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert not host.backend.jobs
    assert isinstance((await events_of(host, BODY))[-1], FinishedEvent)


async def test_generate_huge_body_is_refused_unread(host: ToyHost) -> None:
    payload = b'{"prefix": "' + b"x" * (5 << 20) + b'"}'
    status, error = await refusal(host, payload, headers=JSON)
    assert (status, error["code"]) == (413, "invalid_request")


async def test_generate_other_content_type_is_refused(host: ToyHost) -> None:
    status, error = await refusal(host, b"{}")
    assert status == 415
    assert "application/json" in error["message"]


async def test_generate_body_that_never_comes_is_given_up(private_runtime: Path) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with toy_host(private_runtime, limits=HostLimits(body_seconds=0.1)) as host:
        status, error = await refusal(host, trickle(), headers=JSON)
    assert (status, error["code"]) == (408, "invalid_request")


async def test_generate_bug_in_the_engine_is_a_named_error_and_the_host_goes_on(
    host: ToyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(host.backend, "submit", lambda *_: 1 / 0)
        async with await host.post(BODY) as response:
            assert response.status == 500
            assert "ZeroDivisionError" in (await response.json())["error"]["message"]
    assert isinstance((await events_of(host, BODY))[-1], FinishedEvent)


async def test_generate_logs_one_line_without_source_text(
    host: ToyHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await events_of(host, {"prefix": "SECRET", "suffix": "SECRET", "stop": ["SECRET"]})
    async with await host.post({"prefix": "SECRET", "mode": "SECRET"}) as response:
        assert response.status == 400
    lines = [line for line in caplog.messages if line.startswith("request ")]
    assert len(lines) == 1
    assert re.search(r"mode=copy_spec outcome=length .*forwards=128 tokens=128 ms=\d+", lines[0])
    assert "SECRET" not in caplog.text


async def test_generate_counts_appear_in_the_metrics(host: ToyHost) -> None:
    await events_of(host, {**BODY, "limits": {"tokensMax": 5}})
    async with await host.post({}) as response:
        assert response.status == 400
    counts = await metrics_of(host)
    assert counts["dlm_requests_total"] == 1
    assert counts["dlm_errors_total"] == 1
    assert counts["dlm_tokens_total"] == 5
    assert counts["dlm_request_seconds_count"] == 1
    assert counts["dlm_in_flight"] == counts["dlm_queued"] == 0


async def metrics_of(host: ToyHost) -> dict[str, float]:
    """Returns the metric names without labels, with the sums of their values."""
    async with host.session.get("/metrics") as response:
        text = await response.text()
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = re.split(r"(?:\{.*\})? ", line, maxsplit=1)
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@given(st.text(st.characters(codec=None, categories=("L", "Cs", "So", "P")), max_size=50))
def test_parse_body_any_string_keeps_its_length(text: str) -> None:
    """Lone surrogates become one U+FFFD each; pairs become the character that they encode."""
    body = parse_body(json.dumps({"prefix": text}).encode())
    spelled = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert len(body.prefix) == len(json.loads(json.dumps(text)))
    assert body.prefix == spelled


def test_parse_body_escaped_backslash_before_u_is_no_escape() -> None:
    assert parse_body(rb'{"prefix": "\\ud800\ud800\\"}').prefix == "\\ud800\ufffd\\"


async def test_generate_surrogates_and_emoji_are_answered(host: ToyHost) -> None:
    payload = rb'{"prefix": "\ud83d\ude00 \ud800 x", "suffix": "\udc00"}'
    response = await host.session.post("/v1/generate", data=payload, headers=JSON)
    assert response.status == 200
    lines = (await response.read()).splitlines()
    assert isinstance(parse_event(lines[-1]), FinishedEvent)
