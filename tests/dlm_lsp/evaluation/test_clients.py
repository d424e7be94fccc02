"""The figures of several typists on one engine."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any, cast

import pytest

from dlm_lsp.evaluation import clients
from dlm_lsp.evaluation.clients import Answers, ClientsSection, Crowd, table, write
from dlm_lsp.evaluation.latency.answers import Ours, Theirs
from dlm_lsp.evaluation.latency.editor import Editor
from engine.errors import ConfigError


class ScriptedEditor:
    """Answers every second key from what was shown already."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._numbers = itertools.count()

    def open(self, visit: Any) -> None:
        self.done.append("open")

    async def ask(self, cursor: int) -> Ours:
        return Ours(None, 900.0, 300)

    async def type(self, key: Any) -> Ours:
        number = next(self._numbers)
        return Ours(1.0, 10.0 + number, None if number % 2 else 4)

    async def close_file(self) -> None:
        self.done.append("close")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PAUSE", 0.0)


async def test_only_answers_of_the_engine_count_and_not_the_first_of_a_file() -> None:
    editor = ScriptedEditor()
    places = clients._of_typist(0, 0)
    found = await clients._type_ours(cast(Editor, editor), places, time.monotonic() + 2.0)
    assert found.milliseconds[:3] == (10.0, 12.0, 14.0)
    assert abs(found.typed_through - len(found.milliseconds)) <= 1
    assert editor.done[:3] == ["open", "close", "open"]


async def test_typists_ask_their_own_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: set[int] = set()

    def answer(address: str, text: str, cursor: int, slot: int) -> Theirs | None:
        slots.add(slot)
        return Theirs(5.0, 3, is_empty=False) if cursor % 2 else None

    monkeypatch.setattr(clients, "infill", answer)
    until = time.monotonic() + 1.0
    found = await clients._type_theirs("address", 3, clients._of_typist(3, 0), until)
    assert slots == {3}
    assert set(found.milliseconds) == {5.0}


def test_typists_begin_in_different_files() -> None:
    first, second = (next(clients._of_typist(number, 0)).name for number in (0, 1))
    assert first != second


def test_shares_and_rates() -> None:
    answers = Answers((3.0, 1.0, 2.0, 4.0), 2.0)
    assert (answers.share(50), answers.share(95), answers.rate) == (2.0, 4.0, 2.0)
    assert math.isnan(Answers((), 1.0).share(50))


def section(model: str = "m") -> ClientsSection:
    crowds = [
        Crowd(1, Answers((100.0, 200.0), 10.0), Answers((1000.0,), 10.0)),
        Crowd(4, Answers((200.0, 300.0, 400.0), 10.0), Answers((), 10.0)),
    ]
    return ClientsSection("cpu", model, 2, {"date": "today"}, crowds)


def test_the_table_compares_with_one_typist_and_with_llama_cpp() -> None:
    _, _, one, four = table(section())
    assert one == "| 1 | 2 | 100 / 200 | 1.0 | 0.20 | 1 | 1000 / 1000 | 0.10 | 2.0 |"
    assert four == "| 4 | 3 | 300 / 400 | 2.0 | 0.30 | 0 | nan / nan | 0.00 |  |"


def test_a_run_replaces_its_own_section_alone(tmp_path: Path) -> None:
    write(tmp_path, section("a"))
    write(tmp_path, section("b"))
    write(tmp_path, section("a"))
    text = (tmp_path / "clients.md").read_text("utf-8")
    assert text.count("\n## ") == 2
    assert "## b on cpu, 2 threads" in text
    (tmp_path / "clients.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        write(tmp_path, section("a"))
