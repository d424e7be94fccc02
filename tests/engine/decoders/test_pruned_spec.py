"""Which rows a cycle of pruned self-speculation has, and that a record corrects what it goes by."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import Limits, Request
from engine.auto.step_times import StepTimes
from engine.decoders.draft_worth import gains, rate
from engine.decoders.pruned_spec import (
    DRAFTS_MAX,
    CyclePlan,
    DraftRecord,
    Prices,
    PrunedSpec,
    choose_cycle,
)
from engine.decoders.strategy import DraftPlace, Task, Traits
from engine.reading import Reading

FLAT = StepTimes((1, 64), (10.0, 10.1))
STEEP = StepTimes((1, 64), (10.0, 640.0))
BETWEEN = StepTimes((1, 8, 16, 32, 64), (10.0, 11.0, 14.0, 20.0, 38.0))
MASKS = (100, 101, 102)

chances = st.lists(st.floats(0.01, 0.99), max_size=DRAFTS_MAX)
curves = st.sampled_from([FLAT, STEEP, BETWEEN])


def plan_of(
    chances: list[float],
    curve: StepTimes,
    room: int = 32,
    record: DraftRecord = DraftRecord(),  # noqa: B008 -- frozen
) -> CyclePlan:
    return choose_cycle(chances, Prices.of(record, curve), curve, room=room)


def reading(token: int, probability: float = 0.9) -> Reading:
    return Reading(token, probability, ((token, 1.0),), 2.0)


def test_where_rows_cost_nothing_every_row_of_the_chain_has_a_group() -> None:
    plan = plan_of([0.9, 0.8], FLAT)
    assert plan == CyclePlan(2, (0, 1, 2), DRAFTS_MAX)


def test_where_a_row_costs_as_much_as_a_step_a_cycle_is_one_row() -> None:
    assert plan_of([0.9, 0.8], STEEP) == CyclePlan(0)


def test_masks_hang_where_acceptance_is_likely_to_end() -> None:
    sure, unsure = 0.97, 0.3
    plan = plan_of([sure, unsure, sure], BETWEEN)
    assert 0 not in plan.anchors  # the first draft is all but certain
    assert 1 in plan.anchors


@given(chances, curves, st.integers(0, 40))
def test_a_plan_has_no_rows_that_nothing_can_come_of(
    chances: list[float], curve: StepTimes, room: int
) -> None:
    plan = plan_of(chances, curve, room)
    assert 0 <= plan.drafts <= min(len(chances), max(room - 1, 0))
    assert set(plan.anchors) <= set(range(plan.drafts + 1))
    assert bool(plan.anchors) == bool(plan.masks)
    assert plan.masks <= max(room - 1, 0)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_chances_stay_between_none_and_certain_and_follow_what_happened(
    drafts: list[tuple[float, bool]],
) -> None:
    record = DraftRecord()
    for confidence, is_right in drafts:
        record = record.after([DraftPlace(1, confidence)], int(is_right))
    for confidence, _ in drafts:
        assert 0 <= record.chance(confidence) <= 1
    survival = record.survival()
    assert all(0 <= each <= 1 for each in survival)
    assert list(survival) == sorted(survival, reverse=True)


def test_drafts_that_are_never_right_are_given_up() -> None:
    record = DraftRecord()
    for _ in range(80):
        record = record.after([DraftPlace(1, 0.9)], 0)
    assert record.chance(0.9) < 0.15
    dear = StepTimes((1, 8, 64), (10.0, 20.0, 100.0))
    assert plan_of([], dear) != CyclePlan(0)
    assert plan_of([], dear, record=record) == CyclePlan(0)


def test_an_offset_at_which_nothing_was_verified_keeps_its_chance() -> None:
    """Chains of three that were always right say nothing against a fourth draft."""
    record = DraftRecord()
    for _ in range(40):
        record = record.after([DraftPlace(1, 0.9)] * 3, 3)
    survival = record.survival()
    assert survival[2] > 0.9
    assert survival[3] / survival[2] == pytest.approx(0.44 / 0.56, abs=0.06)


@pytest.mark.parametrize("shifts", [True, False], ids=["adapter", "released"])
def test_a_cycle_drafts_after_its_exact_token(*, shifts: bool) -> None:
    """The masks' convention decides their number and who is read; the drafts are the same."""
    traits = (
        Traits(None, has_drafter=True, draft_masks=MASKS, costs=FLAT)
        if shifts
        else Traits(99, costs=FLAT)
    )
    request = Request(prompt=(1, 2, 3), mode="pruned_spec", limits=Limits(tokens_max=20))
    strategy, task = PrunedSpec(), Task(request, 0, 0, traits)
    state = strategy.start(task)
    state, keep = strategy.resolve(state, strategy.plan(state), [reading(7)])
    assert keep == (0, 1, 2)
    step = strategy.plan(state)
    assert step.token[0] == 7
    masks = [token for token in step.token if token != 7]
    assert masks[:4] == ([100, 101, 102, 102] if shifts else [99] * 4)
    drafts = state.cycle.masks
    assert len(masks) == (drafts if shifts else drafts + 1)
    assert len(step.read) == 1 + drafts
    # All that is read stands at the places after the bonus token, in order.
    assert step.places == tuple(range(4, 5 + drafts))
    if shifts:
        assert step.follows == (-1, *range(drafts))
    answers = [reading(20 + index) for index in range(1 + drafts)]
    state, keep = strategy.resolve(state, step, answers)
    assert keep == (0,)
    assert state.progress.committed == (7, 20)
    assert [draft.token for draft in state.drafts] == [21 + index for index in range(drafts)]


