"""Typing replay in a real session, with hosts that answer rightly, with nothing or wrongly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dlm_lsp.client.answers import Health
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import (
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.evaluation.replay import Deaf, TypingScript, draw_scripts, replay
from dlm_lsp.evaluation.shown import ShownInFile, read, write
from dlm_lsp.session.engine_link import EngineLink
from engine.errors import ConfigError, EngineFailure
from engine.lab.evaluation.records import ReplayRecord

# All lines differ, so that a prefix determines its place in the file.
TEXT = "".join(
    f"def name_{n:02}(a, b=[{n}]):\n    value_{n:02} = call_{n:02}(a, 'b{n}')\n"
    f"    return value_{n:02} + {n}\n\n\n"
    for n in range(15)
)
SCRIPT = TypingScript("own/unique.py", TEXT, seed=3)
Answer = Callable[[str], str]


@dataclass
class Host:
    """A host that answers every prefix by a function of it."""

    answer: Answer
    failure: HostError | None = None
    bodies: list[GenerateBody] = field(default_factory=list)

    async def health(self) -> Health:
        return Health("ready", "Ready.", {})

    async def ensure(self) -> None:
        pass

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        if self.failure is not None:
            raise self.failure
        self.bodies.append(body)
        yield StartedEvent(mode="ar", marks=Marks(), usage=UsageBody())
        text = self.answer(body.prefix)
        yield FinishedEvent(
            text=text,
            finish_reason="end",
            confidence=1,
            logprobs=((len(text), math.log(0.25)),),
            mode="ar",
            usage=UsageBody(tokens=1, forwards=1),
        )

    async def shut_down(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def all_knowing(prefix: str) -> str:
    """Returns the rest of the only line that begins as the prefix ends; "" if there are several."""
    current = prefix.rpartition("\n")[2]
    found = [line for line in TEXT.split("\n") if line.startswith(current)]
    return found[0][len(current) :] if len(found) == 1 else ""


async def played(
    answer: Answer,
    keys_max: int = 150,
    failure: HostError | None = None,
    confidence: float = 0,
    keep: Callable[[ShownInFile], None] | None = None,
) -> tuple[ReplayRecord, Host]:
    host = Host(answer, failure)

    def make_link(editor: Deaf) -> EngineLink:
        def make_client(settings: HostSettings) -> Host:
            return host

        return EngineLink(editor, make_client)

    options: dict[str, object] = {"mode": "ar", "silence": {"confidence": confidence}}
    return await replay(SCRIPT, "ar", options, keys_max, make_link, keep), host


def check(record: ReplayRecord) -> None:
    assert record.right + record.partly + record.wrong + record.silent == record.asks > 0
    assert record.accepted <= record.right
    assert record.new_right <= record.new <= record.right + record.partly + record.wrong
    assert record.new_right <= record.right + record.partly
    assert record.unwanted <= record.elsewhere
    assert len(record.ms) >= record.asks + record.elsewhere


async def test_a_host_that_knows_the_line_is_right_and_saves_keys() -> None:
    record, _ = await played(all_knowing)
    check(record)
    assert record.wrong == record.partly == 0
    assert record.new == record.new_right > 3
    assert record.right > 3
    assert record.accepted > 3
    assert record.keys < record.keys_without
    assert record.unwanted == 0


async def test_a_silent_host_saves_nothing() -> None:
    record, _ = await played(lambda prefix: "")
    check(record)
    assert record.silent == record.asks
    assert record.keys == record.keys_without


async def test_nonsense_is_wrong_and_is_never_accepted() -> None:
    record, _ = await played(lambda prefix: "@@@@")
    check(record)
    assert record.wrong > 0
    assert record.wrong + record.silent == record.asks  # mostly it would not parse
    assert record.right == record.accepted == 0
    assert record.keys == record.keys_without
    assert record.new == record.wrong  # none of it is typed through
    assert record.new_right == 0


async def test_a_right_line_with_a_wrong_one_behind_it_is_partly_right() -> None:
    def answer(prefix: str) -> str:
        rest = all_knowing(prefix)
        return f"{rest}\n    nonsense()" if rest else ""

    record, _ = await played(answer)
    check(record)
    assert record.partly > 0
    assert record.right <= record.partly
    assert record.new == record.new_right < record.partly  # typed through, it counts once


async def test_the_same_script_is_played_the_same() -> None:
    first, one = await played(all_knowing, keys_max=60)
    second, other = await played(all_knowing, keys_max=60)
    assert [body.prefix for body in one.bodies] == [body.prefix for body in other.bodies]
    assert (first.keys, first.right, first.silent) == (second.keys, second.right, second.silent)
    assert {body.mode for body in one.bodies} == {"ar"}


async def test_a_failing_host_ends_the_replay_with_its_reason() -> None:
    with pytest.raises(EngineFailure, match="no model"):
        await played(all_knowing, failure=HostError("There is no model.", code="load_failed"))


def test_scripts_come_from_every_package_alike() -> None:
    files = [(f"one/{n}.py", TEXT) for n in range(9)] + [("two/a.py", TEXT), ("two/b.py", "short")]
    scripts = draw_scripts(files, 4, seed=1)
    assert scripts == draw_scripts(files, 4, seed=1)
    assert len(scripts) == 4
    assert "two/a.py" in [script.id for script in scripts]
    assert "two/b.py" not in [script.id for script in draw_scripts(files, 99, seed=1)]
    assert len(draw_scripts(files, 99, seed=1)) == 10
    assert draw_scripts([], 3, seed=1) == []


async def test_shown_suggestions_are_kept_with_their_verdicts_and_probabilities(
    tmp_path: Path,
) -> None:
    kept: list[ShownInFile] = []
    record, _ = await played(lambda prefix: all_knowing(prefix) or "@@", keep=kept.append)
    (file,) = kept
    counts = Counter(one.verdict for one in file.shown)
    found = record.right, record.partly, record.wrong, record.unwanted
    assert found == tuple(counts[name] for name in ("right", "partly", "wrong", "unwanted"))
    assert (file.asks, file.elsewhere) == (record.asks, record.elsewhere)
    for one in file.shown:
        assert one.logprobs == ((len(one.text), math.log(0.25)),)
        assert (one.same == len(one.text)) >= (one.verdict == "right")
    write(tmp_path, file)
    write(tmp_path, file)  # A file that was typed again counts once.
    assert read(tmp_path) == [replace(file, shown=tuple(file.shown))]


async def test_what_the_model_is_not_sure_of_is_silent_in_the_replay() -> None:
    shown, _ = await played(all_knowing, confidence=0.2)
    silent, _ = await played(all_knowing, confidence=0.3)
    assert shown.right > 0
    assert silent.silent == silent.asks
    assert silent.keys == silent.keys_without


def test_a_log_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--log-shown"):
        read(tmp_path)
    (tmp_path / "suggestions.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        read(tmp_path)
