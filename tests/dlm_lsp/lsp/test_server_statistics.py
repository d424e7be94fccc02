"""Statistics and the last requests, through a real server and real edits."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.lsp.commands import REQUESTS_MAX
from dlm_lsp.session import fates, request_log
from dlm_lsp.statistics.file import read
from dlm_lsp.statistics.rows import Known
from tests.dlm_lsp.campaign.wires import InProcess
from tests.dlm_lsp.lsp_client import INVOKED, URI, LspClient, LspError, started
from tests.dlm_lsp.scripted_host import ScriptedHost

SECRET = "Xyzzy7PlughSecret"
SUGGESTED = "a + b"
SECONDS_MAX = 60.0


def file_of(folder: Path) -> Path:
    return folder / "state" / "dlm-lsp" / "statistics.sqlite3"


def rows_of(folder: Path) -> list[Known]:
    return read(file_of(folder))


async def run(editor: LspClient, command: str, *arguments: Any) -> Any:
    params = {"command": command, "arguments": list(arguments)}
    return await editor.request("workspace/executeCommand", params)


def argument_of(item: Any) -> dict[str, Any]:
    (argument,) = item["command"]["arguments"]
    return argument


async def test_accepted_and_partly_and_dismissed_are_counted_through_edits(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    await editor.greet(scripted.url, delay=0)
    scripted.script = [SUGGESTED, "a - b", "b + a"]
    (item,) = await editor.inline(URI, 1, 11)
    editor.insert(URI, 2, 1, 11, SUGGESTED)
    await run(editor, "dlm.accepted", argument_of(item))
    editor.insert(URI, 3, 1, 16, "\n    return ")
    (item,) = await editor.inline(URI, 2, 11)
    editor.insert(URI, 4, 2, 11, "a ")
    await run(editor, "dlm.accepted", argument_of(item) | {"kind": "word", "length": 2})
    editor.insert(URI, 5, 2, 13, "\n    return ")
    await editor.inline(URI, 3, 11)
    editor.insert(URI, 6, 3, 11, "x")
    assert await editor.leave() == 0
    first, second, third = rows_of(tmp_path)
    assert [one.fate for one in (first, second, third)] == ["accepted", "partly", "dismissed"]
    assert (first.accepted, second.accepted, third.accepted) == (5, 2, 0)
    assert first.row.language == "python"
    assert (first.row.model, first.row.mode, first.row.source) == ("remote", "block", "engine")
    assert (first.row.automatic, first.row.lines, first.row.characters) == (True, 1, 5)
    assert first.kept is None, "nobody has waited"


async def test_typing_through_is_one_suggestion_and_a_request_by_hand_is_told_apart(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    await editor.greet(scripted.url, delay=0)
    scripted.script = [SUGGESTED]
    for number in range(4):
        (item,) = await editor.inline(URI, 1, 11 + number)
        assert item["insertText"] == SUGGESTED[number:]
        editor.insert(URI, 2 + number, 1, 11 + number, SUGGESTED[number])
    editor.insert(URI, 9, 1, 15, "\n    return ")
    scripted.script = ["a", "b", "c"]
    assert len(await editor.inline(URI, 2, 11, INVOKED)) == 3
    assert await editor.leave() == 0
    automatic, invoked = rows_of(tmp_path)
    assert automatic.row.automatic
    assert not invoked.row.automatic


async def test_what_is_switched_off_is_not_written(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    await editor.greet(scripted.url, delay=0, statistics={"enabled": False})
    scripted.script = [SUGGESTED]
    (item,) = await editor.inline(URI, 1, 11)
    await run(editor, "dlm.accepted", argument_of(item))
    assert await editor.leave() == 0
    assert not file_of(tmp_path).exists()


async def test_no_text_and_no_path_ever_gets_into_the_file(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    """Neither of the document, nor of the suggestion, nor of what the client calls things."""
    await editor.initialize({"engine": {"url": scripted.url}, "delay": 0})
    uri = f"file:///home/{SECRET}/{SECRET}.py"
    languages = ("python", f"/home/{SECRET}", f"{SECRET} {SECRET}")
    scripted.script = [f"{SECRET} + {number}\n    {SECRET}" for number in range(9)]
    for language in languages:
        editor.open(uri, f"{SECRET} = 1\nx = {SECRET} + \n", language=language)
        (item,) = await editor.inline(uri, 1, len(SECRET) + 7)
        editor.insert(uri, 2, 1, len(SECRET) + 7, item["insertText"])
        await run(editor, "dlm.accepted", argument_of(item))
        editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    told = json.dumps(await run(editor, "dlm.requests"))
    assert SECRET not in told.replace(json.dumps(languages[1]), "").replace(
        json.dumps(languages[2]), ""
    ), "the language is the client's own word"
    assert await editor.leave() == 0
    assert [one.fate for one in rows_of(tmp_path)] == ["accepted"] * 3
    assert {one.row.language for one in rows_of(tmp_path)} == {"python", "other"}
    files = [path for path in file_of(tmp_path).parent.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert SECRET.encode() not in path.read_bytes()
        assert b"file://" not in path.read_bytes()


@pytest.mark.parametrize("trouble", ["no folder", "damaged"])
async def test_trouble_with_the_file_disturbs_no_completion(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path, trouble: str
) -> None:
    path = file_of(tmp_path)
    if trouble == "no folder":
        path.parent.parent.mkdir(exist_ok=True)
        path.parent.write_text("in the way")
    else:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no database " * 1000)
    await editor.greet(scripted.url, delay=0)
    scripted.script = [SUGGESTED] * 3
    for number in range(3):
        (item,) = await editor.inline(URI, 1, 11)
        assert await run(editor, "dlm.accepted", argument_of(item)) == {"known": True}
        editor.change(URI, 2 + number, {"text": f"# {number}\nreturn     \n"})
    assert await editor.leave() == 0
    told = (tmp_path / "stderr.txt").read_text()
    if trouble == "damaged":
        assert "The statistics file was damaged" in told
        assert path.with_name("statistics.sqlite3.damaged").exists()
        assert len(rows_of(tmp_path)) == 3
    else:
        assert told.count("Statistics are not recorded for a while") == 1


class Inside:
    """A server in this process, whose clock a test can change, behind its bytes."""

    def __init__(self) -> None:
        self.wire = InProcess(random.Random(1))
        self.wire.on_message = self._hear
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._version = 1

    async def request(self, method: str, params: Any) -> Any:
        number = len(self._waiting) + 1
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "method": method, "params": params})
        async with asyncio.timeout(SECONDS_MAX):
            return await self._waiting[number]

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def change(self, line: int, start: int, end: int, text: str) -> None:
        self._version += 1
        place = {
            name: {"line": line, "character": at} for name, at in (("start", start), ("end", end))
        }
        self.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": URI, "version": self._version},
                "contentChanges": [{"range": place, "text": text}],
            },
        )

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.wire.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def _hear(self, message: dict[str, Any]) -> None:
        if "method" not in message and message["id"] in self._waiting:
            self._waiting[message["id"]].set_result(message.get("result"))


async def test_what_is_kept_is_counted_through_edits(
    scripted: ScriptedHost, monkeypatch: pytest.MonkeyPatch, private_runtime: Path
) -> None:
    calls: list[tuple[float, Callable[[], None]]] = []

    def later(seconds: float, call: Callable[[], None]) -> Any:
        calls.append((seconds, call))
        return asyncio.get_running_loop().call_later(1000, lambda: None)

    monkeypatch.setenv("XDG_CONFIG_HOME", str(private_runtime / "config"))
    editor = Inside()
    options = {"dlm": {"engine": {"url": scripted.url}, "delay": 0, "followUp": False}}
    capabilities = {"textDocument": {"inlineCompletion": {}}}
    await editor.request(
        "initialize",
        {
            "processId": os.getpid(),
            "rootUri": None,
            "capabilities": capabilities,
            "initializationOptions": options,
        },
    )
    editor.notify("initialized", {})
    item = {"uri": URI, "languageId": "python", "version": 1, "text": "x = \n"}
    editor.notify("textDocument/didOpen", {"textDocument": item})
    editor.wire.server.session.record._fates._later = later
    scripted.script = ["first + second"]
    params = {
        "textDocument": {"uri": URI},
        "position": {"line": 0, "character": 4},
        "context": {"triggerKind": 2},
    }
    (offered,) = await editor.request("textDocument/inlineCompletion", params)
    editor.change(0, 4, 4, "first + second")
    await editor.request("workspace/executeCommand", offered["command"])
    editor.change(0, 4, 9, "third")
    ((seconds, call),) = calls
    assert seconds == fates.KEPT_SECONDS
    call()
    await editor.request("shutdown", None)
    editor.notify("exit", None)
    assert await editor.wire.close() == 0
    (found,) = rows_of(private_runtime)
    assert (found.fate, found.accepted, found.kept) == ("accepted", 14, len(" + second"))


# The last requests


async def test_the_last_requests_are_told_with_figures_and_without_text(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, delay=0)
    scripted.script = [SUGGESTED, "", "a\n+ b", "b", "c"]
    await editor.inline(URI, 1, 11)
    await editor.inline(URI, 1, 11)
    editor.insert(URI, 2, 1, 11, "z")
    assert await editor.inline(URI, 1, 12) == []
    await editor.inline(URI, 1, 11, INVOKED)
    answer = await run(editor, "dlm.requests")
    invoked, silent, cached, first = answer["requests"]
    assert first.pop("time") <= invoked["time"]
    assert first.pop("firstMs") <= first.pop("answerMs")
    assert first == {
        "language": "python",
        "automatic": True,
        "mode": "block",
        "model": "remote",
        "outcome": "shown",
        "lines": 1,
        "characters": 5,
        "probability": None,
        "promptTokens": 10,
        "recomputedTokens": 10,
        "generatedTokens": 4,
        "tokensPerForward": 2.0,
        "source": "engine",
    }
    assert (cached["source"], cached["outcome"]) == ("cache", "shown")
    assert silent["outcome"] == "The model has nothing to add here."
    assert (silent["lines"], silent["characters"], silent["firstMs"]) == (0, 0, None)
    assert (invoked["automatic"], invoked["outcome"]) == (False, "shown")
    assert SUGGESTED not in json.dumps(answer)
    assert (await run(editor, "dlm.requests", {"limit": 1}))["requests"] == [invoked]


async def test_a_superseded_request_is_told_as_such(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, delay=0, syntax=False)
    asking = editor.ask_inline(URI, 1, 11)
    job = await scripted.job()
    job.start()
    scripted.script = ["x"]
    await editor.inline(URI, 0, 3)
    assert await editor.answer(asking) is None
    outcomes = [one["outcome"] for one in (await run(editor, "dlm.requests"))["requests"]]
    assert sorted(outcomes) == ["shown", "superseded"]


async def test_it_is_told_where_an_answer_comes_from(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True, delay=0, followUp=True)
    _, job = await started(editor, scripted, workDoneToken="one")
    job.draft("a", " + b░")
    await editor.seen("dlm/draft")
    editor.insert(URI, 2, 1, 11, "a +")
    second = editor.ask_inline(URI, 1, 14, workDoneToken="two")
    await editor.seen("dlm/draft", lambda draft: draft["token"] == "two")
    job.finish("a + b")
    assert await editor.answer(second)
    follow_up = await scripted.job()
    editor.insert(URI, 3, 1, 14, " b")
    third = editor.ask_inline(URI, 1, 16)
    await editor.round_trip()
    follow_up.start()
    follow_up.finish(" * 2")
    assert await editor.answer(third)
    assert await editor.inline(URI, 1, 16)
    requests = (await run(editor, "dlm.requests"))["requests"]
    assert [one["source"] for one in requests] == ["cache", "ahead", "taken over", "engine"]
    assert [one["outcome"] for one in requests] == ["shown", "shown", "shown", "superseded"]


@pytest.mark.parametrize("limit", [0, REQUESTS_MAX + 1, "3", True, 1.5, None])
async def test_a_wrong_number_of_requests_is_named(
    editor: LspClient, scripted: ScriptedHost, limit: Any
) -> None:
    await editor.greet(scripted.url)
    with pytest.raises(LspError, match=r"dlm\.requests: limit must be 1 to 50, or left out"):
        await run(editor, "dlm.requests", {"limit": limit})


async def test_no_more_requests_than_fifty_are_kept(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    assert REQUESTS_MAX == request_log.REQUESTS_MAX
    await editor.greet(scripted.url, delay=0)
    scripted.script = [SUGGESTED]
    for _ in range(REQUESTS_MAX + 3):
        await editor.inline(URI, 1, 11)
    requests = (await run(editor, "dlm.requests"))["requests"]
    assert len(requests) == REQUESTS_MAX
    assert {one["source"] for one in requests} == {"cache"}
