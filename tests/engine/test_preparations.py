"""Requests that only prepare the cache: they stand behind all others and give way to them."""

from __future__ import annotations

import pytest

from engine.api import Event, Finished, Limits, Request, Started, Stopped
from engine.auto.step_times import CPU_TIMES
from engine.scheduler import Scheduler
from tests.engine.test_scheduler import Crowded, Script, is_last, run_until_idle


def test_preparations_stand_behind_every_request() -> None:
    """Whoever came first, and at any time: a request that comes later has the next turn."""
    script = Script()
    scheduler = Scheduler(script, script.compute, times=lambda: CPU_TIMES, active_max=4)
    events: dict[int, list[Event]] = {}

    def submit(number: int, forwards: int, tokens_max: int) -> None:
        received = events[number] = []

        def receive(event: Event) -> None:
            received.append(event)
            if number == 1 and len(received) == 3:  # two forwards of the first preparation
                submit(3, 2, 8)

        request = Request((number, forwards), limits=Limits(tokens_max), owner=str(number))
        scheduler.submit(request, receive)

    submit(1, 4, 0)
    submit(2, 3, 8)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events.values()))
    assert script.steps == [(2,)] * 3 + [(1,)] * 2 + [(3,)] * 2 + [(1,)] * 2


def test_preparations_are_ended_where_a_request_needs_their_room() -> None:
    script = Crowded(set(), joins=True)
    scheduler = Scheduler(script, script.compute, active_max=4)
    events: dict[int, list[Event]] = {}

    def submit(number: int, room: int, tokens_max: int) -> None:
        received = events[number] = []
        script.rooms[number] = room

        def receive(event: Event) -> None:
            received.append(event)
            if number == 1 and len(received) == 3:  # two forwards of the preparation
                submit(2, 60, 8)

        scheduler.submit(Request((number, 4), limits=Limits(tokens_max)), receive)

    submit(1, 70, 0)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events.values()))
    assert script.turns == [1, 1, 2, 2, 2, 2], "it did not wait for the preparation's end"
    assert isinstance(events[1][-1], Stopped)
    assert isinstance(events[2][-1], Finished)
    assert script.used == 0


@pytest.mark.parametrize("active_max", [1, 2, 4])
def test_preparations_take_no_place_of_a_request_and_do_not_count_for_their_owner(
    active_max: int,
) -> None:
    script = Script()
    scheduler = Scheduler(script, script.compute, active_max=active_max)
    events: list[list[Event]] = []

    def submit(number: int, tokens_max: int) -> None:
        received: list[Event] = []
        events.append(received)

        def receive(event: Event) -> None:
            received.append(event)
            if number == 2 and len(received) == 2:  # both preparations are in progress
                submit(3, 8)

        scheduler.submit(Request((number, 3), limits=Limits(tokens_max), owner="a"), receive)

    submit(1, 0)
    submit(2, 0)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert script.turns == [1, 2, 3, 3, 3, 1, 2, 1, 2]


def test_preparations_leave_places_to_requests() -> None:
    script, begun = Script(), list[int]()
    scheduler = Scheduler(script, script.compute, active_max=4)
    events: list[list[Event]] = []
    for number, tokens_max in enumerate((0, 0, 0, 0, 8, 8)):
        received: list[Event] = []
        events.append(received)

        def receive(event: Event, number: int = number, received: list[Event] = received) -> None:
            received.append(event)
            if isinstance(event, Started):
                begun.append(number)

        request = Request((number, 2), limits=Limits(tokens_max), owner=str(number))
        scheduler.submit(request, receive)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert begun[:4] == [4, 5, 0, 1], "two places for all preparations, behind the requests"
    assert sorted(begun) == [0, 1, 2, 3, 4, 5]
    assert script.turns[:4] == [4, 5, 4, 5]
