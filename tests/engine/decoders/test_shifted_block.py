"""Block diffusion whose masks predict the token after their place: rows, decisions, revisions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from engine.api import BlockOptions, Limits, Request
from engine.decoders.shifted_block import ShiftedBlock, ShiftedState
from engine.decoders.strategy import Task, Traits
from engine.step import PLAIN, visible_rows
from tests.engine.readings import reading_of, readings_of
from tests.engine.seeded import causal_logits, prompt_of
from tests.engine.subjects import FLOAT32, subject

MASKS = (100, 101, 102)
END = 1
STRATEGY = ShiftedBlock()


def begin(
    length: int = 4, tokens_max: int = 100, revisions: int | None = 0, **options
) -> ShiftedState:
    """A state whose prompt (5, 6) is cached, with the bonus token 7 and an undecided block."""
    request = Request(
        (5, 6),
        "block",
        Limits(tokens_max),
        block=BlockOptions(length, revisions=revisions, **options),
        stop_token_ids=(END,),
    )
    traits = Traits(None, has_drafter=True, draft_masks=MASKS)
    state = STRATEGY.start(Task(request, cached=0, sequence=0, traits=traits))
    state, kept = STRATEGY.resolve(state, STRATEGY.plan(state), [reading_of(7, 0.8)])
    assert kept == (0, 1)
    assert state.progress.committed == (7,)
    return state


def advance(
    state: ShiftedState, *wanted: tuple[int, float]
) -> tuple[ShiftedState, tuple[int, ...]]:
    step = STRATEGY.plan(state)
    return STRATEGY.resolve(state, step, [reading_of(*each) for each in wanted])


def drawn(state: ShiftedState) -> list[int | None]:
    return [place.token for place in state.progress.draft]


def test_a_forward_is_the_bonus_token_and_a_group_of_masks_on_it() -> None:
    step = STRATEGY.plan(begin())
    assert step.token == (7, 100, 101, 102)
    assert step.position == (2, 3, 4, 5)
    assert step.group == (0, 1, 1, 1)
    assert step.drafter == (False, True, True, True)
    assert visible_rows(step) == (0b0001, 0b1111, 0b1111, 0b1111)
    assert step.places == (3, 4, 5, 6)
    assert step.follows == (PLAIN, 0, 1, 2)


def test_places_are_decided_while_their_joint_confidence_reaches_the_threshold() -> None:
    """0.95 * 0.96 is above 0.9, and times 0.98 below it."""
    state, kept = advance(begin(), (10, 0.1), (11, 0.95), (12, 0.96), (13, 0.98))
    assert kept == (0,)
    assert state.progress.committed == (7, 10, 11, 12)
    assert drawn(state) == [13]  # sure of itself, but not of what it follows from


def test_what_is_committed_is_the_next_chain() -> None:
    state, _ = advance(begin(), (10, 0.9), (11, 0.95), (12, 0.2), (13, 0.92))
    assert state.progress.committed == (7, 10, 11)
    step = STRATEGY.plan(state)
    assert step.token == (10, 11, 100, 101, 102)
    assert step.position == (3, 4, 5, 6, 7)
    assert step.parent == (-1, 0, 1, 1, 1)
    assert step.places == (5, 6, 7, 8)
    assert step.follows == (PLAIN, 0, 1, 2)
    state, kept = STRATEGY.resolve(state, step, readings_of(12, 13, 14, 15))
    assert kept == (0, 1)
    assert state.progress.committed == (7, 10, 11, 12, 13)


def test_a_decided_place_is_revised_by_the_exact_token_of_the_next_forward() -> None:
    state, _ = advance(begin(revisions=2), (10, 0.9), (11, 0.99), (12, 0.98), (13, 0.2))
    assert state.progress.committed == (7, 10)  # the others wait for their rows
    assert drawn(state) == [11, 12, None]
    step = STRATEGY.plan(state)
    assert step.token == (10, 11, 12, 100, 101, 102)
    assert step.places == (4, 5, 6, 7, 8, 9)
    state, kept = STRATEGY.resolve(state, step, readings_of(11, 22, 23, 24, 25, 26))
    assert kept == (0, 1)  # the row of 12 is not the text's
    assert state.progress.committed == (7, 10, 11, 22)
    assert (state.revisions, state.decided) == (1, ())
    step = STRATEGY.plan(state)
    assert step.token == (22, 100, 101, 102)


def test_without_a_budget_nothing_is_revised() -> None:
    state, _ = advance(begin(revisions=1), (10, 0.9), (11, 0.99), (12, 0.2), (13, 0.2))
    state, _ = advance(state, *[(token, 0.9) for token in (21, 12, 13, 14, 15)])
    assert (state.progress.committed, state.revisions) == ((7, 10, 21), 0)
    state, _ = advance(state, (12, 0.9), (13, 0.99), (14, 0.3), (15, 0.3))
    assert state.progress.committed == (7, 10, 21, 12, 13)


def test_a_block_ends_at_the_length_limit() -> None:
    state = begin(tokens_max=3)
    step = STRATEGY.plan(state)
    assert step.token == (7, 100)
    state, _ = advance(state, (10, 0.9), (11, 0.95))
    assert (state.progress.committed, state.progress.finished) == ((7, 10, 11), "length")


def test_the_last_token_before_the_limit_has_no_row_of_its_own() -> None:
    """With everything right, a block after the other, and never a row past the limit."""
    state, rows = begin(tokens_max=9, revisions=9), []
    while state.progress.finished is None:
        step = STRATEGY.plan(state)
        rows.append(step.rows)
        state, _ = STRATEGY.resolve(state, step, [reading_of(9, 0.999)] * len(step.read))
    assert len(state.progress.committed) == 9
    assert rows == [4, 7, 3]


@pytest.mark.parametrize("revisions", [0, 9])
def test_a_stop_token_ends_the_text_before_it(revisions: int) -> None:
    state, _ = advance(begin(revisions=revisions), (10, 0.9), (END, 0.95), (12, 0.99), (13, 0.95))
    if revisions:  # it is not computed on: its exact reading decides it
        assert (drawn(state), STRATEGY.plan(state).token[:1]) == ([], (10,))
        state, _ = advance(state, (END, 0.9), (12, 0.1), (12, 0.1), (13, 0.1))
    assert (state.progress.committed, state.progress.finished) == ((7, 10), "end")


@pytest.mark.parametrize("kind", FLOAT32)
def test_an_impossible_threshold_gives_the_text_of_ar(kind: str) -> None:
    """Every forward decides its first place alone, by a causal row over final text."""
    tried = subject("adapted", kind)
    for prompt in tried.prompts:
        expected = tried.run(Request(prompt, "ar", Limits(24)))[-1]
        block = BlockOptions(6, threshold=1.5)
        last = tried.run(Request(prompt, "block", Limits(24), block=block))[-1]
        assert last.progress.committed == expected.progress.committed
        assert last.forwards == expected.forwards


@pytest.mark.parametrize("kind", FLOAT32)
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("revisions", [None, 1000])
def test_with_a_budget_that_is_never_spent_the_text_is_that_of_ar(
    kind: str, threshold: float, revisions: int | None
) -> None:
    tried = subject("adapted", kind)
    for prompt in tried.prompts:
        expected = tried.run(Request(prompt, "ar", Limits(24)))[-1]
        block = BlockOptions(6, threshold, revisions)
        last = tried.run(Request(prompt, "block", Limits(24), block=block))[-1]
        assert last.progress.committed == expected.progress.committed


@pytest.mark.parametrize("kind", FLOAT32)
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("revisions", [0, 5])
def test_each_forward_decides_its_first_place_as_ar_would(
    kind: str, threshold: float, revisions: int
) -> None:
    """The certificate of the places that a causal row decides, whatever the others are."""
    tried = subject("adapted", kind)
    prompt = prompt_of(25)
    block = BlockOptions(6, threshold, revisions)
    states = tried.run(Request(prompt, "block", Limits(30), block=block))
    texts = [state.progress.committed for state in states if not state.progress.prefilling]
    assert states[-1].progress.finished == "length"
    assert states[-1].forwards <= 29
    logits = causal_logits(tried.network, prompt + texts[-1])
    for earlier, later in pairwise(texts):
        assert later[: len(earlier)] == earlier
        assert len(later) > len(earlier)
        at = len(prompt) + len(earlier) - 1
        assert later[len(earlier)] == int(torch.argmax(logits[at]))
