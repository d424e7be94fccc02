"""A client's reading of a host's answers, for any chunking."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.client.answers import HostLost, read_events, read_health, read_refusal, to_error
from dlm_lsp.client.messages import (
    DraftEvent,
    FinishedEvent,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
    to_line,
)

STARTED = StartedEvent(mode="ar", marks=Marks(), usage=UsageBody())
FINISHED = FinishedEvent(
    text="é", finish_reason="end", confidence=1.0, mode="ar", usage=UsageBody()
)


def draft(sequence: int) -> DraftEvent:
    return DraftEvent(
        sequence=sequence, committed="é" * sequence, draft="", spans=(), usage=UsageBody()
    )


class Chunked:
    """A body that comes in given pieces."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]

    async def readany(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


def read(chunks: list[bytes]) -> list[HostEvent]:
    async def run() -> list[HostEvent]:
        return [event async for event in read_events(Chunked(chunks))]

    return asyncio.run(run())


def test_events_that_came_together_are_without_overtaken_drafts() -> None:
    events = [STARTED, draft(1), draft(2), draft(3), FINISHED]
    assert read([b"".join(map(to_line, events))]) == [STARTED, draft(3), FINISHED]


@given(st.integers(0, 8), st.lists(st.integers(0, 2000), max_size=8))
def test_events_in_any_pieces_keep_order_ends_and_the_newest_draft(
    drafts: int, cuts: list[int]
) -> None:
    events = [STARTED, *(draft(number + 1) for number in range(drafts)), FINISHED]
    body = b"".join(map(to_line, events))
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    seen = read([body[a:b] for a, b in pairwise(places)])
    assert seen[0] == STARTED
    assert seen[-1] == FINISHED
    assert [event for event in events if event in seen] == seen
    if drafts:
        assert seen[-2] == draft(drafts)


@given(st.integers(0, 400))
def test_events_broken_off_anywhere_before_the_last_line_are_a_lost_host(length: int) -> None:
    body = to_line(STARTED) + to_line(draft(1)) + to_line(FINISHED)
    with pytest.raises(HostLost):
        read([body[: min(length, len(body) - 1)]])


def test_health_of_a_failed_load_becomes_an_error_with_its_remedy() -> None:
    body = b'{"error":{"code":503,"message":"No file.","type":"load_error","remedy":"Copy it."}}'
    health = read_health(503, body)
    error = to_error(health)
    assert health.state == "error"
    assert health.message == "No file. Copy it."
    assert (error.message, error.remedy, error.code) == ("No file.", "Copy it.", "load_failed")


def test_refusal_that_is_no_json_tells_the_status() -> None:
    assert "HTTP 502" in str(read_refusal(502, b"<html>Bad Gateway"))


def test_refusal_of_a_host_that_is_ending_is_a_lost_host() -> None:
    with pytest.raises(HostLost):
        read_refusal(503, b'{"error":{"code":"stopping"}}')
