"""The laws of tuning: bounded, monotone, deterministic, and few data change nothing."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.sureness import AUTO
from dlm_lsp.statistics.rows import Known
from dlm_lsp.statistics.tuning import (
    HIGHEST,
    LOWEST,
    SHOWN_MIN,
    STEP,
    STRETCH_MAX,
    step_of,
    tuned,
    wilson,
)
from tests.dlm_lsp.statistics.made import known as made

FATES = ("unknown", "accepted", "partly", "typed", "dismissed")
STEPS = range(20, 70, STEP)
known = functools.cache(made)  # Many rows are alike, and none is changed.
# How many were shown, and how many of them accepted, in each step of probability.
counts = st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1)), min_size=10, max_size=10)


def rows_of(drawn: list[tuple[int, float]]) -> list[Known]:
    """Rows by the numbers and the shares of each step; others are judged as well, but far away."""
    rows = [known(line_probability=0.99) for _ in range(SHOWN_MIN)]
    for at, (count, share) in zip(STEPS, drawn, strict=True):
        rows += [
            known("accepted" if number < share * count else "dismissed", line_probability=p)
            for number in range(count)
            for p in [(at + 0.5) / 100]
        ]
    return rows


def with_(step: int, count: int, taken: int) -> list[Known]:
    drawn = [(count, taken / count) if at == step else (0, 0.0) for at in STEPS]
    return rows_of(drawn)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FATES),
            st.none() | st.floats(0, 1),
            st.none() | st.floats(0, 1e6),
            st.integers(1, 150),
        ),
        max_size=12,
    )
)
def test_whatever_was_recorded_the_bounds_hold_and_order_is_nothing(
    drawn: list[tuple[str, float | None, float | None, int]],
) -> None:
    rows = [
        known(fate, fate_ms=ms, line_probability=probability)
        for fate, probability, ms, count in drawn
        for _ in range(count)
    ][:1000]
    found = tuned(rows, AUTO)
    assert LOWEST / 100 <= found.confidence <= HIGHEST / 100
    assert 1 <= found.stretch <= STRETCH_MAX
    assert found.why
    assert found.stretch_why
    mixed = random.Random(1).sample(rows, len(rows))
    assert tuned(mixed, AUTO) == found


@given(counts.filter(lambda drawn: sum(count for count, _ in drawn) < SHOWN_MIN))
def test_few_suggestions_change_nothing(drawn: list[tuple[int, float]]) -> None:
    found = tuned(rows_of(drawn)[SHOWN_MIN:], AUTO)
    assert (found.confidence, found.stretch) == (AUTO, 1.0)


def test_no_suggestion_is_the_default() -> None:
    assert (tuned([], AUTO).confidence, tuned([], AUTO).stretch) == (AUTO, 1.0)


@given(counts, st.data())
def test_more_acceptances_never_raise_it(
    drawn: list[tuple[int, float]], data: st.DataObject
) -> None:
    rows = rows_of(drawn)
    before = tuned(rows, AUTO).confidence
    at = data.draw(st.integers(0, len(rows) - 1))
    instead = [*rows[:at], replace(rows[at], fate="accepted"), *rows[at + 1 :]]
    assert tuned(instead, AUTO).confidence <= before
    more = [*rows, known("partly", line_probability=data.draw(st.floats(0, 1)))]
    assert tuned(more, AUTO).confidence <= before


@given(counts, st.data())
def test_more_dismissals_never_lower_it(
    drawn: list[tuple[int, float]], data: st.DataObject
) -> None:
    rows = rows_of(drawn)
    at = data.draw(st.integers(0, len(rows) - 1))
    dismissed = [*rows[:at], replace(rows[at], fate="dismissed"), *rows[at + 1 :]]
    assert tuned(dismissed, AUTO).confidence >= tuned(rows, AUTO).confidence


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_share_is_within_its_bounds_and_more_is_known_of_more(one: int, other: int) -> None:
    successes, count = sorted((one, other))
    low, high = wilson(successes, count)
    assert 0 <= low <= high <= 1
    if count:
        assert low <= successes / count <= high
        wider = wilson(successes, count)
        narrower = wilson(successes * 4, count * 4)
        assert narrower[1] - narrower[0] <= wider[1] - wider[0] + 1e-12
    assert wilson(successes + 1, count + 1)[0] >= low - 1e-12
    assert wilson(successes + 1, count + 1)[1] >= high - 1e-12


def test_what_is_hardly_taken_raises_it_until_it_is_taken() -> None:
    assert tuned(with_(40, 40, 2), AUTO).confidence == 0.45
    drawn = {40: (40, 0.05), 45: (40, 0.1), 50: (40, 0.5)}
    rows = rows_of([drawn.get(at, (0, 0.0)) for at in STEPS])
    assert tuned(rows, AUTO).confidence == 0.5
    assert tuned(rows_of([(40, 0.0)] * 10), AUTO).confidence == 0.6


def test_what_is_taken_often_lowers_it_by_a_step_to_try() -> None:
    """Nothing is known of what was never shown, so that only one step is taken at a time."""
    assert tuned(with_(40, 40, 25), AUTO).confidence == 0.35
    drawn = {40: (40, 0.6), 35: (40, 0.6)}
    assert tuned(rows_of([drawn.get(at, (0, 0.0)) for at in STEPS]), AUTO).confidence == 0.3
    drawn = {40: (40, 0.6), 35: (40, 0.05)}
    assert tuned(rows_of([drawn.get(at, (0, 0.0)) for at in STEPS]), AUTO).confidence == 0.4
    assert tuned(rows_of([(40, 0.9)] * 10), AUTO).confidence == 0.25


def test_an_uncertain_share_changes_nothing() -> None:
    assert tuned(with_(40, 8, 0), AUTO).confidence == AUTO
    assert tuned(with_(40, 20, 5), AUTO).confidence == AUTO
    assert tuned(with_(40, 20, 7), AUTO).confidence == AUTO


def test_what_was_not_read_is_no_evidence_against_it_but_for_a_longer_delay() -> None:
    hurried = [known(fate_ms=120.0, line_probability=0.42) for _ in range(300)]
    found = tuned(hurried, AUTO)
    assert found.confidence == AUTO
    assert 1.7 < found.stretch <= STRETCH_MAX
    assert "300 of 300" in found.stretch_why
    some = [known(fate_ms=120.0) for _ in range(40)] + [known() for _ in range(260)]
    assert tuned(some, AUTO).stretch == 1.0


@given(st.integers(0, 300))
def test_the_delay_grows_with_what_is_typed_away_at_once(hurried: int) -> None:
    def stretch(count: int) -> float:
        rows = [known(fate_ms=100.0 if number < count else 4000.0) for number in range(301)]
        return tuned(rows, AUTO).stretch

    assert stretch(hurried) <= stretch(hurried + 1)


@pytest.mark.parametrize(("probability", "step"), [(0.4, 40), (0.449, 40), (0.45, 45), (0.6, 60)])
def test_a_step_begins_at_its_number(probability: float, step: int) -> None:
    assert step_of(probability) == step
