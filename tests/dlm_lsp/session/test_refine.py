"""Refining a selection: what is doubted, what is taken, and that nothing else is touched."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.session.document import Document
from dlm_lsp.session.refine import SPANS_MAX, Refined, Refining, doubted, refine, why_not_refined
from engine.api import LogProbs

ABOVE, BELOW = "def mean(values):\n    total = 0\n", "\n    return total / len(values)\n"
WRONG = "    for value in values:\n        total -= value"


def tokens_of(text: str, value_of: Callable[[str], float]) -> LogProbs:
    """The words of a text as tokens, each with the spaces before it."""
    ends = [at for at in range(1, len(text)) if text[at].isspace() and not text[at - 1].isspace()]
    ends.append(len(text))
    starts = [0, *ends[:-1]]
    return tuple(
        (end, math.log(value_of(text[start:end].strip())))
        for start, end in zip(starts, ends, strict=True)
    )


@dataclass
class Model:
    """Scores words by a table and fills every hole with one text, in two drafts.

    Attributes:
        doubts: the probabilities of words; all others have 0.9.
        sureness: the probability of the fill.
        num_open: the streams that are open now.
    """

    fill: str = " +="
    doubts: dict[str, float] = field(default_factory=lambda: {"-=": 0.001})
    bodies: list[GenerateBody] = field(default_factory=list)
    failure: str = ""
    sureness: float = 0.9
    num_open: int = 0

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        self.num_open += 1
        usage = UsageBody()
        try:
            if self.failure:
                yield ErrorEvent(error=ErrorBody(code="memory", message=self.failure))
                return
            yield StartedEvent(mode="ar", marks=Marks(prefix_start=0), usage=usage)
            scores = tokens_of(body.given, lambda word: self.doubts.get(word, 0.9))
            text = body.given or self.fill
            if not body.given:
                half = len(text) // 2
                yield DraftEvent(
                    sequence=1, committed=text[:half], draft=text[half:], spans=(), usage=usage
                )
            yield FinishedEvent(
                text=text,
                finish_reason="scored" if body.given else "end",
                confidence=1,
                logprobs=scores if body.given else ((len(text), math.log(self.sureness)),),
                mode="ar",
                usage=usage,
            )
        finally:
            self.num_open -= 1


async def refined(
    model: Model, text: str = WRONG, above: str = ABOVE, below: str = BELOW
) -> list[Refined]:
    document = Document("file:///mean.py", "python", 1, above + text + below)
    with_ = Refining(model, GenerateBody(prefix=""))
    end = len(above) + len(text)
    return [state async for state in refine(document, len(above), end, with_)]


async def test_a_doubted_word_is_written_anew_and_the_rest_stays() -> None:
    model = Model(fill="+=")
    states = await refined(model)
    assert states[-1] == Refined(WRONG.replace("-=", "+="), final=True)
    start = WRONG.index("-=")
    first = states[0].spans
    assert [(span.start, span.end) for span in first] == [(start, start + 2)]
    scored, hole, again = model.bodies
    assert (scored.given, again.given) == (WRONG, WRONG.replace("-=", "+="))
    assert hole.prefix == ABOVE + WRONG[:start]
    assert hole.suffix == WRONG[start + 2 :] + BELOW
    assert scored.prefix == ABOVE
    assert scored.suffix == BELOW


async def test_what_the_model_believes_is_left_alone() -> None:
    model = Model(doubts={})
    states = await refined(model)
    assert states[-1] == Refined(WRONG, final=True)
    assert len(model.bodies) == 1


async def test_a_change_that_is_unsure_or_hardly_more_probable_is_not_taken() -> None:
    model = Model(fill="*=", doubts={"-=": 0.01, "*=": 0.05})
    states = await refined(model)
    assert states[-1].text == WRONG
    assert any("*=" in state.text for state in states), "it was shown while it was looked at"
    model = Model(fill="*=", doubts={"-=": 0.001, "*=": 0.5})
    assert "*=" in (await refined(model))[-1].text
    model = Model(fill="*=", doubts={"-=": 0.001, "*=": 0.5}, sureness=0.1)
    assert (await refined(model))[-1].text == WRONG, "the model is not sure of it"


@pytest.mark.parametrize("fill", ["", "   ", "\n", "-="])
async def test_nothing_in_its_place_is_no_change(fill: str) -> None:
    assert (await refined(Model(fill=fill)))[-1].text == WRONG


async def test_a_failure_of_the_host_is_raised() -> None:
    model = Model(failure="The memory does not suffice.")
    with pytest.raises(HostError, match="memory") as error:
        await refined(model)
    assert error.value.code == "memory"
    assert model.num_open == 0


async def test_closing_ends_the_work_in_the_engine() -> None:
    model = Model(fill="+=")
    document = Document("file:///mean.py", "python", 1, ABOVE + WRONG + BELOW)
    end = len(ABOVE) + len(WRONG)
    states = refine(document, len(ABOVE), end, Refining(model, GenerateBody(prefix="")))
    async for state in states:
        if "+" in state.text:
            break
    assert model.num_open == 1
    await states.aclose()
    assert model.num_open == 0


words = st.sampled_from(("a", "bb", "c()", "-=", "é", "表", "x.y", "==", "\n", "\r\n", "\t", " "))
texts = st.lists(words, min_size=1, max_size=14).map(" ".join).filter(str.strip)


@settings(max_examples=200)
@given(texts, st.sampled_from(("b", "+=", "zz q", "(", "")), st.data())
async def test_whatever_is_doubted_only_whole_words_change_and_the_end_is_more_probable(
    text: str, fill: str, data: st.DataObject
) -> None:
    """Each state is the selection with some of its doubted words replaced."""
    known = sorted({word for word in text.split() if word})
    doubts = {word: data.draw(st.floats(1e-6, 0.95)) for word in known}
    doubts |= {"b": 0.5, "+=": 0.5}
    model = Model(fill=fill, doubts=doubts)
    states = await refined(model, text)
    assert [state.final for state in states] == [False] * (len(states) - 1) + [True]
    for state in states:
        assert all(0 <= one.start <= one.end <= len(state.text) for one in state.spans)
    scores = {
        body.given: sum(value for _, value in tokens_of(body.given, lambda w: doubts.get(w, 0.9)))
        for body in model.bodies
        if body.given
    }
    assert states[-1].text in scores
    if states[-1].text != text:
        assert scores[states[-1].text] > scores[text]


@given(texts, st.data())
def test_doubts_are_ordered_whole_words_on_one_line(text: str, data: st.DataObject) -> None:
    scores = tokens_of(text, lambda _: data.draw(st.floats(0.001, 1)))
    found = doubted(text, scores, 0.5)
    assert len(found) <= SPANS_MAX
    for doubt, following in pairwise(found):
        assert doubt.end <= following.start
    for doubt in found:
        part = text[doubt.start : doubt.end]
        assert part == part.strip()
        assert part
        assert "\n" not in part
        inside = text[max(doubt.start - 1, 0) : doubt.start + 1]
        assert not (len(inside) == 2 and inside.isalnum()), "a word is not cut"


def test_a_selection_without_text_or_too_long_is_refused_by_name() -> None:
    assert why_not_refined("x = 1") is None
    assert "nothing to refine" in (why_not_refined(" \n\t") or "")
    assert "8000" in (why_not_refined("x" * 8001) or "")
