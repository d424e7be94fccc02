"""What the engine does ahead while the user rests, and that it gives way to all else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.answers import Health
from dlm_lsp.client.messages import (
    DraftEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.requests import Ask, Offer
from dlm_lsp.session.session import Session
from tests.dlm_lsp.session.test_session import NEVER, Engine, Recorder, insert, opened, until

URI = "file:///a.py"
ANSWER, FOLLOWING = "foo(1)", "\ny = bar(2)"


@dataclass
class Pausing(Engine):
    """An engine that answers ANSWER, behind it FOLLOWING, and in between only while it is let.

    Attributes:
        gate: an engine with a closed gate waits in the middle of a run.
        others: the requests of other editors at its host.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    others: int = 0

    async def health(self) -> Health:
        await asyncio.sleep(0)
        return Health("ready", "Ready.", {"requests": self.others})

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        self.num_open[URI] = self.num_open.get(URI, 0) + 1
        try:
            yield StartedEvent(mode="ar", marks=Marks(prefix_start=0), usage=UsageBody())
            is_warming = body.limits.tokens_max == 0
            text = "" if is_warming else FOLLOWING if body.prefix.endswith(ANSWER) else ANSWER
            usage = UsageBody()
            yield DraftEvent(sequence=1, committed=text[:2], draft=text[2:], spans=(), usage=usage)
            await self.gate.wait()
            yield FinishedEvent(
                text=text, finish_reason="end", confidence=1, mode="ar", usage=usage
            )
        finally:
            self.num_open[URI] -= 1

    @property
    def runs(self) -> list[str]:
        """The last line before the cursor of each run; "warm" for a prompt that was warmed."""
        return [
            "warm" if body.limits.tokens_max == 0 else body.prefix.rpartition("\n")[2]
            for body in self.bodies
        ]


def make(
    options: object = None, *, rest_seconds: float = 0.0, is_open: bool = True
) -> tuple[Session, Pausing]:
    engine, editor = Pausing(), Recorder()
    if is_open:
        engine.gate.set()
    link = EngineLink(editor, lambda _: engine)
    return Session(editor, Encoding.UTF32, link, options, rest_seconds=rest_seconds), engine


async def ask(session: Session, character: int = 4, line: int = 0) -> Offer | None:
    answer = await session.complete(Ask(URI, Position(line, character)))
    assert answer is not None
    return answer.offers[0] if answer.offers else None


def erase(session: Session, version: int, start: int, end: int) -> None:
    session.change(URI, version, [Change(Position(0, start), Position(0, end), "")])


async def settled() -> None:
    """Waits until nothing is left to do ahead."""
    for _ in range(60):
        await asyncio.sleep(0)


async def test_accepting_what_is_shown_finds_its_follow_up_ready() -> None:
    session, engine = make()
    opened(session)
    offer = await ask(session)
    assert offer is not None
    await settled()
    assert engine.runs == ["x = ", "x = foo(1)", "warm"]
    insert(session, 2, 4, offer.text)
    following = await ask(session, 10)
    assert following is not None
    assert following.text == FOLLOWING
    assert engine.runs.count("x = foo(1)") == 1
    await session.close()


async def test_typing_what_is_shown_keeps_its_follow_up_and_accepting_takes_it() -> None:
    session, engine = make({"delay": 0}, is_open=False)
    opened(session)
    asking = asyncio.create_task(ask(session))
    await until(lambda: bool(engine.bodies))
    engine.gate.set()
    await asking
    engine.gate.clear()
    await until(lambda: len(engine.bodies) == 2)
    insert(session, 2, 4, "fo")
    assert (await ask(session, 6)).text == "o(1)"  # type: ignore[union-attr]
    insert(session, 3, 6, "o(1)")
    asking = asyncio.create_task(ask(session, 10))
    await settled()
    engine.gate.set()
    assert (await asking).text == FOLLOWING  # type: ignore[union-attr]
    assert engine.runs[:2] == ["x = ", "x = foo(1)"]
    assert session.stats()["counts"]["taken_over"] == 1  # type: ignore[index]
    await session.close()
    await settled()
    assert not any(engine.num_open.values())


@pytest.mark.parametrize("what", ["edit", "request", "toggle", "settings", "close"])
async def test_follow_up_is_dropped_by_what_it_does_not_serve(what: str) -> None:
    session, engine = make({"delay": 0}, is_open=False)
    opened(session)
    asking = asyncio.create_task(ask(session))
    await until(lambda: bool(engine.bodies))
    engine.gate.set()
    await asking
    engine.gate.clear()
    await until(lambda: len(engine.bodies) == 2 and engine.num_open[URI] == 1)
    if what == "edit":
        insert(session, 2, 4, "q")
    elif what == "request":
        asking = asyncio.create_task(ask(session, 2))
    elif what == "toggle":
        session.switches.toggle(URI, False)
    elif what == "settings":
        await session.configure({"delay": 0, "followUp": False})
    else:
        session.close_document(URI)
    await until(lambda: engine.runs[-1] == "x " if what == "request" else not engine.num_open[URI])
    assert engine.num_open[URI] == (what == "request")
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await session.close()


