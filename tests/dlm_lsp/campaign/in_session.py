"""A campaign against a session: random documents, edits, requests, settings and failures.

An editor of its own keeps every text in UTF-16 units, as editors do, and checks after each event
that the session's text is the same. The engine is scripted, and checks that nothing of a silenced
document reaches it. `over_lsp.py` does the same over LSP's bytes.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

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
from dlm_lsp.session.requests import Answer, Ask, DraftNotice, RefinementNotice, Status
from dlm_lsp.session.session import Session
from tests.dlm_lsp.campaign.played import Played, resident
from tests.dlm_lsp.campaign.texts import (
    LANGUAGES,
    outside_line_end,
    place,
    random_pieces,
    random_text,
)

SETTINGS = ["", '[silence]\nlanguages = ["LANGUAGE"]\n', "[silence\n", '[silence]\nglobs = ["*"]\n']


@dataclass
class Buffer:
    """A document as the editor has it; `is_quiet` says whether its text may not be sent."""

    uri: str
    language: str
    folder: Path
    text: str
    version: int = 1
    is_quiet: bool = False
    is_off: bool = False


class Silent:
    """An editor that shows nothing."""

    def draft(self, notice: DraftNotice) -> None: ...

    def refinement(self, notice: RefinementNotice) -> None: ...
    def status(self, status: Status) -> None: ...
    def log(self, message: str) -> None: ...
    def show_error(self, message: str) -> None: ...
    def loading(self, message: str | None) -> None: ...


@dataclass
class Engine:
    """A host that writes random text, and fails while `is_dead`."""

    rng: random.Random
    buffers: dict[str, Buffer] = field(default_factory=dict)
    is_dead: bool = False
    num_open: int = 0
    num_asked: int = 0
    num_warmed: int = 0

    async def health(self) -> Health:
        return Health("absent", "Gone.", {}) if self.is_dead else Health("ready", "Ready.", {})

    async def ensure(self) -> None:
        await asyncio.sleep(0)
        self._check_alive()

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        buffer = self.buffers[body.document]
        assert not buffer.is_quiet, f"{buffer.uri} is silenced, but its text was sent"
        assert not buffer.is_off, f"{buffer.uri} is switched off, but its text was sent"
        self.num_asked += 1
        self.num_warmed += body.limits.tokens_max == 0
        self.num_open += 1
        try:
            await asyncio.sleep(0)
            self._check_alive()
            yield StartedEvent(mode="ar", marks=Marks(), usage=UsageBody())
            text = random_pieces(self.rng, self.rng.randrange(12))
            text += body.suffix[: self.rng.randrange(20)] if self.rng.random() < 0.5 else ""
            for end in range(0, len(text), 3):
                await asyncio.sleep(0)
                self._check_alive()
                yield DraftEvent(
                    sequence=end + 1,
                    committed=text[:end],
                    draft=text[end:],
                    spans=(),
                    usage=UsageBody(),
                )
            yield FinishedEvent(
                text=text, finish_reason="end", confidence=1, mode="ar", usage=UsageBody()
            )
        finally:
            self.num_open -= 1

    def _check_alive(self) -> None:
        if self.is_dead:
            raise HostError("The host was killed.", code="host_lost")

    async def shut_down(self) -> bool:
        return True

    async def close(self) -> None: ...


class Campaign:
    """One editor with a session. Events are drawn by a seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.engine = Engine(random.Random(seed + 1))
        self.counts: Counter[str] = Counter()
        link = EngineLink(Silent(), self._host)
        options = {"delay": 0, "drafts": True, "silence": {"automatic": True}}
        self.session = Session(Silent(), Encoding.UTF16, link, options, rest_seconds=0)
        self.resident_bytes: list[int] = []
        self._folder = folder
        self._asked: list[asyncio.Task[Answer | None]] = []
        self._last: list[tuple[str, Answer]] = []

    def _host(self, settings: HostSettings) -> Engine:
        return self.engine

    async def run(self, events: int) -> None:
        """Plays events, then waits for all that is in flight and closes the session."""
        kinds = {self.edit: 40, self.ask: 30, self.rest: 12, self.cancel: 4, self.whole: 3}
        kinds |= {self.look: 4}
        kinds |= {
            self.reopen: 3,
            self.set: 3,
            self.switch: 2,
            self.kill: 1,
            self.start_host: 4,
            self.accept: 6,
        }
        for number, language in enumerate(LANGUAGES):
            self._open(number, language)
        for number in range(events):
            (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
            self.counts[kind.__name__] += 1
            await kind()
            self._check_texts()
            if number % max(1, events // 200) == 0:
                self.resident_bytes.append(resident(os.getpid()))
        results = await asyncio.gather(*self._asked, return_exceptions=True)
        self._check_results(results)
        await self.session.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.engine.num_open == 0, "a stream is open that nobody waits for"

    def _open(self, number: int, language: str) -> None:
        folder = self._folder / f"{number}"
        folder.mkdir(exist_ok=True)
        uri = (folder / f"file{LANGUAGES[language][0]}").as_uri()
        old = self.engine.buffers.get(uri)
        buffer = Buffer(uri, language, folder, random_text(self.rng, language))
        if old is not None:
            buffer.is_quiet, buffer.is_off = old.is_quiet, old.is_off
        self.engine.buffers[uri] = buffer
        self.session.open(Document(uri, language, buffer.version, buffer.text))

    def _buffer(self) -> Buffer:
        return self.rng.choice(list(self.engine.buffers.values()))

    def _check_texts(self) -> None:
        for buffer in self.engine.buffers.values():
            document = self.session.documents.get(buffer.uri)
            assert document is not None, buffer.uri
            assert document.text == buffer.text, f"{buffer.uri} differs from the editor's text"

    def _check_results(self, results: list[Answer | BaseException | None]) -> None:
        for result in results:
            assert isinstance(result, Answer | asyncio.CancelledError | None), result
            self.counts["answered" if isinstance(result, Answer) else "out of date"] += 1

    # Events.

    async def edit(self) -> None:
        buffer = self._buffer()
        start = self.rng.randrange(len(buffer.text) + 1)
        end = min(len(buffer.text), start + self.rng.choice((0, 0, 0, 1, 2, 9, 200)))
        new = random_pieces(self.rng, self.rng.choice((0, 1, 1, 1, 3)))
        self._replace(buffer, start, end, new)

    def _replace(self, buffer: Buffer, start: int, end: int, new: str) -> None:
        start, end = outside_line_end(buffer.text, start), outside_line_end(buffer.text, end)
        change = Change(position(buffer.text, start), position(buffer.text, end), new)
        buffer.version += 1
        buffer.text = buffer.text[:start] + new + buffer.text[end:]
        self.session.change(buffer.uri, buffer.version, [change])

    async def whole(self) -> None:
        buffer = self._buffer()
        buffer.text = random_text(self.rng, buffer.language)
        buffer.version += 1
        self.session.change(buffer.uri, buffer.version, [Change(None, None, buffer.text)])

    async def reopen(self) -> None:
        number = self.rng.randrange(len(LANGUAGES))
        language = list(LANGUAGES)[number]
        self.session.close_document(list(self.engine.buffers)[number])
        self._open(number, language)

    async def ask(self) -> None:
        buffer = self._buffer()
        at = outside_line_end(buffer.text, self.rng.randrange(len(buffer.text) + 1))
        automatic = self.rng.random() < 0.8
        ask = Ask(buffer.uri, position(buffer.text, at), automatic, 1 if automatic else 3, token=at)
        self._asked.append(asyncio.create_task(self._checked(ask)))
        await asyncio.sleep(0)
        if len(self._asked) > 500:
            done = [task for task in self._asked if task.done()]
            self._asked = [task for task in self._asked if not task.done()]
            self._check_results(await asyncio.gather(*done, return_exceptions=True))

    async def _checked(self, ask: Ask) -> Answer | None:
        answer = await self.session.complete(ask)
        if answer is None:
            return None
        buffer = self.engine.buffers[ask.uri]  # It may have been opened again meanwhile.
        assert answer.document.text == buffer.text, "an answer for a text that is no more"
        assert len(answer.offers) <= ask.count
        for offer in answer.offers:
            assert 0 <= offer.start <= offer.end <= len(buffer.text)
            is_silenced = buffer.is_quiet or buffer.is_off
            assert not is_silenced, "a silenced document got a suggestion"
        if answer.offers:
            self._last = [(ask.uri, answer)]
        return answer

    async def accept(self) -> None:
        for uri, answer in self._last:
            buffer = self.engine.buffers[uri]
            if answer.document.text == buffer.text:
                offer = answer.offers[0]
                self._replace(buffer, offer.start, offer.end, offer.text)
                self.session.accepted(offer.id, "full")
        self._last = []

    async def rest(self) -> None:
        for _ in range(self.rng.randrange(30)):
            await asyncio.sleep(0)

    async def look(self) -> None:
        buffer = self._buffer()
        at = outside_line_end(buffer.text, self.rng.randrange(len(buffer.text) + 1))
        self.session.rest_at(buffer.uri, position(buffer.text, at))
        await self.rest()

    async def cancel(self) -> None:
        if self._asked:
            self.rng.choice(self._asked).cancel()

    async def set(self) -> None:
        """Writes a settings or ignore file, which the editor tells of."""
        buffer = self._buffer()
        content = self.rng.choice(["", "", "", *SETTINGS])
        ignored = self.rng.choice(["", "", "file*\n"])
        (buffer.folder / "dlm-lsp.toml").write_text(content.replace("LANGUAGE", buffer.language))
        (buffer.folder / ".dlmignore").write_text(ignored)
        self.session.files_changed()
        buffer.is_quiet = bool(content or ignored)

    async def switch(self) -> None:
        buffer = self._buffer()
        buffer.is_off = not self.session.switches.toggle(buffer.uri)

    async def kill(self) -> None:
        self.engine.is_dead = True

    async def start_host(self) -> None:
        self.engine.is_dead = False


def position(text: str, offset: int) -> Position:
    return Position(*place(text, offset))


async def play(events: int, seed: int) -> Played:
    """Runs a campaign in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), seed)
        began = time.monotonic()
        await campaign.run(events)
        engine = campaign.engine
        sent = Counter(requests_sent=engine.num_asked, prompts_warmed=engine.num_warmed)
        ahead: dict = campaign.session.stats()["counts"]  # type: ignore[assignment]
        counts = campaign.counts + sent + Counter(follow_ups=ahead.get("follow_ups", 0))
        return Played(events, time.monotonic() - began, counts, campaign.resident_bytes)
