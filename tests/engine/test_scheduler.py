"""The queue: turns, order, contained failures, and cancellation of any request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import (
    Draft,
    Event,
    Failed,
    Finished,
    Limits,
    Request,
    Sampling,
    Started,
    Stopped,
    Usage,
)
from engine.auto.step_times import CPU_TIMES
from engine.cache.pages import CacheFull
from engine.errors import EngineError, MemoryExhausted, RequestError
from engine.loop import Forward
from engine.reading import Reading
from engine.scheduler import Scheduler, Turns
from engine.step import Step, chain

USAGE = Usage()


class Script:
    """A `run` whose behaviour depends on the prompt (number, forwards), and what it computes.

    Attributes:
        turns: the number of each request whose row was computed.
        steps: the numbers of the requests in each step.
    """

    def __init__(self) -> None:
        self.room = 100
        self.turns: list[int] = []
        self.steps: list[tuple[int, ...]] = []

    def __call__(self, request: Request, is_cancelled: Callable[[], bool]) -> Turns:
        number, forwards = request.prompt
        if number > self.room:
            raise CacheFull
        yield Started(USAGE)
        done = 0
        while done < forwards:
            if is_cancelled():
                yield Stopped("", USAGE)
                return
            step = chain((number,), done, read=(0,), sequence=number)
            computed = yield Forward(step, request.sampling)
            if computed is None:
                continue
            assert computed.readings == [(number, done)], "each gets its own"
            assert computed.step.sequence[computed.first] == number
            if number == 13:
                raise ValueError("unlucky")
            if number == 14:
                raise RequestError("bad.", param="prompt")
            done += 1
            yield Draft("", "", (), USAGE)
        yield Finished("", "end", 1.0, USAGE)

    def compute(self, step: Step, sampling: Sampling) -> Sequence[Reading]:
        self.steps.append(step.sequence)
        if 15 in step.sequence:
            raise MemoryExhausted("no memory.", param="prompt")
        self.turns += step.sequence
        return [
            (step.sequence[row], step.position[row])  # pyright: ignore[reportReturnType]
            for row in step.read
        ]


def play(
    script: Script, *prompts: tuple[int, int], active_max: int = 4, shares: bool = False
) -> list[list[Event]]:
    """Submits all before the first turn, runs them to their ends, returns their events."""
    times = CPU_TIMES if shares else None
    scheduler = Scheduler(script, script.compute, times=lambda: times, active_max=active_max)
    events: list[list[Event]] = [[] for _ in prompts]
    for prompt, received in zip(prompts, events, strict=True):
        scheduler.submit(Request(prompt, owner=str(prompt)), received.append)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    return events


def is_last(event: Event) -> bool:
    return isinstance(event, Finished | Stopped | Failed)


def run_until_idle(scheduler: Scheduler, is_done: Callable[[], bool]) -> None:
    thread = threading.Thread(target=scheduler.run_forever)
    thread.start()
    waited = threading.Event()
    for _ in range(1000):
        if is_done():
            break
        waited.wait(0.01)
    scheduler.close()
    thread.join(10)
    assert not thread.is_alive()
    assert is_done()


def test_requests_take_turns() -> None:
    script = Script()
    play(script, (1, 3), (2, 3))
    assert script.turns == [1, 2, 1, 2, 1, 2]


def test_requests_that_gain_by_it_share_a_step() -> None:
    script = Script()
    play(script, (1, 3), (2, 1), (3, 3), shares=True)
    assert script.steps == [(1, 2, 3), (1, 3), (1, 3)]


def test_what_one_request_cannot_have_does_not_fail_the_others() -> None:
    script = Script()
    first, refused, last = play(script, (1, 2), (15, 2), (3, 2), shares=True)
    assert refused[-1] == Failed("out_of_memory", "no memory.", "prompt")
    assert isinstance(first[-1], Finished)
    assert isinstance(last[-1], Finished)
    assert script.steps[:4] == [(1, 15, 3), (1,), (15,), (3,)]


def test_a_request_that_is_cancelled_while_it_waits_for_its_turn_computes_nothing_more() -> None:
    script = Script()
    events: list[list[Event]] = [[], []]
    scheduler = Scheduler(script, script.compute)

    def receive(event: Event) -> None:
        events[0].append(event)
        if len(events[0]) == 3:
            second.cancel()

    scheduler.submit(Request((1, 4)), receive)
    second = scheduler.submit(Request((2, 9)), events[1].append)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert isinstance(events[1][-1], Stopped)
    assert script.turns == [1, 2, 1, 1, 1]


def test_more_than_the_active_ones_wait_in_order() -> None:
    script = Script()
    play(script, (1, 2), (2, 1), (3, 1), active_max=1)
    assert script.turns == [1, 1, 2, 3]


def test_owners_are_served_in_turn_and_none_takes_every_place() -> None:
    script, begun = Script(), list[int]()
    scheduler = Scheduler(script, script.compute, active_max=4)
    events: list[list[Event]] = []

    def submit(number: int, owner: str) -> None:
        received: list[Event] = []
        events.append(received)

        def receive(event: Event) -> None:
            received.append(event)
            if isinstance(event, Started):
                begun.append(number)

        scheduler.submit(Request((number, 2), owner=owner), receive)

    for number in range(1, 6):
        submit(number, "greedy")
    submit(6, "modest")
    submit(7, "modest")
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert begun[:4] == [1, 6, 2, 7], "two places each, in turn"
    assert sorted(begun) == [1, 2, 3, 4, 5, 6, 7]


def test_every_request_has_one_last_event() -> None:
    for events in play(Script(), (1, 2), (13, 2), (14, 2), (2, 0)):
        assert isinstance(events[0], Started)
        assert [is_last(event) for event in events] == [False] * (len(events) - 1) + [True]


def test_a_failure_ends_its_request_alone() -> None:
    first, unlucky, refused = play(Script(), (1, 3), (13, 3), (14, 3))
    assert isinstance(first[-1], Finished)
    assert unlucky[-1] == Failed("engine_failure", "The engine failed: ValueError.")
    assert refused[-1] == Failed("request_error", "bad.", "prompt")


def test_what_does_not_fit_at_all_is_told_so() -> None:
    (events,) = play(Script(), (101, 1))
    assert isinstance(events[0], Failed)
    assert events[0].code == "out_of_memory"


def test_what_does_not_fit_yet_waits_for_room() -> None:
    class Filling(Script):
        def __call__(self, request: Request, is_cancelled: Callable[[], bool]) -> Turns:
            if request.prompt[0] > self.room:
                raise CacheFull
            self.room -= request.prompt[0]
            try:
                yield from super().__call__(Request((0, request.prompt[1])), is_cancelled)
            finally:
                self.room += request.prompt[0]

    script = Filling()
    first, second = play(script, (60, 3), (70, 1))
    assert isinstance(first[-1], Finished)
    assert isinstance(second[-1], Finished)


def test_what_is_cancelled_while_it_waits_for_room_keeps_nobody_waiting() -> None:
    script, events = Script(), [list[Event]() for _ in range(3)]
    scheduler = Scheduler(script, script.compute)

    def receive(event: Event) -> None:
        events[0].append(event)
        if isinstance(event, Draft) and len(events[0]) == 2:
            jobs[1].cancel()

    jobs = [
        scheduler.submit(Request((1, 4)), receive),
        scheduler.submit(Request((101, 1)), events[1].append),
        scheduler.submit(Request((2, 1)), events[2].append),
    ]
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert [type(event) for event in events[1]] == [Started, Stopped]
    assert script.turns == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("waiting", [False, True])
def test_cancelling_stops_before_the_next_forward(waiting: bool) -> None:
    script = Script()
    scheduler = Scheduler(script, script.compute, active_max=1)
    first: list[Event] = []
    second: list[Event] = []

    def receive_first(event: Event) -> None:
        first.append(event)
        if len(first) == 3:
            jobs[1 if waiting else 0].cancel()

    jobs = [
        scheduler.submit(Request((1, 10)), receive_first),
        scheduler.submit(Request((2, 10)), second.append),
    ]
    run_until_idle(scheduler, lambda: bool(first and second) and is_last(second[-1]))
    assert isinstance((second if waiting else first)[-1], Stopped)
    assert script.turns.count(2 if waiting else 1) == (0 if waiting else 2)


class Crowded(Script):
    """A script whose requests take room, and of which some forwards fail.

    Attributes:
        used: the room that is taken now.
        rooms: the room of some requests by number; of the others it is `tokens_max`.
    """

    def __init__(self, failing: set[int], joins: bool) -> None:
        super().__init__()
        self.failing, self.joins, self.used = failing, joins, 0
        self.rooms: dict[int, int] = {}

    def __call__(self, request: Request, is_cancelled: Callable[[], bool]) -> Turns:
        room = self.rooms.get(request.prompt[0], request.limits.tokens_max)
        if self.used + room > self.room:
            raise CacheFull
        self.used += room
        try:
            yield from super().__call__(request, is_cancelled)
        finally:
            self.used -= room

    def compute(self, step: Step, sampling: Sampling) -> Sequence[Reading]:
        if len(self.steps) in self.failing or (len(step.sequence) > 1 and not self.joins):
            self.steps.append(step.sequence)
            raise MemoryExhausted("no memory.", param="prompt")
        return super().compute(step, sampling)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.integers(0, 110), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 40))),
    st.sets(st.integers(0, 30)),
    st.booleans(),
    st.integers(1, 8),
)
def test_whatever_happens_every_request_ends_once_and_all_room_is_free(
    asked: list[tuple[int, str, int, bool]],
    cancels: list[tuple[int, int]],
    failing: set[int],
    joins: bool,
    active_max: int,
) -> None:
    script, events = Crowded(failing, joins), [list[Event]() for _ in asked]
    script.rooms = {20 + number: room for number, (_, _, room, _) in enumerate(asked)}

    def receive(number: int, event: Event) -> None:
        events[number].append(event)
        for other, when in cancels:
            if when == sum(map(len, events)) and other < len(jobs):
                jobs[other].cancel()

    def end() -> Generator[None]:
        scheduler.close()
        yield

    scheduler = Scheduler(
        script,
        script.compute,
        times=lambda: CPU_TIMES,
        active_max=active_max,
        background=end(),
        quiet_seconds=0,
    )
    jobs = [
        scheduler.submit(
            Request((20 + number, forwards), limits=Limits(0 if prepares else 8), owner=owner),
            partial(receive, number),
        )
        for number, (forwards, owner, _, prepares) in enumerate(asked)
    ]
    scheduler.run_forever()
    for (_, _, room, _), received in zip(asked, events, strict=True):
        assert [is_last(event) for event in received] == [False] * (len(received) - 1) + [True]
        assert isinstance(received[0], Started) or room > script.room
    assert script.used == 0


def test_a_closed_scheduler_takes_nothing() -> None:
    scheduler = Scheduler(Script(), Script().compute)
    scheduler.close()
    with pytest.raises(EngineError, match="closed"):
        scheduler.submit(Request((1, 1)), lambda event: None)


@pytest.mark.parametrize("shares", [False, True])
def test_closing_cancels_what_is_being_computed(shares: bool) -> None:
    class Closing(Script):
        def compute(self, step: Step, sampling: Sampling) -> Sequence[Reading]:
            if len(self.steps) == 2:
                scheduler.close()
            return super().compute(step, sampling)

    script, times = Closing(), CPU_TIMES if shares else None
    scheduler = Scheduler(script, script.compute, times=lambda: times)
    events: list[list[Event]] = [[], []]
    for number, received in enumerate(events, 1):
        scheduler.submit(Request((number, 100)), received.append)
    run_until_idle(scheduler, lambda: all(e and is_last(e[-1]) for e in events))
    assert len(script.steps) == 3
    assert all(isinstance(received[-1], Stopped) for received in events)


def test_who_cannot_take_its_events_ends_alone() -> None:
    script, events = Script(), list[Event]()

    def fail(event: Event) -> None:
        if isinstance(event, Draft):
            raise ValueError("unlucky")

    scheduler = Scheduler(script, script.compute, times=lambda: CPU_TIMES)
    scheduler.submit(Request((1, 3)), fail)
    scheduler.submit(Request((2, 3)), events.append)
    run_until_idle(scheduler, lambda: bool(events) and is_last(events[-1]))
    assert isinstance(events[-1], Finished)
    assert script.turns == [1, 2, 2, 2]


def background(turns: list[int], steps: int, each: Callable[[int], None]) -> Generator[None]:
    for step in range(steps):
        turns.append(-step)
        each(step)
        yield


def test_background_work_runs_to_its_end_where_nothing_is_asked_for() -> None:
    turns: list[int] = []
    work = background(turns, 5, lambda step: None)
    scheduler = Scheduler(Script(), Script().compute, background=work, quiet_seconds=0)
    run_until_idle(scheduler, lambda: len(turns) == 5)
    assert turns == [0, -1, -2, -3, -4]


def test_a_request_waits_for_one_step_of_background_work_at_most() -> None:
    script = Script()
    events: list[Event] = []

    def ask(step: int) -> None:
        if step == 2:
            scheduler.submit(Request((1, 3)), events.append)

    work = background(script.turns, 6, ask)
    scheduler = Scheduler(script, script.compute, background=work, quiet_seconds=0)
    run_until_idle(scheduler, lambda: -5 in script.turns)
    assert script.turns == [0, -1, -2, 1, 1, 1, -3, -4, -5]
    assert is_last(events[-1])


def test_requests_that_wait_go_before_background_work() -> None:
    script = Script()
    work = background(script.turns, 2, lambda step: None)
    scheduler = Scheduler(script, script.compute, background=work, quiet_seconds=0)
    for number in (1, 2):
        scheduler.submit(Request((number, 1)), lambda event: None)
    run_until_idle(scheduler, lambda: -1 in script.turns)
    assert script.turns == [1, 2, 0, -1]


def test_a_failure_in_the_background_ends_it_alone() -> None:
    def fail(step: int) -> None:
        scheduler.submit(Request((1, 1)), events.append)
        raise ValueError("unlucky")

    script = Script()
    events: list[Event] = []
    work = background(script.turns, 3, fail)
    scheduler = Scheduler(script, script.compute, background=work, quiet_seconds=0)
    run_until_idle(scheduler, lambda: bool(events) and is_last(events[-1]))
    assert script.turns == [0, 1]
    assert isinstance(events[-1], Finished)


def test_closing_does_not_wait_for_background_work() -> None:
    turns: list[int] = []

    def close(step: int) -> None:
        if step == 1:
            scheduler.close()

    work = background(turns, 100, close)
    scheduler = Scheduler(Script(), Script().compute, background=work, quiet_seconds=0)
    run_until_idle(scheduler, lambda: len(turns) == 2)
    assert turns == [0, -1]