def test_a_copy_is_verified_where_it_promises_more_than_the_drafts() -> None:
    """The text repeats itself: what followed before is the chain, and masks hang on it as well."""
    prompt = (1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4)
    request = Request(prompt=prompt, mode="pruned_spec", limits=Limits(tokens_max=20))
    traits = Traits(None, has_drafter=True, draft_masks=MASKS, costs=BETWEEN)
    strategy = PrunedSpec()
    state = strategy.start(Task(request, 0, 0, traits))
    state, _ = strategy.resolve(state, strategy.plan(state), [reading(5)])
    step = strategy.plan(state)
    assert state.is_copied
    assert state.cycle.drafts > 1
    chain = step.token[: 1 + state.cycle.drafts]
    assert chain == (5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6)[: len(chain)]
    # Both come out wrong: copies are believed less from then on, and groups as much as before.
    answers = [reading(50 + index) for index in range(len(step.read))]
    following, keep = strategy.resolve(state, step, answers)
    assert keep == (0,)
    assert following.copies.chance(4) < state.copies.chance(4)
    assert following.record.survival() == state.record.survival()


falling = st.lists(st.floats(0.02, 0.98), min_size=1, max_size=DRAFTS_MAX).map(
    lambda shares: tuple(accumulate(shares, mul))
)


@given(falling, st.sampled_from([FLAT, STEEP, BETWEEN]), st.floats(1, 3))
def test_drafts_are_worth_something_and_less_than_the_tokens_they_bring(
    survival: tuple[float, ...], curve: StepTimes, more: float
) -> None:
    worth = rate(survival, curve)
    assert worth >= 1 / curve.at(1) * (1 - 1e-6)
    found = gains(survival, curve, worth * more)
    assert list(found) == sorted(found)
    assert all(each <= sum(survival) + 1e-6 for each in found)


def test_without_a_forward_in_vain_a_draft_is_worth_what_it_saves() -> None:
    """Where rows cost nothing and drafts are all but sure, four of them save four forwards."""
    sure = (0.999,) * 4
    assert rate(sure, FLAT) == pytest.approx(5 / 10.04, rel=0.05)
    dear = StepTimes((1, 8), (10.0, 80.0))
    assert rate(sure, dear) == pytest.approx(1 / 10.0, rel=0.01)
