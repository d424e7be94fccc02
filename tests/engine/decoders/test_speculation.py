"""Self-speculation on hand-written readings: what is drafted, what is accepted, what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import BlockOptions, Limits, Request
from engine.decoders.linear_spec import WINDOW_FIRST, LinearSpec, LinearState
from engine.decoders.quadratic_spec import QuadraticSpec, QuadraticState
from engine.decoders.strategy import Task, Traits, accepted_length
from engine.step import CACHED, visible_rows
from tests.engine.readings import readings_of

MASK, END = 0, 1
LINEAR, QUADRATIC = LinearSpec(uses_copies=False), QuadraticSpec()


def task_of(prompt: tuple[int, ...] = (5, 6), length: int = 4, tokens_max: int = 100) -> Task:
    request = Request(
        prompt,
        "linear_spec",
        Limits(tokens_max),
        block=BlockOptions(length),
        stop_token_ids=(END,),
    )
    return Task(request, 0, 0, Traits(MASK, has_drafter=True))


def begin(strategy, task: Task):
    """The state after the prompt, with the bonus token 7."""
    state = strategy.start(task)
    state, kept = strategy.resolve(state, strategy.plan(state), readings_of(7))
    assert kept == tuple(range(len(task.request.prompt)))
    assert state.progress.committed == (7,)
    return state


@given(st.lists(st.integers(2, 4), max_size=6), st.lists(st.integers(2, 4), max_size=7))
def test_the_accepted_run_is_the_longest_match_and_one_more(
    drafts: list[int], tokens: list[int]
) -> None:
    tokens = (tokens + [9] * 7)[: len(drafts) + 1]
    count = accepted_length(drafts, tokens)
    assert tokens[: count - 1] == drafts[: count - 1]
    assert count == len(tokens) or tokens[count - 1] != drafts[count - 1]


def test_linear_drafts_in_a_group_with_the_drafter_and_verifies_in_a_chain_without() -> None:
    state = begin(LINEAR, task_of())
    draft = LINEAR.plan(state)
    assert draft.token == (7, MASK, MASK, MASK)
    assert draft.position == (2, 3, 4, 5)
    assert draft.drafter == (True,) * 4
    assert visible_rows(draft) == (0b1111,) * 4
    assert draft.read == (1, 2, 3)
    state, kept = LINEAR.resolve(state, draft, readings_of(11, 12, 13))
    assert kept == ()
    assert state.progress.committed == (7,)
    assert [place.token for place in state.progress.draft] == [11, 12, 13]
    verify = LINEAR.plan(state)
    assert verify.token == (7, 11, 12, 13)
    assert verify.drafter == (False,) * 4
    assert visible_rows(verify) == (0b1, 0b11, 0b111, 0b1111)
    assert verify.read == (0, 1, 2, 3)


def test_linear_with_shifted_masks_emits_the_exact_token_of_the_drafting_forward() -> None:
    """The bonus token's own row is causal and cached; its token is the chain's first."""
    task = replace(task_of(), traits=Traits(None, has_drafter=True, draft_masks=(100, 101)))
    state = begin(LINEAR, task)
    draft = LINEAR.plan(state)
    assert draft.token == (7, 100, 101, 101)
    assert draft.group == (0, 1, 1, 1)
    assert draft.places == (3, 4, 5, 6)
    assert draft.follows == (-1, 0, 1, 2)
    state, kept = LINEAR.resolve(state, draft, readings_of(10, 11, 12, 13))
    assert kept == (0,)
    assert state.progress.committed == (7, 10)
    assert [place.token for place in state.progress.draft] == [11, 12, 13]
    check = LINEAR.plan(state)
    assert (check.token, check.position) == ((10, 11, 12, 13), (3, 4, 5, 6))
    state, kept = LINEAR.resolve(state, check, readings_of(11, 12, 20, 21))
    assert kept == (0, 1, 2)
    assert state.progress.committed == (7, 10, 11, 12, 20)


def test_quadratic_with_shifted_masks_has_a_mask_less_in_each_group() -> None:
    task = replace(task_of(), traits=Traits(None, has_drafter=True, draft_masks=(100, 101, 102)))
    state = begin(QUADRATIC, task)
    step = QUADRATIC.plan(state)
    assert step.token == (7, 100, 101, 102)
    state, kept = QUADRATIC.resolve(state, step, readings_of(10, 11, 12, 13))
    assert kept == (0,)
    step = QUADRATIC.plan(state)
    assert step.token == (10, 11, 12, 13, *(100, 101, 102) * 4)
    assert step.places[:7] == (4, 5, 6, 7, 5, 6, 7)


@pytest.mark.parametrize(
    ("causal", "emitted"),
    [
        ((21, 22, 23, 24), (21,)),
        ((11, 22, 23, 24), (11, 22)),
        ((11, 12, 23, 24), (11, 12, 23)),
        ((11, 12, 13, 24), (11, 12, 13, 24)),
    ],
)
def test_linear_keeps_the_matches_and_continues_from_the_next_bonus_token(
    causal: tuple[int, ...], emitted: tuple[int, ...]
) -> None:
    state = begin(LINEAR, task_of())
    state, _ = LINEAR.resolve(state, LINEAR.plan(state), readings_of(11, 12, 13))
    state, kept = LINEAR.resolve(state, LINEAR.plan(state), readings_of(*causal))
    assert state.progress.committed == (7, *emitted)
    assert kept == tuple(range(len(emitted)))
    following = LINEAR.plan(state)
    assert following.token[0] == emitted[-1]
    assert following.position[0] == 2 + len(emitted)


def test_the_window_grows_with_acceptance_and_shrinks_without() -> None:
    state = begin(LINEAR, task_of(length=32))
    windows = []
    for accepts in (True, True, True, False, False):
        windows.append(state.window)
        state = linear_cycle(state, accepts)
    windows.append(state.window)
    assert windows == [WINDOW_FIRST, 16, 32, 32, 16, 8]


def linear_cycle(state: LinearState, accepts: bool) -> LinearState:
    drafts = [11] * (state.window - 1)
    state, _ = LINEAR.resolve(state, LINEAR.plan(state), readings_of(*drafts))
    causal = [*drafts, 12] if accepts else [12] * (len(drafts) + 1)
    return LINEAR.resolve(state, LINEAR.plan(state), readings_of(*causal))[0]


def test_an_accepted_end_ends_and_is_not_shown_in_the_draft() -> None:
    state = begin(LINEAR, task_of())
    state, _ = LINEAR.resolve(state, LINEAR.plan(state), readings_of(11, END, 13))
    assert [place.token for place in state.progress.draft] == [11]
    state, _ = LINEAR.resolve(state, LINEAR.plan(state), readings_of(11, END, 13, 14))
    assert (state.progress.finished, state.progress.committed) == ("end", (7, 11))


def test_no_more_is_drafted_than_can_be_emitted() -> None:
    state = begin(LINEAR, task_of(tokens_max=3))
    assert LINEAR.plan(state).token == (7, MASK)  # a draft and its bonus
    state = begin(LINEAR, task_of(tokens_max=2))
    assert LINEAR.plan(state).token == (7,)  # the bonus alone: a causal row
    assert LINEAR.plan(state).group == (0,)


def test_quadratic_hangs_a_group_of_masks_on_every_row_of_the_chain() -> None:
    state = begin(QUADRATIC, task_of(length=3))
    step = QUADRATIC.plan(state)
    assert step.token == (7, MASK, MASK, MASK)
    assert step.parent == (CACHED, 0, 0, 0)
    assert step.position == (2, 3, 4, 5)
    assert step.drafter == (False, True, True, True)
    assert visible_rows(step) == (0b0001, 0b1111, 0b1111, 0b1111)
    assert step.read == (0, 2, 3)  # the first mask stands where the causal token goes
    state, kept = QUADRATIC.resolve(state, step, readings_of(21, 22, 23))
    assert kept == (0,)
    assert state.progress.committed == (7, 21)
    assert state.chain == (21, 22, 23)
    step = QUADRATIC.plan(state)
    assert step.rows == 3 + 3 * 3
    assert step.position == (3, 4, 5, 4, 5, 6, 5, 6, 7, 6, 7, 8)
    for group in range(3):
        for row in range(3 + 3 * group, 6 + 3 * group):
            ancestors = (1 << (group + 1)) - 1
            members = 0b111 << (3 + 3 * group)
            assert visible_rows(step)[row] == ancestors | members


@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_quadratic_goes_on_with_the_group_of_the_last_accepted_row(accepted: int) -> None:
    state = QuadraticState(*vars_of(begin(QUADRATIC, task_of(length=3))), chain=(7, 8, 9))
    step = QUADRATIC.plan(state)
    causal = [(8, 9, 10)[row] if row < accepted else 20 + row for row in range(3)]
    drafts = [(11, 12), (13, 14), (15, 16)]
    reads = readings_of(*causal, *(token for pair in drafts for token in pair))
    state, kept = QUADRATIC.resolve(state, step, reads)
    emitted = tuple(causal[: accepted + 1])
    assert state.progress.committed == (7, *emitted)
    assert kept == tuple(range(accepted + 1))
    assert state.chain == (emitted[-1], *drafts[accepted])


def vars_of(state: QuadraticState):
    return state.task, state.pending, state.progress
