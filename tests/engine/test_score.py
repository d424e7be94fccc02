"""Laws of scoring: a given token's probability is the model's own, however the rows are cut."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import Limits, Request
from engine.auto.step_times import StepTimes
from engine.decoders.score import Score
from engine.decoders.strategy import Progress
from engine.loop import decode
from engine.reading import Reading
from tests.engine.seeded import prompt_of
from tests.engine.subjects import FLOAT32, Subject, subject

PROMPT = prompt_of(50, 1)
# Steps of 16, 64 and 256 rows cost the same, so that a prompt is cut into as many rows.
CUTS = {rows: StepTimes((1, rows), (1.0, 1.0)) for rows in (16, 64, 256)}


@pytest.fixture(
    scope="module", params=itertools.product(("tiny", "adapted"), FLOAT32), ids=" ".join
)
def scored(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


def scores(subject: Subject, text: tuple[int, ...], rows: int = 64, mode: str = "ar") -> Progress:
    request = Request(PROMPT, mode, Limits(8), given=text)
    traits = replace(subject.traits, costs=CUTS[rows])
    states = list(decode(subject.model, subject.cache(), Score(), request, traits))
    sizes = [len(state.progress.committed) for state in states]
    assert sizes == sorted(sizes), "what is scored only grows"
    assert states[-1].progress.finished == "scored"
    return states[-1].progress


def test_what_the_model_writes_has_the_confidences_it_was_written_with(scored: Subject) -> None:
    last = scored.run(Request(PROMPT, "ar", Limits(24)))[-1].progress
    found = scores(scored, last.committed)
    assert found.committed == last.committed
    assert found.confidences == pytest.approx(last.confidences, rel=1e-3)


def test_a_token_costs_what_the_plain_network_says_or_less(scored: Subject) -> None:
    """Less where four others are likelier: then the score is a bound from above."""
    text = prompt_of(40, 9)
    found = scores(scored, text)
    assert found.committed == text
    for place, (token, confidence) in enumerate(zip(text, found.confidences, strict=True)):
        before = (*PROMPT, *text[:place])
        only = scored.run(Request(before, "ar", Limits(1)))[-1].progress
        exact = scores_alone(scored, before, token)
        assert confidence <= only.confidences[0] * 1.001
        assert confidence == pytest.approx(exact, rel=1e-3)


def scores_alone(subject: Subject, prompt: tuple[int, ...], token: int) -> float:
    """The score of one token after a prompt that is computed by itself."""
    request = Request(prompt, "ar", Limits(1), given=(token,))
    *_, last = decode(subject.model, subject.cache(), Score(), request, subject.traits)
    return last.progress.confidences[0]


@pytest.mark.parametrize("rows", [16, 256])
def test_the_cut_into_steps_changes_nothing(scored: Subject, rows: int) -> None:
    text = prompt_of(90, 4)
    assert scores(scored, text, rows).confidences == pytest.approx(
        scores(scored, text, 64).confidences, rel=1e-3
    )


def test_a_cached_prompt_changes_nothing_and_a_second_scoring_reads_it(scored: Subject) -> None:
    text, cache = prompt_of(30, 5), scored.cache()
    request = Request(PROMPT, "ar", Limits(8), given=text)
    runs = [list(decode(scored.model, cache, Score(), request, scored.traits)) for _ in range(2)]
    assert runs[1][0].cached > 0
    first, second = (run[-1].progress.confidences for run in runs)
    assert second == pytest.approx(first, rel=1e-3)


@settings(max_examples=200)
@given(st.lists(st.floats(-20, 20), min_size=4, max_size=4, unique=True), st.integers(0, 9))
def test_a_reading_tells_the_best_tokens_exactly_and_bounds_all_others(
    logits: list[float], token: int
) -> None:
    ordered = sorted(logits, reverse=True)
    best = tuple(enumerate(ordered))
    total = math.log(sum(map(math.exp, ordered))) + 0.1
    reading = Reading(0, 0.5, best, total)
    value = reading.log_probability(token)
    assert value == (ordered[token] if token < 4 else ordered[3]) - total
