"""Block diffusion on hand-written readings: which places are decided, and when a block ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.api import BlockOptions, Limits, Request
from engine.decoders.block import BlockDiffusion, BlockState
from engine.decoders.revision import revised
from engine.decoders.strategy import DraftPlace, Task, Traits
from engine.reading import Reading
from engine.step import visible_rows
from tests.engine.readings import reading_of

MASK, END = 0, 1
STRATEGY = BlockDiffusion()


def readings_of(*wanted: tuple[int, float]) -> tuple[Reading, ...]:
    """One reading per (token, probability)."""
    return tuple(reading_of(*each) for each in wanted)


def begin(
    length: int = 4, tokens_max: int = 100, threshold: float = 0.9, revisions: int | None = None
) -> BlockState:
    """A state whose prompt (5, 6) is cached and whose first block has the bonus token 7."""
    request = Request(
        (5, 6),
        "block",
        Limits(tokens_max),
        block=BlockOptions(length, threshold, revisions),
        stop_token_ids=(END,),
    )
    state = STRATEGY.start(Task(request, cached=0, sequence=0, traits=Traits(MASK)))
    step = STRATEGY.plan(state)
    assert (step.token, step.read) == ((5, 6), (1,))
    state, kept = STRATEGY.resolve(state, step, readings_of((7, 0.8)))
    assert kept == (0, 1)
    return state


def advance(state: BlockState, *wanted: tuple[int, float]) -> BlockState:
    """One denoising step in which the masked places get these tokens and confidences."""
    step = STRATEGY.plan(state)
    state, kept = STRATEGY.resolve(state, step, readings_of(*wanted))
    assert kept == ()
    return state


def drawn(state: BlockState) -> list[int | None]:
    return [place.token for place in state.progress.draft]


def test_a_block_is_the_bonus_token_and_masks_in_one_group_after_the_cache() -> None:
    step = STRATEGY.plan(begin())
    assert step.token == (7, MASK, MASK, MASK)
    assert step.position == (2, 3, 4, 5)
    assert visible_rows(step) == (0b1111,) * 4
    assert step.read == (1, 2, 3)


def test_the_most_confident_place_is_always_decided() -> None:
    state = advance(begin(), (4, 0.3), (5, 0.6), (6, 0.5))
    assert drawn(state) == [None, 5, None]
    assert state.progress.committed == (7,)


def test_of_equally_confident_places_the_first_is_decided() -> None:
    state = advance(begin(), (4, 0.5), (4, 0.5), (4, 0.5))
    assert state.progress.committed == (7, 4)
    assert drawn(state) == [None, None]


def test_every_place_above_the_threshold_is_decided() -> None:
    state = advance(begin(), (4, 0.5), (5, 0.95), (6, 0.92))
    assert drawn(state) == [None, 5, 6]


def test_decided_places_are_frozen_and_read_no_more() -> None:
    state = advance(begin(), (4, 0.3), (5, 0.6), (6, 0.5))
    step = STRATEGY.plan(state)
    assert step.token == (7, MASK, 5, MASK)
    assert step.read == (1, 3)


def test_the_leading_decided_run_is_committed() -> None:
    state = advance(begin(), (4, 0.95), (5, 0.2), (6, 0.2))
    assert state.progress.committed == (7, 4)
    assert drawn(state) == [None, None]


def test_a_full_block_is_cached_causally_and_gives_the_next_bonus_token() -> None:
    state = advance(begin(), (4, 0.95), (5, 0.95), (6, 0.95))
    assert state.progress.committed == (7, 4, 5, 6)
    step = STRATEGY.plan(state)
    assert step.token == (7, 4, 5, 6)
    assert step.position == (2, 3, 4, 5)
    assert visible_rows(step) == (0b1, 0b11, 0b111, 0b1111)
    assert step.read == (3,)
    state, kept = STRATEGY.resolve(state, step, readings_of((8, 0.9)))
    assert kept == (0, 1, 2, 3)
    assert state.progress.committed == (7, 4, 5, 6, 8)
    assert STRATEGY.plan(state).token == (8, MASK, MASK, MASK)
    assert STRATEGY.plan(state).position == (6, 7, 8, 9)


def test_an_end_with_no_mask_before_it_ends_the_request() -> None:
    state = advance(begin(), (4, 0.95), (END, 0.95), (6, 0.2))
    assert state.progress.finished == "end"
    assert state.progress.committed == (7, 4)


def test_places_after_a_decided_end_are_neither_denoised_nor_shown() -> None:
    state = advance(begin(5), (4, 0.3), (5, 0.95), (END, 0.95), (6, 0.95))
    assert state.progress.finished is None
    assert drawn(state) == [None, 5]
    assert STRATEGY.plan(state).read == (1,)
    assert advance(state, (4, 0.3)).progress.committed == (7, 4, 5)
    assert advance(state, (4, 0.3)).progress.finished == "end"


def test_places_after_the_length_limit_are_neither_denoised_nor_shown() -> None:
    state = begin(4, tokens_max=3)
    assert STRATEGY.plan(state).read == (1, 2)
    state = advance(state, (4, 0.95), (5, 0.95))
    assert (state.progress.finished, state.progress.committed) == ("length", (7, 4, 5))


def test_a_bonus_token_that_is_an_end_ends_at_once() -> None:
    request = Request((5,), "block", stop_token_ids=(END,))
    state = STRATEGY.start(Task(request, cached=0, sequence=0, traits=Traits(MASK)))
    state, _ = STRATEGY.resolve(state, STRATEGY.plan(state), readings_of((END, 0.9)))
    assert (state.progress.finished, state.progress.committed) == ("end", ())


def test_a_likely_end_after_undecided_places_waits_for_them() -> None:
    """Otherwise a block that ends early would be decided from the back, one place per forward."""
    state = advance(begin(), (8, 0.3), (END, 0.6), (END, 0.8))
    assert [place.token for place in state.block or ()] == [7, 8, None, None]
    state = advance(state, (END, 0.5), (END, 0.8))
    assert state.progress.finished == "end"
    assert state.progress.committed == (7, 8)


def test_an_end_that_reaches_the_threshold_is_decided_wherever_it_stands() -> None:
    state = advance(begin(), (8, 0.3), (END, 0.95), (9, 0.2))
    assert [place.token for place in state.block or ()] == [7, 8, END, None]
    assert state.progress.finished == "end"
    assert state.progress.committed == (7, 8)


def test_with_a_budget_a_place_is_decided_anew_once_the_place_before_it_is() -> None:
    state = advance(begin(revisions=1), (4, 0.3), (5, 0.95), (6, 0.2))
    assert drawn(state) == [None, 5, None]
    state = advance(state, (4, 0.92), (6, 0.1))
    assert state.progress.committed == (7, 4)
    assert drawn(state) == [None, None]  # 5 was decided before 4 was
    state = advance(state, (8, 0.95), (6, 0.95))
    assert state.progress.committed == (7, 4, 8, 6)


def test_without_a_budget_it_stays() -> None:
    state = advance(begin(), (4, 0.3), (5, 0.95), (6, 0.2))
    state = advance(state, (4, 0.92), (6, 0.1))
    assert state.progress.committed == (7, 4, 5)


places = st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=12)


@given(places, st.data(), st.integers(0, 6))
def test_a_revision_masks_decided_places_alone_and_keeps_to_the_budget(
    tokens: list[int | None], data: st.DataObject, budget: int
) -> None:
    before = tuple(DraftPlace(token, 0.5) for token in tokens)
    after = tuple(
        place if place.token is not None or not data.draw(st.booleans()) else DraftPlace(3, 0.9)
        for place in before
    )
    found, left = revised(before, after, budget)
    changed = [index for index, place in enumerate(found) if place != after[index]]
    assert budget - left == len(changed)
    for index in changed:
        assert found[index].token is None
        assert before[index].token is not None
        assert before[index - 1].token is None
        assert after[index - 1].token is not None
    if left:  # nothing that a new neighbour was decided before stays
        for index in range(1, len(found)):
            is_news = before[index - 1].token is None and after[index - 1].token is not None
            assert not (is_news and before[index].token is not None) or found[index].token is None