async def test_nothing_is_done_ahead_where_it_is_not_wanted() -> None:
    session, engine = make({"followUp": False})
    opened(session)
    await ask(session)
    await settled()
    assert engine.runs == ["x = ", "warm"]
    session, engine = make()
    opened(session)
    await ask(session)
    engine.others = 1
    await settled()
    assert engine.runs == ["x = "], "another editor's request is served first"
    session, engine = make({"silence": {"languages": ["python"]}})
    opened(session)
    await session.start()
    session.rest_at(URI, Position(0, 2))
    await settled()
    assert engine.runs == []
    await session.close()


async def test_settings_must_be_known_before_anything_is_sent() -> None:
    engine, known = Pausing(), False
    engine.gate.set()
    link = EngineLink(Recorder(), lambda _: engine)
    session = Session(
        Recorder(), Encoding.UTF32, link, rest_seconds=0, are_settings_known=lambda: known
    )
    opened(session)
    await session.start()
    session.rest_at(URI, Position(0, 2))
    await settled()
    assert engine.runs == []
    known = True
    await session.configure({})
    await settled()
    assert engine.runs == ["warm"], "the cursor still rests there"


async def test_the_prompt_at_a_new_place_is_warmed_once_and_its_marks_are_kept() -> None:
    session, engine = make()
    opened(session, "a = 1\n" * 200)
    await session.start()
    for _ in range(3):
        session.rest_at(URI, Position(100, 2))
        await settled()
    assert engine.runs == ["warm"]
    assert not engine.bodies[0].suffix.startswith("a")
    marks = session.documents.marks(URI)
    assert marks is not None
    assert marks.prefix_start == 0
    session.rest_at(URI, Position(100, 3))
    await settled()
    assert engine.runs == ["warm", "warm"]


async def test_warming_ends_with_the_next_key_and_begins_again_after_it() -> None:
    session, engine = make(is_open=False)
    opened(session)
    await session.start()
    session.rest_at(URI, Position(0, 4))
    await until(lambda: bool(engine.num_open.get(URI)))
    await settled()
    insert(session, 2, 4, "q")
    await until(lambda: len(engine.bodies) == 2)
    assert engine.bodies[1].prefix == "x = q"
    await session.close()
    await settled()
    assert not any(engine.num_open.values())


walks = st.lists(st.sampled_from(("type", "type", "erase", "erase some", "undo")), max_size=25)


@settings(max_examples=60, deadline=None)
@given(walks, st.integers(1, 4))
async def test_walking_within_what_is_shown_never_asks_the_engine(
    walk: list[str], step: int
) -> None:
    """Typing it, erasing it again and erasing what stood before it on its line."""
    session, engine = make(rest_seconds=NEVER)
    before = "import x\nx = "
    opened(session, before + "\n")
    assert (await ask(session, 4, 1)).text == ANSWER  # type: ignore[union-attr]
    whole, column, version = "x = " + ANSWER, 4, 1
    for kind in walk:
        if kind == "type":
            target = min(column + 1, len(whole) - 1)
        elif kind == "undo":
            target = 4
        else:
            target = max(column - (1 if kind == "erase" else step), 1)
        version += 1
        start, end = sorted((column, target))
        first, last = Position(1, start), Position(1, end)
        change = (
            Change(first, first, whole[start:end]) if target > column else Change(first, last, "")
        )
        session.change(URI, version, [change])
        column = target
        shown = await ask(session, column, 1)
        assert shown is not None
        assert whole[:column] + shown.text == whole
    assert len(engine.bodies) == 1


async def test_undoing_an_acceptance_shows_the_suggestion_again() -> None:
    session, engine = make({"followUp": False}, rest_seconds=NEVER)
    opened(session)
    offer = await ask(session)
    assert offer is not None
    insert(session, 2, 4, offer.text)
    await ask(session, 10)
    asked = len(engine.bodies)
    erase(session, 3, 4, 10)
    assert (await ask(session)).text == ANSWER  # type: ignore[union-attr]
    assert len(engine.bodies) == asked
    session.open(Document(URI, "python", 1, "x = \n"))
    await ask(session)
    assert len(engine.bodies) == asked + 1
