"""The session's rules, under any interleaving of edits, requests and a slow engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.answers import Health
from dlm_lsp.client.errors import HostError
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
from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.offers import OFFERS_MAX
from dlm_lsp.session.requests import Answer, Ask, DraftNotice, RefinementNotice, Status
from dlm_lsp.session.session import Session
from engine.config import EngineSettings

URIS = ("file:///a.py", "file:///b.py")
STARTED = StartedEvent(
    mode="ar", marks=Marks(prefix_start=0, far_suffix_start=0), usage=UsageBody()
)


@dataclass
class Recorder:
    """An editor that records all calls."""

    drafts: list[DraftNotice] = field(default_factory=list)
    refinements: list[RefinementNotice] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loads: list[str | None] = field(default_factory=list)

    def draft(self, notice: DraftNotice) -> None:
        self.drafts.append(notice)

    def refinement(self, notice: RefinementNotice) -> None:
        self.refinements.append(notice)

    def status(self, status: Status) -> None:
        self.statuses.append(status)

    def log(self, message: str) -> None:
        self.logs.append(message)

    def show_error(self, message: str) -> None:
        self.errors.append(message)

    def loading(self, message: str | None) -> None:
        self.loads.append(message)


@dataclass
class Engine:
    """A host client without a host: completes every prefix in the same way, a word at a time.

    Attributes:
        num_open: streams that are open now, by document.
    """

    settings: HostSettings = field(default_factory=HostSettings)
    is_closed: bool = False
    num_shutdowns: int = 0
    num_ensured: int = 0
    healths: list[Health] = field(default_factory=list)
    failure: HostError | None = None
    bodies: list[GenerateBody] = field(default_factory=list)
    num_open: dict[str, int] = field(default_factory=dict)

    async def health(self) -> Health:
        await asyncio.sleep(0)
        if len(self.healths) > 1:
            return self.healths.pop(0)
        return self.healths[0] if self.healths else Health("ready", "Ready.", {"device": "cpu"})

    async def ensure(self) -> None:
        await asyncio.sleep(0)
        self.num_ensured += 1
        if self.failure is not None:
            raise self.failure

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        document = body.document
        self.num_open[document] = self.num_open.get(document, 0) + 1
        try:
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure
            yield STARTED
            # Greedy: typing part of the completion does not change the completion.
            words = completion_of(body.prefix).split(" ")
            for count in range(len(words)):
                await asyncio.sleep(0)
                committed, rest = " ".join(words[:count]), words[count]
                yield DraftEvent(
                    sequence=count + 1, committed=committed, draft=rest, spans=(), usage=UsageBody()
                )
            yield FinishedEvent(
                text=" ".join(words),
                finish_reason="end",
                confidence=1,
                mode="ar",
                usage=UsageBody(tokens=len(words), forwards=1),
            )
        finally:
            self.num_open[document] -= 1

    async def shut_down(self) -> bool:
        self.num_shutdowns += 1
        return True

    async def close(self) -> None:
        self.is_closed = True


SENTENCE = "first + second + third + fourth"


def completion_of(prefix: str) -> str:
    """Returns the rest of the sentence whose beginning is on the line."""
    line = prefix.rsplit("\n", 1)[-1]
    for count in range(len(SENTENCE), -1, -1):
        if line.endswith(SENTENCE[:count]):
            return SENTENCE[count:]
    raise AssertionError


NEVER = 1e6  # Seconds of rest before the engine works ahead.


def make(
    options: object = None, engine: Engine | None = None, rest_seconds: float = NEVER
) -> tuple[Session, Recorder, Engine]:
    editor, engine = Recorder(), engine or Engine()

    def make_client(settings: HostSettings) -> Engine:
        engine.settings = settings
        return engine

    link = EngineLink(editor, make_client)
    session = Session(editor, Encoding.UTF32, link, options, rest_seconds=rest_seconds)
    return session, editor, engine


def opened(session: Session, text: str = "x = \n", uri: str = URIS[0]) -> None:
    session.open(Document(uri, "python", 1, text))


def insert(session: Session, version: int, character: int, text: str, line: int = 0) -> None:
    place = Position(line, character)
    session.change(URIS[0], version, [Change(place, place, text)])


def at(character: int, line: int = 0, **options: object) -> Ask:
    return Ask(URIS[0], Position(line, character), **options)  # type: ignore[arg-type]


# Requests overlap after asking, typing on and short waits, so these are frequent.
KINDS = (
    *("ask",) * 4,
    *("next",) * 4,
    *("wait",) * 3,
    *("type", "type elsewhere", "invoke", "cancel"),
)
scripts = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from((0, 0, 0, 1)), st.floats(0, 1)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(scripts, st.booleans())
async def test_any_interleaving_of_edits_and_requests_keeps_the_rules(
    script: list[tuple[str, int, float]], drafts: bool
) -> None:
    session, editor, engine = make({"drafts": drafts})
    texts = dict.fromkeys(URIS, "# head\n\n# tail\n")
    cursors = dict.fromkeys(URIS, Position(1, 0))
    versions = dict.fromkeys(URIS, 1)
    tasks: list[asyncio.Task[Answer | None]] = []
    current: dict[str, asyncio.Task[Answer | None]] = {}  # The requests since the last edit.
    for uri in URIS:
        session.open(Document(uri, "python", 1, texts[uri]))

    def type_at(uri: str, place: Position, text: str) -> None:
        versions[uri] += 1
        current.pop(uri, None)
        session.change(uri, versions[uri], [Change(place, place, text)])
        texts[uri] = session.documents.get(uri).text  # type: ignore[union-attr]

    for kind, which, amount in script:
        uri = URIS[which]
        line, column = cursors[uri].line, cursors[uri].character
        if kind in ("type", "next"):
            text = texts[uri].split("\n")[line]
            missing = completion_of(text[:column])
            typed = missing[: int(amount * 6)] if kind == "next" else "zq"
            type_at(uri, cursors[uri], typed)
            cursors[uri] = Position(line, column + len(typed))
        elif kind == "type elsewhere":
            type_at(uri, Position(0, 0), "!")
        elif kind in ("ask", "invoke"):
            count = 1 if kind == "ask" else 3
            ask = Ask(uri, cursors[uri], kind == "ask", count, token=len(tasks))
            current[uri] = asyncio.create_task(checked(session, ask))
            tasks.append(current[uri])
            await asyncio.sleep(0)  # A server handles messages in order.
        elif kind == "cancel" and tasks:
            tasks[int(amount * (len(tasks) - 1))].cancel()
        else:
            for _ in range(int(amount * 12)):
                await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    expected = Answer | asyncio.CancelledError | None
    assert all(isinstance(result, expected) for result in results), results
    assert not any(engine.num_open.values()), "every stream is closed once nobody waits"
    assert all(status.state != "busy" for status in editor.statuses[-1:])
    check_drafts(editor.drafts, drafts)
    for task in current.values():
        assert task.cancelled() or task.result() is not None, "a current request is answered"
    await session.close()


async def checked(session: Session, ask: Ask) -> Answer | None:
    """Checks the answer at the moment it is given."""
    answer = await session.complete(ask)
    if answer is not None:
        document = session.documents.get(ask.uri)
        assert answer.document is document, "an answer is for the text as it is now"
        assert len(answer.offers) <= ask.count
        assert len({offer.text for offer in answer.offers}) == len(answer.offers)
        for offer in answer.offers:
            assert document is not None
            before = document.text[: offer.start].rsplit("\n", 1)[-1]
            assert completion_of(before) == offer.text, "an offer continues the text"
            assert offer.start == offer.end
    return answer


def check_drafts(notices: list[DraftNotice], wanted: bool) -> None:
    assert wanted or not notices
    last: dict[str | int, DraftNotice] = {}
    for notice in notices:
        before = last.get(notice.token)
        if before is not None:
            assert notice.sequence == before.sequence + 1
            assert notice.committed.startswith(before.committed)
            assert not before.state.final
            assert notice.document is before.document
        else:
            assert notice.sequence == 1
        last[notice.token] = notice


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


# Single rules.


async def test_same_position_asked_again_goes_on_with_the_same_run() -> None:
    session, _, engine = make()
    opened(session)
    first = asyncio.create_task(session.complete(at(4)))
    await until(lambda: any(engine.num_open.values()))
    answer = await session.complete(at(4))
    assert answer is not None
    assert answer.offers[0].text == SENTENCE
    assert await first is None
    assert len(engine.bodies) == 1


async def test_requests_of_two_documents_do_not_disturb_each_other() -> None:
    session, _, _ = make()
    opened(session)
    opened(session, uri=URIS[1])
    other = Ask(URIS[1], Position(0, 4))
    answers = await asyncio.gather(session.complete(at(4)), session.complete(other))
    assert all(answer is not None and answer.offers for answer in answers)


async def test_cancelled_caller_sees_its_cancellation_even_when_superseded_as_well() -> None:
    session, _, engine = make()
    opened(session)
    first = asyncio.create_task(session.complete(at(4)))
    await until(lambda: any(engine.num_open.values()))
    first.cancel()
    assert await session.complete(at(4, automatic=False)) is not None
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not any(engine.num_open.values())


async def test_error_of_the_host_is_shown_once_until_something_works() -> None:
    error = HostError("No room.", remedy="Free some.", code="out_of_memory")
    session, editor, engine = make()
    opened(session)
    await session.start()
    engine.failure = error
    for _ in range(3):
        answer = await session.complete(at(4))
        assert answer is not None
        assert answer.offers == ()
    assert editor.errors == ["No room. Free some."]
    assert editor.statuses[-1].state == "error"
    engine.failure = None
    assert (await session.complete(at(4))).offers  # type: ignore[union-attr]
    await until(lambda: editor.statuses[-1].state == "ready")
    engine.failure = error
    insert(session, 2, 0, "y")
    await session.complete(at(5))
    assert editor.errors == ["No room. Free some."] * 2


async def test_lost_host_is_brought_up_again_without_a_message_box() -> None:
    session, editor, engine = make()
    opened(session)
    await session.complete(at(4))
    ensured = engine.num_ensured
    insert(session, 2, 0, "y")
    engine.failure = HostError("It ended.", code="host_lost")
    await session.complete(at(5))
    engine.failure = None
    await until(lambda: engine.num_ensured > ensured and editor.statuses[-1].state == "ready")
    assert editor.errors == []
    await session.close()


async def test_other_engine_settings_mean_another_client() -> None:
    session, _, engine = make({"engine": {"threads": 1}})
    await session.start()
    assert engine.settings.engine.threads == 1
    await session.configure({"engine": {"threads": 1}, "mode": "ar"})
    assert not engine.is_closed
    await session.configure({"engine": {"threads": 2, "url": "http://box:1"}})
    assert engine.is_closed
    assert (engine.settings.engine.threads, engine.settings.url) == (2, "http://box:1")
    await session.close()


async def test_other_engine_settings_make_running_requests_out_of_date_and_others_do_not() -> None:
    for options, is_answered in (({"mode": "ar"}, True), ({"engine": {"threads": 3}}, False)):
        session, editor, engine = make()
        opened(session)
        asking = asyncio.create_task(session.complete(at(4)))
        await until(lambda running=engine: any(running.num_open.values()))
        await session.configure(options)
        assert (await asking is not None) == is_answered
        assert editor.errors == []
        await session.close()


async def test_restart_asks_this_machines_host_to_end() -> None:
    session, _, engine = make()
    await session.restart()
    assert engine.num_shutdowns == 1
    await session.close()


async def test_loading_is_told_until_it_is_over() -> None:
    loading = Health("loading", "Reading the model.")
    engine = Engine(healths=[loading, loading, Health("ready", "Ready.", {"checkpoint": "/m"})])
    session, editor, _ = make(engine=engine)
    await session.start()
    assert not session.is_ready
    await until(lambda: None in editor.loads)
    assert "Reading the model." in editor.loads
    assert session.is_ready
    assert (editor.statuses[-1].state, editor.statuses[-1].model) == ("ready", "/m")


async def test_host_that_cannot_load_is_an_error_with_its_reason() -> None:
    detail = {"code": "load_failed"}
    engine = Engine(healths=[Health("error", "config.json is missing. Copy it.", detail)])
    session, editor, _ = make(engine=engine)
    await session.start()
    await until(lambda: None in editor.loads)
    assert editor.errors == ["config.json is missing. Copy it."]
    assert editor.statuses[-1].state == "error"


async def test_one_problem_is_one_message_however_it_was_met() -> None:
    """The remedy is separate if the host cannot be brought up, and included in a refusal."""
    engine = Engine(failure=HostError("a is gone.", remedy="Get it.", code="load_failed"))
    session, editor, _ = make(engine=engine)
    opened(session)
    await session.complete(at(4))
    engine.failure = HostError("a is gone. Get it.", code="load_failed")
    await session.complete(at(4))
    assert editor.errors == ["a is gone. Get it."]
    await session.close()


async def test_a_model_that_was_removed_gives_way_to_what_the_settings_mean_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session, _, engine = make()
    opened(session)
    engine.failure = HostError("the file is gone.", code="load_failed")
    await session.complete(at(4))
    chosen = HostSettings(engine=EngineSettings(tmp_path / "another"))
    monkeypatch.setattr("dlm_lsp.session.session.to_host_settings", lambda settings: chosen)
    engine.failure = None
    answer = await session.complete(at(4))
    assert engine.settings == chosen
    assert answer is not None
    assert answer.offers
    await session.close()


async def test_offers_that_can_be_accepted_are_bounded() -> None:
    session, _, _ = make({"delay": 0})
    opened(session)
    ids = []
    for version in range(2, OFFERS_MAX + 4):
        insert(session, version, 0, "y")
        answer = await session.complete(at(4 + version - 1))
        assert answer is not None
        ids.append(answer.offers[0].id)
    assert len(set(ids)) == len(ids)
    assert not session.accepted(ids[0], "full")
    assert session.accepted(ids[-1], "full")


async def test_unknown_mode_or_setting_is_reported_once_and_ignored() -> None:
    session, editor, _ = make({"mode": "warp", "colour": 1})
    await session.configure({"mode": "warp", "colour": 1})
    assert session.settings.mode == "auto"
    assert len([log for log in editor.logs if "mode" in log]) == 1
    assert len([log for log in editor.logs if "colour" in log]) == 1
    await session.close()
