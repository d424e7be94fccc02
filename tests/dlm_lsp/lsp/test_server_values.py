"""Values of a wrong type are refused instead of converted, and an answer is judged when it is sent.

The campaigns of `tests/dlm_lsp/campaign` have found each of these.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.campaign.wires import InProcess, Peer
from tests.dlm_lsp.lsp_client import INVOKED, TEXT, URI, LspClient, lsp_client
from tests.dlm_lsp.scripted_host import ScriptedHost

PLACE = {"line": 0, "character": 0}


@pytest.mark.parametrize("text", [None, 3, True, ["x"], {"text": "x"}])
async def test_a_text_that_is_none_is_never_put_into_a_document(
    plain: LspClient, scripted: ScriptedHost, text: Any
) -> None:
    """`str(None)` is a text, too; the editor's document would not hold it."""
    plain.open(URI, TEXT)
    plain.change(URI, 2, {"range": {"start": PLACE, "end": PLACE}, "text": text})
    assert await plain.inline(URI, 1, 11) is None
    plain.change(URI, 3, {"text": text})
    assert await plain.inline(URI, 1, 11) is None
    plain.open("file:///w/other.py", text)
    assert await plain.inline("file:///w/other.py", 1, 11, INVOKED) is None
    assert not scripted.bodies
    plain.change(URI, 4, {"text": TEXT})
    assert await plain.inline(URI, 1, 11)


@pytest.mark.parametrize("line", ["1", True, 1.5, None])
async def test_a_number_that_is_none_is_no_position(plain: LspClient, line: Any) -> None:
    plain.open(URI, TEXT)
    place = {"line": line, "character": 0}
    plain.change(URI, 2, {"range": {"start": place, "end": place}, "text": "x"})
    assert await plain.inline(URI, 1, 11) is None


async def test_whole_numbers_may_be_written_with_a_fraction_and_nulls_for_what_is_left_out(
    plain: LspClient,
) -> None:
    """JSON libraries of Lua and of C# do so."""
    plain.open(URI, "def add(a, b):\n")
    place = {"line": 1.0, "character": 0.0}
    change = {"range": {"start": place, "end": place}, "rangeLength": None, "text": "    return \n"}
    plain.change(URI, 2, change)
    assert await plain.inline(URI, 1, 11)
    plain.change(URI, 3, {"range": None, "rangeLength": None, "text": TEXT})
    assert await plain.inline(URI, 1, 11)


@pytest.mark.parametrize("info", [{"name": 3}, {"name": "x", "version": 12}, "Neovim", [], {}])
async def test_a_client_s_name_of_a_wrong_type_does_not_cost_the_connection(
    editor: LspClient, info: Any
) -> None:
    assert (await editor.initialize(clientInfo=info))["capabilities"]


@pytest.mark.parametrize("number", [[1], {"a": 1}, None, 1.5])
async def test_a_message_behind_a_senseless_one_is_handled_at_once(
    plain: LspClient, number: Any
) -> None:
    """Both come in one piece, as editors write them."""
    broken = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": number}}
    params = {"command": "dlm.stats"}
    asked = {"jsonrpc": "2.0", "id": 99, "method": "workspace/executeCommand", "params": params}
    bodies = [json.dumps(one).encode() for one in (broken, asked)]
    plain.expect(99)
    plain.send_bytes(b"".join(b"Content-Length: %d\r\n\r\n" % len(b) + b for b in bodies))
    assert await plain.answer(99)


async def test_what_the_client_is_told_is_no_error_of_the_log(
    scripted: ScriptedHost, tmp_path: Path
) -> None:
    """Editors show every line of stderr as an error."""
    async with lsp_client(tmp_path) as editor:
        await editor.greet(scripted.url)
        fields = {"uri": URI, "position": {"line": 1, "character": 11}}
        params = {"command": "dlm.fill", "arguments": [fields]}
        first = editor.ask("workspace/executeCommand", params)
        job = await scripted.job()
        editor.insert(URI, 2, 0, 0, "# x\n")
        await editor.round_trip()
        job.start()
        job.finish("a + b")
        for asked in (first, editor.ask("workspace/executeCommand", {"command": "dlm.nothing"})):
            with pytest.raises(Exception, match=r"came between|no command"):
                await editor.answer(asked)
        assert await editor.leave() == 0
    assert (tmp_path / "stderr.txt").read_text() == ""


