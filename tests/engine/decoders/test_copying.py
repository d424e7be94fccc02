"""Copied drafts: what is found, how much of it pays by the step-time curve, and who verifies it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import BlockOptions, Limits, Request, Sampling
from engine.auto.step_times import CPU_TIMES, StepTimes
from engine.decoders import STRATEGIES
from engine.decoders.copy_spec import CopySpec, CopyState
from engine.decoders.copying import (
    MATCH_MAX,
    MATCH_MIN,
    Copy,
    CopyRecord,
    best_length,
    copied_draft,
    expected_tokens,
    find_copy,
)
from engine.decoders.linear_spec import LinearSpec, LinearState
from engine.decoders.strategy import Progress, Task, Traits
from engine.loop import decode
from tests.engine.readings import readings_of
from tests.engine.seeded import MASK_ID, empty_cache, prompt_of, run, seeded_model

MASK, END = 0, 1
FLAT = StepTimes((1, 256), (5.0, 5.0))  # as on a GPU with few rows
DEAR = StepTimes((1, 2, 128), (1.0, 2.0, 128.0))  # each row costs as much as a step of one row
PROMPT = (9, 7, 11, 12, 13, 14, 9)  # and then 7: 9 7 stood before, followed by 11 12 13 14 9

records = st.builds(CopyRecord, st.floats(0, 50), st.floats(0, 50))
copies = st.builds(
    Copy, st.lists(st.integers(2, 9), max_size=40).map(tuple), st.integers(MATCH_MIN, MATCH_MAX)
)


@st.composite
def curves(draw) -> StepTimes:
    """Any curve: ascending counts from 1 on, times that never fall."""
    more = draw(st.lists(st.integers(2, 200), min_size=1, max_size=6, unique=True))
    times = draw(st.lists(st.floats(0.01, 100), min_size=len(more) + 1, max_size=len(more) + 1))
    return StepTimes((1, *sorted(more)), tuple(sorted(times)))


def task_of(
    costs: StepTimes, prompt: tuple[int, ...] = PROMPT, length: int = 8, tokens_max: int = 100
) -> Task:
    request = Request(
        prompt, "copy_spec", Limits(tokens_max), block=BlockOptions(length), stop_token_ids=(END,)
    )
    return Task(request, 0, 0, Traits(MASK, has_drafter=True, costs=costs))


def begin(strategy, task: Task, bonus: int = 7):
    """The state after the prompt."""
    state = strategy.start(task)
    return strategy.resolve(state, strategy.plan(state), readings_of(bonus))[0]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 8))
def test_a_copied_draft_followed_the_same_tokens_before(tokens: list[int], length: int) -> None:
    draft, match = copied_draft(tokens, length)
    longest = max(
        (
            size
            for size in range(MATCH_MIN, 9)
            for start in range(len(tokens) - size)
            if tokens[start : start + size] == tokens[-size:] and size < len(tokens)
        ),
        default=0,
    )
    assert match == longest
    if match:
        starts = [
            start
            for start in range(len(tokens) - match)
            if tokens[start : start + match] == tokens[-match:]
        ]
        follow = starts[-1] + match
        assert draft == tuple(tokens[follow : follow + length])
        assert draft
    else:
        assert draft == ()


@given(copies, records, curves())
def test_a_draft_is_verified_only_where_it_promises_more_than_a_plain_row(
    copy: Copy, record: CopyRecord, costs: StepTimes
) -> None:
    choice = best_length(copy, record, costs)
    chance = record.chance(copy.match)
    plain = 1 / costs.at(1)
    rates = [
        expected_tokens(chance, drafts) / costs.at(drafts + 1)
        for drafts in range(1, len(copy.tokens) + 1)
    ]
    if choice.drafts:
        assert choice.rate == max(rates) > plain
        assert choice.rate == rates[choice.drafts - 1]
    else:
        assert choice.rate == plain
        assert max(rates, default=0) <= plain * 1.02 * (1 + 1e-9)


@given(copies.filter(lambda copy: bool(copy.tokens)), records)
def test_where_rows_are_free_all_that_can_matter_is_verified_and_where_they_are_dear_nothing(
    copy: Copy, record: CopyRecord
) -> None:
    assert best_length(copy, record, DEAR).drafts == 0
    choice = best_length(copy, record, FLAT)
    whole = expected_tokens(record.chance(copy.match), len(copy.tokens)) / FLAT.at(1)
    assert choice.drafts == 0 or choice.rate == pytest.approx(whole, rel=1e-9)


@given(copies, st.lists(st.integers(2, 9), min_size=1, max_size=41), records)
def test_a_record_counts_the_right_tokens_before_the_first_wrong_one(
    copy: Copy, decided: list[int], record: CopyRecord
) -> None:
    after = record.after(copy, decided)
    hits = 0
    while hits < min(len(copy.tokens), len(decided)) and copy.tokens[hits] == decided[hits]:
        hits += 1
    assert after.hits - record.hits == pytest.approx(hits)
    if hits == len(copy.tokens) and hits:
        assert after.expected > record.expected
    if copy.tokens and not hits:
        assert after.chance(copy.match) <= record.chance(copy.match)


def test_right_copies_make_the_next_draft_longer_and_wrong_ones_shorter() -> None:
    copy = Copy(tuple(range(2, 18)), 3)
    lengths = [
        best_length(copy, record, CPU_TIMES).drafts
        for record in (CopyRecord(0, 8), CopyRecord(), CopyRecord(12, 8))
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_copy_ends_with_its_first_stop_token_and_with_what_can_be_emitted() -> None:
    progress = Progress(committed=(7,), prefilling=False)
    prompt = (9, 7, 11, END, 13, 14, 9)
    assert find_copy(progress, task_of(FLAT, prompt)).tokens == (11, END)
    assert find_copy(progress, task_of(FLAT, length=4)).tokens == (11, 12, 13)
    assert find_copy(progress, task_of(FLAT, tokens_max=3)).tokens == (11,)
    assert find_copy(progress, task_of(FLAT, tokens_max=2)).tokens == ()


def test_copying_verifies_what_followed_before() -> None:
    strategy = CopySpec()
    state = begin(strategy, task_of(FLAT, length=4))
    assert [place.token for place in state.progress.draft] == [11, 12, 13]
    step = strategy.plan(state)
    assert step.token == (7, 11, 12, 13)
    assert step.read == (0, 1, 2, 3)
    state, kept = strategy.resolve(state, step, readings_of(11, 12, 20, 21))
    assert kept == (0, 1, 2)
    assert state.progress.committed == (7, 11, 12, 20)
    assert strategy.plan(state).token == (20,)


@pytest.mark.parametrize(
    ("prompt", "costs"), [((5, 6), FLAT), (PROMPT, DEAR)], ids=["no match", "dear rows"]
)
def test_where_nothing_pays_copying_is_autoregressive(
    prompt: tuple[int, ...], costs: StepTimes
) -> None:
    strategy = CopySpec()
    assert strategy.plan(begin(strategy, task_of(costs, prompt))).token == (7,)


def test_a_copy_that_was_not_verified_is_judged_all_the_same() -> None:
    strategy = CopySpec()
    state: CopyState = begin(strategy, task_of(DEAR))
    for token in (11, 12, 13):
        step = strategy.plan(state)
        assert step.rows == 1
        state, _ = strategy.resolve(state, step, readings_of(token))
    assert state.record.hits == 3
    assert state.record.chance(MATCH_MIN) > CopyRecord().chance(MATCH_MIN)


def test_linear_speculation_verifies_a_copy_instead_of_drafting_where_that_pays_more() -> None:
    strategy = LinearSpec()
    task = task_of(FLAT, (3, 4, 5, 6, 7, 11, 12, 13, 14, 3, 4, 5, 6))  # and 7: five that match
    state: LinearState = begin(strategy, task)
    window = state.window
    step = strategy.plan(state)
    assert step.token == (7, 11, 12, 13, 14, 3, 4, 5)  # copied; nothing is masked
    assert step.group == (0,) * 8
    assert not any(step.drafter)
    state, kept = strategy.resolve(state, step, readings_of(11, 12, 13, 14, 3, 20, 21, 22))
    assert kept == tuple(range(6))
    assert state.progress.committed == (7, 11, 12, 13, 14, 3, 20)
    assert not state.is_copied
    assert state.window == window  # the window depends on the model's own drafts only
    assert strategy.plan(state).token == (20, *(MASK,) * (window - 1))


@pytest.mark.parametrize(
    ("strategy", "prompt", "costs"),
    [
        (LinearSpec(), (5, 6), FLAT),
        (LinearSpec(), PROMPT, DEAR),
        (LinearSpec(uses_copies=False), PROMPT, FLAT),
    ],
    ids=["no match", "dear rows", "switched off"],
)
def test_linear_speculation_drafts_itself_otherwise(
    strategy: LinearSpec, prompt: tuple[int, ...], costs: StepTimes
) -> None:
    state = begin(strategy, task_of(costs, prompt))
    assert strategy.plan(state).token == (7, *(MASK,) * (state.window - 1))


@pytest.mark.parametrize("mode", ["copy_spec", "linear_spec"])
@pytest.mark.parametrize("costs", [FLAT, DEAR, CPU_TIMES], ids=["flat", "dear", "cpu"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_curve_changes_the_steps_and_never_the_tokens(
    mode: str, costs: StepTimes, temperature: float
) -> None:
    model = seeded_model()
    traits = Traits(MASK_ID, costs=costs)
    steps: set[int] = set()
    for seed in range(3):
        prompt = prompt_of(12, seed) * 3
        sampling = Sampling(temperature, seed=seed)
        expected = run(model, empty_cache(), Request(prompt, "ar", Limits(30), sampling))
        request = Request(prompt, mode, Limits(30), sampling, BlockOptions(8))
        states = decode(model, empty_cache(), STRATEGIES[mode], request, traits)
        *_, last = states
        assert last.progress.committed == expected[-1].progress.committed
        steps.add(last.forwards)
    if mode == "copy_spec" and costs is DEAR:
        assert steps == {29}  # one row each
