"""Several requests in one step: each gets what it gets alone, and nobody waits for no gain."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import (
    Event,
    Finished,
    Request,
    Sampling,
    Started,
    Stopped,
    Usage,
)
from engine.auto.step_times import CPU_TIMES, StepTimes, built_in_times
from engine.decoders import STRATEGIES, strategy_for
from engine.loop import Computed, Forward, TokenState, rounds
from engine.packing import chosen
from engine.scheduler import Scheduler, Turns
from engine.step import Step, chain, joined, visible_rows
from tests.engine.seeded import prompt_of
from tests.engine.steps import trees
from tests.engine.subjects import FLOAT32, Subject, subject
from tests.engine.test_laws import request_of

MODES = tuple(STRATEGIES)


@pytest.fixture(
    scope="module", params=itertools.product(("small", "adapted"), FLOAT32), ids=" ".join
)
def decoding(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


def together(tried: Subject, requests: list[Request]) -> tuple[list[tuple[int, ...]], list[Step]]:
    """Decodes requests at once by the real scheduler and one cache.

    Returns the tokens of each, and the steps that were computed.
    """
    store, steps = tried.cache(4096), list[Step]()
    committed: dict[int, tuple[int, ...]] = {}

    def run(request: Request, is_cancelled: Callable[[], bool]) -> Turns:
        number = next(i for i, one in enumerate(requests) if one is request)
        running = rounds(
            store, strategy_for(request.mode, tried.traits), request, tried.traits, is_cancelled
        )
        computed: Computed | None = None
        try:
            yield Started(Usage())
            while True:
                made = running.send(computed)
                computed = (yield made) if isinstance(made, Forward) else None
                if isinstance(made, TokenState):
                    committed[number] = made.progress.committed
        except StopIteration:
            yield Finished("", "end", 1.0, Usage())
        finally:
            running.close()

    def compute(step: Step, sampling: Sampling):
        steps.append(step)
        return tried.model(step, store, sampling)

    times = built_in_times("cpu", has_masks=bool(tried.traits.draft_masks))
    scheduler = Scheduler(run, compute, times=lambda: times)
    events: list[Event] = []
    for request in requests:
        scheduler.submit(request, events.append)
    thread = threading.Thread(target=scheduler.run_forever)
    thread.start()
    ends = 0
    while ends < len(requests) and thread.is_alive():
        thread.join(0.001)
        ends = sum(isinstance(event, Finished | Stopped) for event in events)
    scheduler.close()
    thread.join(60)
    assert all(isinstance(event, Started | Finished) for event in events), events
    counts = store.counts()
    assert counts.in_use == counts.reserved == 0
    return [committed[number] for number in range(len(requests))], steps


@pytest.mark.parametrize("mode", MODES)
def test_requests_of_one_mode_get_what_they_get_alone(decoding: Subject, mode: str) -> None:
    requests = [request_of(mode, prompt_of(20 + 9 * seed, seed) * 2) for seed in range(4)]
    alone = [decoding.run(request)[-1].progress.committed for request in requests]
    found, steps = together(decoding, requests)
    assert found == alone
    assert max(len(set(step.sequence)) for step in steps) > 1, "they have shared steps"


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_mix_of_requests_gets_what_it_gets_alone(
    decoding: Subject, data: st.DataObject
) -> None:
    requests = [
        request_of(
            data.draw(st.sampled_from(MODES)),
            prompt_of(data.draw(st.integers(1, 90)), seed) * data.draw(st.integers(1, 2)),
            data.draw(st.integers(1, 24)),
            temperature=data.draw(st.sampled_from((0.0, 0.0, 0.8))),
            seed=data.draw(st.integers(0, 1)),
        )
        for seed in range(data.draw(st.integers(2, 5)))
    ]
    alone = [decoding.run(request)[-1].progress.committed for request in requests]
    found, _ = together(decoding, requests)
    assert found == alone


@given(st.lists(st.integers(0, 3), min_size=2, max_size=4, unique=True), st.data())
def test_joined_rows_see_what_they_see_alone(numbers: list[int], data: st.DataObject) -> None:
    steps = [data.draw(trees({number: 7})) for number in numbers]
    whole = joined(steps)
    seen, first = visible_rows(whole), 0
    for step in steps:
        for row, mask in enumerate(visible_rows(step)):
            assert seen[first + row] == mask << first
        first += step.rows
    read = iter(whole.read)
    assert [whole.token[next(read)] for step in steps for _ in step.read] == [
        step.token[row] for step in steps for row in step.read
    ]
    assert whole.places == tuple(place for step in steps for place in step.places)


def forward(rows: int, sequence: int, **options) -> Forward:
    return Forward(
        chain((1,) * rows, 0, sequence=sequence), options.pop("sampling", Sampling()), **options
    )


def test_sharing_never_takes_longer_than_turns_do() -> None:
    @given(
        st.lists(st.integers(1, 200), min_size=1, max_size=8),
        st.lists(st.floats(0.01, 5), min_size=3, max_size=8),
    )
    def law(rows: list[int], grows: list[float]) -> None:
        counts = tuple(2**power for power in range(len(grows)))
        times = StepTimes(counts, tuple(itertools.accumulate(grows)))
        waiting = [forward(count, number) for number, count in enumerate(rows)]
        taken = chosen(waiting, times)
        assert taken[0] == 0
        assert taken == sorted(set(taken))
        whole = times.at(sum(rows[number] for number in taken))
        assert whole <= sum(times.at(rows[number]) for number in taken) + 1e-9

    law()


def test_few_rows_join_a_long_prompt_but_not_the_other_way_round() -> None:
    prompt, token = forward(128, 0), forward(1, 1)
    assert chosen([prompt, token], CPU_TIMES) == [0, 1]
    assert chosen([token, prompt], CPU_TIMES) == [0]
    assert chosen([prompt, forward(128, 1)], CPU_TIMES) == [0]


def test_sequences_with_many_cached_tokens_stay_apart() -> None:
    """On a CPU the step of several takes longer, the more tokens they have in the cache."""
    lengths = (3000, 2000, 2000, 1000)
    waiting = [
        Forward(chain((1,), length, sequence=number), Sampling())
        for number, length in enumerate(lengths)
    ]
    assert chosen(waiting, CPU_TIMES, 6000) == [0, 1, 3]
    assert chosen(waiting, CPU_TIMES, 2000) == [0]
    assert chosen(waiting, CPU_TIMES) == [0, 1, 2, 3]


def test_what_is_drawn_differently_and_exact_rows_stay_apart() -> None:
    token = forward(1, 0)
    warm = forward(1, 1, sampling=Sampling(0.5))
    exact = forward(1, 2, is_exact=True)
    assert chosen([token, warm, exact, forward(1, 3)], CPU_TIMES) == [0, 3]
    assert chosen([exact, token], CPU_TIMES) == [0]
    assert chosen([token, token], None) == [0]
