"""Events from a thread to the loop: in order, only the newest draft, without waiting."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.host.bridge import EventStream
from engine.api import Draft, Event, Finished, Started, Usage

LAST = Finished("done", "end", 1.0, Usage())


def draft(number: int) -> Draft:
    return Draft(str(number), "", (), Usage())


async def read_all(stream: EventStream) -> list[Event]:
    events: list[Event] = []
    while LAST not in events:
        async with asyncio.timeout(20):
            events.append(await stream.next())
    return events


@given(st.integers(0, 30), st.integers(0, 30))
def test_stream_overtaken_drafts_are_left_out(before: int, after: int) -> None:
    """Emits the given numbers of drafts before and after the reader takes one event."""

    async def run() -> list[Event]:
        stream = EventStream()
        stream.emit(Started(Usage()))
        for number in range(before):
            stream.emit(draft(number))
        events = [await stream.next()]
        for number in range(before, before + after):
            stream.emit(draft(number))
        stream.emit(LAST)
        return events + await read_all(stream)

    events = asyncio.run(run())
    newest = [draft(before + after - 1)] if before + after else []
    assert events == [Started(Usage()), *newest, LAST]


async def test_stream_from_a_thread_keeps_the_order_and_ends() -> None:
    stream = EventStream()

    def emit() -> None:
        stream.emit(Started(Usage()))
        for number in range(1000):
            stream.emit(draft(number))
        stream.emit(LAST)

    threading.Thread(target=emit).start()
    events = await read_all(stream)
    numbers = [int(event.committed) for event in events if isinstance(event, Draft)]
    assert isinstance(events[0], Started)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 999


def test_stream_whose_loop_has_ended_does_not_trouble_the_engine() -> None:
    async def make() -> EventStream:
        return EventStream()

    stream = asyncio.run(make())
    stream.emit(LAST)
    assert stream.first_event_at is not None