async def test_a_session_of_an_editor_logs_nothing_while_nothing_is_wrong(
    scripted: ScriptedHost, tmp_path: Path
) -> None:
    """Cancels that cross the answer, silent documents, edits meanwhile, and leaving at work."""
    async with lsp_client(tmp_path) as editor:
        await editor.greet(scripted.url, silence={"languages": ["go"]})
        scripted.script = ["a + b"] * 9
        assert await editor.inline(URI, 1, 11)
        for number in (1, 2, 77, "x"):
            editor.notify("$/cancelRequest", {"id": number})
        editor.open("file:///w/.env", "KEY=x\n", language="dotenv")
        editor.open("file:///w/a.go", "package a\n", language="go")
        for uri in ("file:///w/.env", "file:///w/a.go", "file:///w/never opened.py"):
            await editor.inline(uri, 0, 1)
        editor.notify("$/setTrace", {"value": "off"})
        editor.notify("textDocument/didSave", {"textDocument": {"uri": URI}})
        editor.notify("textDocument/didClose", {"textDocument": {"uri": "file:///w/a.go"}})
        scripted.script = []
        asked = editor.ask_inline(URI, 1, 4)
        await scripted.job()
        editor.insert(URI, 2, 0, 0, "x")
        editor.notify("$/cancelRequest", {"id": asked})
        editor.ask_inline(URI, 1, 4)
        await scripted.job()
        assert await editor.leave() == 0
    lines = (tmp_path / "stderr.txt").read_text().splitlines()
    assert len(lines) == 1, lines
    assert "never opened" in lines[0]  # That is the editor's fault, and worth a line.


@pytest.mark.parametrize("between", ["edit", "close", "silence", "toggle"])
@pytest.mark.parametrize("is_popup", [False, True])
async def test_an_answer_is_judged_when_it_is_sent(
    scripted: ScriptedHost, tmp_path: Path, between: str, is_popup: bool
) -> None:
    """What is handled between the end of a request and its answer counts for the answer."""
    wire = InProcess(random.Random(0))
    peer = Peer(wire)
    text_document = {} if is_popup else {"inlineCompletion": {}}
    options = {"engine": {"url": scripted.url}, "followUp": False}
    params = {"capabilities": {"textDocument": text_document}, "processId": None, "rootUri": None}
    await peer.request("initialize", {**params, "initializationOptions": options})
    peer.notify("initialized", {})
    uri = (tmp_path / "a.py").as_uri()
    item = {"uri": uri, "languageId": "python", "version": 1, "text": TEXT}
    peer.notify("textDocument/didOpen", {"textDocument": item})
    while not wire.server.session.is_ready:
        await asyncio.sleep(0.01)
    session = wire.server.session
    complete = session.complete

    def act() -> None:
        if between == "edit":
            change = {"range": {"start": PLACE, "end": PLACE}, "text": "x"}
            named = {"uri": uri, "version": 2}
            peer.notify(
                "textDocument/didChange", {"textDocument": named, "contentChanges": [change]}
            )
        elif between == "close":
            peer.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        elif between == "silence":
            (tmp_path / "dlm-lsp.toml").write_text('silence.languages = ["python"]\n')
            peer.notify("workspace/didChangeWatchedFiles", {"changes": []})
        else:
            session.switches.toggle(uri)

    async def complete_and_act(ask: Any) -> Any:
        answer = await complete(ask)
        assert answer is not None
        assert answer.offers
        asyncio.get_running_loop().call_soon(act)
        return answer

    session.complete = complete_and_act  # type: ignore[method-assign]
    scripted.script = ["a + b", "a - b", "a"]
    method = f"textDocument/{'completion' if is_popup else 'inlineCompletion'}"
    place = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 11}}
    answer = await peer.request(method, {**place, "context": {"triggerKind": 1}})
    assert answer["result"] == ({"isIncomplete": True, "items": []} if is_popup else None)
    await peer.request("shutdown")
    peer.notify("exit", None)
    assert await wire.close() == 0
