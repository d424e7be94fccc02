"""The pipeline: from a host's events to suggestions, and cancellation when nobody listens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given
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
    SamplingBody,
    SpanBody,
    StartedEvent,
    StoppedEvent,
    UsageBody,
)
from dlm_lsp.postprocess.shaping import Rules, rules_for, shape_final
from dlm_lsp.session.context import Context, gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import Suggestion, complete, to_body
from dlm_lsp.settings.schema import Settings

TEXT = "def add(a, b):\n    return \n\nprint(add(1, 2))\n"
OFFSET = TEXT.index("return ") + len("return ")
ASKED = GenerateBody(prefix="")
USAGE = UsageBody(tokens=3, forwards=2)
STARTED = StartedEvent(mode="block", marks=Marks(prefix_start=0, far_suffix_start=3), usage=USAGE)


class Script:
    """A client that replays events, and records its requests and whether it was closed early."""

    def __init__(self, events: Sequence[HostEvent]) -> None:
        self.events = events
        self.bodies: list[GenerateBody] = []
        self.num_played = 0
        self.is_closed = False

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        try:
            for event in self.events:
                self.num_played += 1
                yield event
        finally:
            self.is_closed = True


def context_at(text: str = TEXT, offset: int = OFFSET) -> Context:
    return gather(Document("file:///a.py", "python", 1, text), offset, None)


def rules_at(context: Context, automatic: bool) -> Rules:
    return rules_for(context.prefix, context.suffix, automatic)


def finished(text: str) -> FinishedEvent:
    return FinishedEvent(text=text, finish_reason="end", confidence=0.9, mode="ar", usage=USAGE)


def draft(committed: str, rest: str, *spans: tuple[int, int, float]) -> DraftEvent:
    bodies = tuple(SpanBody(start=s, end=e, confidence=c) for s, e, c in spans)
    return DraftEvent(sequence=1, committed=committed, draft=rest, spans=bodies, usage=USAGE)


async def play(
    script: Script, automatic: bool = True, asked: GenerateBody = ASKED
) -> list[Suggestion]:
    context = context_at()
    rules = rules_at(context, automatic)
    return [s async for s in complete(context, rules, asked, script)]


completions = st.text(alphabet="ab +()\n    :", max_size=40)


@given(completions, completions, st.data())
async def test_any_run_shows_only_what_its_end_keeps(
    text: str, tail: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    events = [STARTED, *(draft(text[:cut], tail) for cut in cuts), finished(text)]
    for automatic in (True, False):
        states = await play(Script(events), automatic)
        assert [state.final for state in states] == [False] * (len(states) - 1) + [True]
        assert all(b.committed.startswith(a.committed) for a, b in pairwise(states))
        shaped = shape_final(rules_at(context_at(), automatic), text)
        assert (states[-1].committed, states[-1].replaced) == (shaped.text, shaped.replaced)
        assert all(state.marks == STARTED.marks for state in states)


@given(completions, completions, st.lists(st.floats(0, 1), max_size=40))
async def test_spans_cover_the_shown_draft_without_gap_or_overlap(
    committed: str, rest: str, confidences: list[float]
) -> None:
    spans = [(i, i + 1, c) for i, c in enumerate(confidences[: len(rest)])]
    states = await play(Script([STARTED, draft(committed, rest, *spans), finished("")]))
    state = states[1]
    if not state.final:
        edges = [0, *(span.end for span in state.spans)]
        assert [span.start for span in state.spans] == edges[:-1]
        assert edges[-1] == len(state.draft)


async def test_span_follows_its_characters_when_committed_text_is_held_back() -> None:
    # The space after "+" is final, but may still be at the end of the line.
    states = await play(Script([STARTED, draft("a + ", "b * c", (0, 1, 0.5), (2, 5, 0.7))]))
    state = states[1]
    by_character = {
        index: span.confidence for span in state.spans for index in range(span.start, span.end)
    }
    whole = state.committed + state.draft
    assert whole == "a + b * c"
    at = {name: whole.index(name) - len(state.committed) for name in "b*c"}
    assert by_character[at["b"]] == 0.5
    assert by_character[at["*"]] == by_character[at["c"]] == 0.7
    held = range(at["b"])
    assert all(by_character[index] == 1.0 for index in held)


async def test_run_ends_early_when_nothing_more_can_be_shown() -> None:
    text = "a + b\n\nprint(add(1, 2))\nmore and more"
    script = Script([STARTED, draft("a + b", ""), draft(text, ""), draft(text, "x"), finished("")])
    states = await play(script)
    assert (states[-1].committed, states[-1].finish_reason) == ("a + b", "scope")
    assert script.num_played == 3
    assert script.is_closed


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(
    "tail",
    ["\n\nprint(add(1, 2))\n", "\n\ndef g", "\n# Check function", "\n    ```\n", "\n}\n@x\n"],
)
async def test_no_forward_is_played_after_the_end_is_seen(automatic: bool, tail: str) -> None:
    text = "a + b" + tail
    forwards = [draft(text[:end], "") for end in range(1, len(text) + 1)]
    script = Script([STARTED, *forwards, *(draft(text + "more" * n, "") for n in range(9))])
    states = await play(script, automatic)
    assert (states[-1].committed, states[-1].finish_reason) == ("a + b", "scope")
    assert script.num_played <= 1 + len(text)
    assert script.is_closed


async def test_closing_the_pipeline_closes_the_stream() -> None:
    script = Script([STARTED, draft("a", "b"), finished("ab")])
    context = context_at()
    async with aclosing(complete(context, rules_at(context, True), ASKED, script)) as states:
        assert (await anext(states)).committed == ""
        assert not script.is_closed
    assert script.is_closed


async def test_error_event_is_the_hosts_error() -> None:
    error = ErrorEvent(error=ErrorBody(code="out_of_memory", message="No room."))
    with pytest.raises(HostError, match=r"No room\.") as caught:
        await play(Script([STARTED, error]))
    assert caught.value.code == "out_of_memory"


async def test_run_that_the_host_stopped_ends_with_what_was_final() -> None:
    states = await play(Script([STARTED, StoppedEvent(text="a +", usage=USAGE)]))
    assert (states[-1].committed, states[-1].finish_reason) == ("a +", "stopped")


async def test_request_says_what_settings_and_context_say() -> None:
    settings = Settings.model_validate_json(
        '{"mode": "ar", "limits": {"tokensMax": 5, "tokensMaxInvoked": 6},'
        '"block": {"length": 8, "threshold": 0.5}, "context": {"prefixTokens": 99}}'
    )
    for automatic, tokens_max in ((True, 5), (False, 6)):
        script = Script([finished("")])
        await play(script, asked=to_body(settings, automatic=automatic, client="lsp"))
        (body,) = script.bodies
        assert (body.prefix, body.suffix) == (TEXT[:OFFSET], TEXT[OFFSET:])
        assert (body.client, body.mode, body.limits.tokens_max) == ("lsp", "ar", tokens_max)
        assert (body.block.length, body.block.threshold) == (8, 0.5)
        assert (body.budget.prefix_tokens, body.budget.suffix_tokens) == (99, None)
        assert body.sampling == SamplingBody()
