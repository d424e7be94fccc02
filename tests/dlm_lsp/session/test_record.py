"""What a session records, and that it goes by what was tuned."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.session.document import Change as Edited
from dlm_lsp.session.document import Document, Encoding, Position
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.record import TUNE_EVERY, recorded_name
from dlm_lsp.session.requests import Ask
from dlm_lsp.session.session import Session
from dlm_lsp.session.sureness import AUTO, UNSURE
from dlm_lsp.statistics.rows import Change, Row
from dlm_lsp.statistics.tuning import Tuned
from engine.config import EngineSettings
from tests.dlm_lsp.session.test_session import NEVER, Engine, Recorder
from tests.dlm_lsp.session.test_sureness import Writer

URI = "file:///a.py"
LINES = [("a", 0.9), (" + b\n", 0.5), ("c", 0.9)]  # The first line has 0.45, both 0.405.


@dataclass
class Kept:
    """A recorder that keeps what it is given."""

    found: Tuned | None = None
    items: list[Row | Change] = field(default_factory=list)
    asked: list[tuple[str, float]] = field(default_factory=list)
    is_closed: bool = False

    def put(self, item: Row | Change) -> None:
        self.items.append(item)

    def tune(self, model: str, default: float) -> None:
        self.asked.append((model, default))

    def tuned(self, model: str) -> Tuned | None:
        return self.found

    def close(self) -> None:
        self.is_closed = True


def opened(kept: Kept, host: Engine, **options: Any) -> Session:
    """A session with a model of the user's own, and a document with one line."""
    link = EngineLink(Recorder(), lambda settings: host)
    options = {
        "delay": 0,
        "syntax": False,
        "engine": {"url": "http://127.0.0.1:9"},
        **options,
    }
    session = Session(Recorder(), Encoding.UTF32, link, options, rest_seconds=NEVER, recorder=kept)
    session.open(Document(URI, "python", 1, "x = \n"))
    return session


async def asked(session: Session, character: int = 4, **values: Any) -> str | None:
    """Asks, and shows the answer as the server does; returns why nothing is shown."""
    answer = await session.complete(Ask(URI, Position(0, character), **values))
    assert answer is not None
    session.record.shown(answer)
    return answer.reason


async def test_the_probabilities_of_what_is_shown_are_recorded() -> None:
    kept = Kept()
    session = opened(kept, Writer(tokens=LINES))
    assert await asked(session) is None
    (row,) = kept.items
    assert isinstance(row, Row)
    assert row.line_probability == pytest.approx(0.45, abs=1e-4)
    assert row.probability == pytest.approx(0.405, abs=1e-4)
    assert (row.lines, row.characters, row.model) == (2, len("a + b\nc"), "remote")
    assert row.first_ms <= row.answer_ms
    await session.close()
    assert kept.is_closed


async def test_what_is_not_sent_is_not_shown() -> None:
    kept = Kept()
    session = opened(kept, Writer(tokens=LINES))
    await session.complete(Ask(URI, Position(0, 4)))
    assert kept.items == []
    await session.close()


@pytest.mark.parametrize(
    ("confidence", "tune", "is_shown"),
    [("auto", True, False), ("auto", False, True), (0.44, True, True)],
)
async def test_auto_goes_by_what_was_tuned_if_that_is_wanted(
    confidence: object, tune: bool, is_shown: bool
) -> None:
    kept = Kept(Tuned(shown=300, confidence=0.5, why="so"))
    statistics = {"tune": tune}
    silence = {"confidence": confidence}
    session = opened(kept, Writer(tokens=LINES), statistics=statistics, silence=silence)
    reason = await asked(session)
    assert (reason is None) == is_shown
    assert reason in (None, UNSURE)
    assert kept.asked == ([("remote", AUTO)] if tune else [])
    # By hand everything is shown.
    assert await asked(session, automatic=False) is None
    await session.close()


async def test_the_bundled_model_is_not_tuned() -> None:
    kept = Kept(Tuned(shown=300, confidence=0.5, why="so", stretch=1.5))
    session = opened(kept, Writer(tokens=LINES), engine={"checkpoint": "nano"})
    assert await asked(session) is None
    assert kept.asked == []
    assert session.record.stretch == 1.0
    await session.close()


async def test_the_delay_is_stretched_as_tuned() -> None:
    session = opened(Kept(Tuned(shown=300, confidence=0.4, why="so", stretch=1.5)), Engine())
    assert session.record.stretch == 1.5
    await session.close()


async def test_the_evidence_is_looked_at_now_and_then() -> None:
    kept = Kept()
    session = opened(kept, Writer(tokens=LINES))
    for number in range(2 * TUNE_EVERY):
        session.change(
            URI, 2 + number, [Edited(start=None, end=None, text=f"y{number} = 1\nx = \n")]
        )
        assert await asked(session) is None
    assert 2 <= len(kept.asked) <= 3
    await session.close()


async def test_what_is_switched_off_meanwhile_is_not_recorded() -> None:
    kept = Kept()
    session = opened(kept, Writer(tokens=LINES))
    await asked(session)
    count = len(kept.items)
    await session.configure(
        {"engine": {"url": "http://127.0.0.1:9"}, "statistics": {"enabled": False}}
    )
    session.change(URI, 2, [Edited(start=Position(0, 4), end=Position(0, 4), text="zzz")])
    await asked(session, 7)
    await asyncio.sleep(0)
    assert len(kept.items) == count
    await session.close()


def test_a_checkpoint_of_ones_own_is_recorded_without_its_path(tmp_path: Path) -> None:
    one = HostSettings(EngineSettings(checkpoint=tmp_path / "secret-project.gguf"))
    other = HostSettings(EngineSettings(checkpoint=tmp_path / "other.gguf"))
    assert recorded_name(one).startswith("own-")
    assert "secret" not in recorded_name(one)
    assert recorded_name(one) == recorded_name(one) != recorded_name(other)
    assert recorded_name(HostSettings()) == "nano"
    assert recorded_name(HostSettings(url="http://secret:8123")) == "remote"
