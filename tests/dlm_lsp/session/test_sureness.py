"""Silence by the model's own confidence: what is shown, what is not, and what never changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import (
    DraftEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.session.confidence import after, aligned
from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.requests import Answer, Ask
from dlm_lsp.session.session import Session
from dlm_lsp.session.sureness import UNSURE, is_sure, sure_lines, threshold
from engine.api import LogProbs
from engine.config import EngineSettings
from tests.dlm_lsp.session.test_session import Engine, Recorder

URI = "file:///a.py"
USAGE = UsageBody(tokens=1, forwards=1)
probabilities = st.floats(0.01, 1)


@dataclass
class Writer(Engine):
    """A host that commits the same tokens to every request, each with its probability.

    Attributes:
        tells: whether it tells the probabilities.
        num_written: the tokens that the last request got.
    """

    tokens: Sequence[tuple[str, float]] = field(default_factory=list)
    tells: bool = True
    num_written: int = 0

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        yield StartedEvent(mode="ar", marks=Marks(), usage=USAGE)
        text, logprobs, self.num_written = "", list[tuple[int, float]](), 0
        for token, probability in self.tokens:
            await asyncio.sleep(0)
            text += token
            if self.tells:
                logprobs.append((len(text), math.log(probability)))
            self.num_written += 1
            yield DraftEvent(
                sequence=self.num_written,
                committed=text,
                draft="",
                spans=(),
                logprobs=tuple(logprobs),
                usage=USAGE,
            )
            await asyncio.sleep(0)
        yield FinishedEvent(
            text=text,
            finish_reason="end",
            confidence=1,
            logprobs=tuple(logprobs),
            mode="ar",
            usage=USAGE,
        )


class Desk:
    """A session with one empty document and such a host."""

    def __init__(self, tokens: Sequence[tuple[str, float]], confidence: float | str) -> None:
        self.editor = Recorder()
        self.engine = Writer(tokens=tokens)
        link = EngineLink(self.editor, self._client)
        options: dict[str, object] = {"drafts": True, "delay": 0, "syntax": False}
        options["silence"] = {"confidence": confidence}
        self.session = Session(self.editor, Encoding.UTF16, link, options)
        self.session.open(Document(URI, "python", 1, "# begins\n"))
        self.typed = ""

    def _client(self, host: HostSettings) -> Engine:
        return self.engine

    def type(self, text: str) -> None:
        at = Position(1, len(self.typed))
        self.typed += text
        self.session.change(URI, len(self.typed) + 1, [Change(at, at, text)])

    async def ask(self, automatic: bool = True) -> Answer:
        ask = Ask(URI, Position(1, len(self.typed)), automatic, token="t")
        answer = await self.session.complete(ask)
        assert answer is not None
        return answer

    async def shown(self, automatic: bool = True) -> str:
        """The offered text; the drafts before it must have been its beginnings."""
        self.editor.drafts.clear()
        answer = await self.ask(automatic)
        text = answer.offers[0].text if answer.offers else ""
        assert all(text.startswith(notice.committed) for notice in self.editor.drafts)
        assert bool(self.editor.drafts) == bool(text)
        return text


def probable(*pieces: tuple[str, float]) -> tuple[str, LogProbs]:
    text, logprobs = "", list[tuple[int, float]]()
    for piece, probability in pieces:
        text += piece
        logprobs.append((len(text), math.log(probability)))
    return text, tuple(logprobs)


tokens_of = st.lists(
    st.tuples(st.sampled_from(["a", " b", "c = d", "\n", "\n    e", " "]), probabilities),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(tokens_of, st.lists(probabilities, max_size=3))
async def test_a_higher_threshold_never_shows_more_and_leaves_invoked_requests_alone(
    tokens: list[tuple[str, float]], thresholds: list[float]
) -> None:
    everything = await Desk(tokens, 0).shown()
    invoked = await Desk(tokens, 0).shown(automatic=False)
    before = everything
    for least in sorted(thresholds):
        text = await Desk(tokens, least).shown()
        assert before.startswith(text)
        assert text in ("", everything) or everything[len(text) :].lstrip(" ")[0] == "\n"
        before = text
        assert await Desk(tokens, least).shown(automatic=False) == invoked


@given(tokens_of, probabilities)
def test_sure_lines_are_whole_and_grow(tokens: list[tuple[str, float]], least: float) -> None:
    text, logprobs = probable(*tokens)
    kept = [
        sure_lines(text[: logprobs[count - 1][0]], logprobs[:count], least)
        for count in range(1, len(tokens) + 1)
    ]
    for earlier, later in pairwise(kept):
        assert later.startswith(earlier)
    assert is_sure(kept[-1], logprobs, least) or not kept[-1]
    assert text.startswith(kept[-1])
    rest = text[len(kept[-1]) :].lstrip(" ")
    assert not kept[-1] or rest.startswith("\n")


@given(st.text("ab (\n", max_size=20), st.lists(st.integers(1, 4)), st.integers(0, 20))
def test_tokens_of_a_shaped_text_are_those_that_wrote_it(
    raw: str, lengths: list[int], cut: int
) -> None:
    ends, at = list[tuple[int, float]](), 0
    for number, length in enumerate(lengths):
        at = min(at + length, len(raw))
        ends.append((at, -float(number)))
    written = raw[: ends[-1][0]] if ends else ""
    shown = " ".join(written[:cut].split()) + ")"
    moved = aligned(tuple(ends), raw, shown)
    assert [value for _, value in moved] == [value for _, value in ends[: len(moved)]]
    solid = [character for character in written if not character.isspace()]
    for (end, _), (raw_end, _) in zip(moved, ends, strict=False):
        characters = "".join(shown[:end].split())
        assert "".join(solid).startswith(characters) or characters.endswith(")")
        assert len(characters) <= len("".join(raw[:raw_end].split()))
    assert after(moved, 0) == moved


def test_a_token_that_ends_a_line_belongs_to_the_next_one() -> None:
    text, logprobs = probable(("\n    a", 0.5), ("b", 0.5), ("\n", 0.1), ("c", 0.2))
    assert is_sure("\n    ab", logprobs, 0.25)
    assert not is_sure("\n    ab", logprobs, 0.26)
    assert sure_lines(text, logprobs, 0.2) == "\n    ab"
    assert sure_lines(text + "\n", logprobs, 0.005) == "\n    ab\nc"


def test_auto_silences_no_bundled_model_and_a_number_any() -> None:
    assert threshold("auto", is_bundled=True) == 0
    assert 0 < threshold("auto", is_bundled=False) < 1
    assert threshold(0.6, is_bundled=True) == 0.6
    assert HostSettings().is_bundled
    assert not HostSettings(EngineSettings("/models/own.gguf")).is_bundled
    assert not HostSettings(url="http://gpu-box:8123").is_bundled


async def test_an_unsure_suggestion_is_silent_and_says_why() -> None:
    desk = Desk([("first", 0.6), (" second", 0.2), (" third", 1)], 0.5)
    answer = await desk.ask()
    assert (answer.offers, answer.reason) == ((), UNSURE)
    assert desk.editor.drafts == []
    assert desk.editor.statuses[-1].reason == UNSURE
    again = await desk.ask()  # From the cache, for the same reason.
    assert (again.offers, again.reason, len(desk.engine.bodies)) == ((), UNSURE, 1)
    assert desk.engine.num_written == 2  # The engine was stopped where nothing could be sure.
    assert await desk.shown(automatic=False) == "first second third"


async def test_the_model_is_asked_again_when_the_unsure_beginning_was_typed() -> None:
    desk = Desk([("first", 0.2), (" second", 0.9)], 0.5)
    assert await desk.shown() == ""
    desk.type("first")
    desk.engine.tokens = [(" second", 0.9)]
    assert await desk.shown() == " second"


async def test_only_the_lines_of_which_the_model_is_sure_are_shown_and_as_soon_as_it_is() -> None:
    lines = [("first", 0.9), ("\n", 0.9), ("second", 0.9), ("\n", 0.9), ("third", 0.5)]
    desk = Desk([*lines, ("\n", 1), ("fourth", 1)], 0.5)
    assert await desk.shown() == "first\nsecond"
    assert [notice.committed for notice in desk.editor.drafts] == [
        "first",
        "first",
        "first\nsecond",
        "first\nsecond",
    ]
    assert desk.engine.num_written == 5


async def test_tokens_that_a_host_does_not_tell_silence_nothing() -> None:
    assert is_sure("text", (), 1.0)
    desk = Desk([("first", 0.1)], 0.5)
    desk.engine.tells = False
    assert await desk.shown() == "first"
