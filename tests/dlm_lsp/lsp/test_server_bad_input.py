"""Any bad input from client or disk gives a named error or a status, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import INVOKED, TEXT, URI, LspClient, LspError, started
from tests.dlm_lsp.scripted_host import ScriptedHost

REFUSED_PARSE, REFUSED_REQUEST, REFUSED_PARAMS = -32700, -32600, -32602


@pytest.fixture
async def ready(editor: LspClient, scripted: ScriptedHost) -> AsyncIterator[LspClient]:
    """A server with a document; after the test it must still complete, and end well."""
    await editor.greet(scripted.url)
    yield editor
    editor.open("file:///home/me/after.py", TEXT)
    scripted.script = ["a + b"]
    (item,) = await editor.inline("file:///home/me/after.py", 1, 11)
    assert item["insertText"] == "a + b"
    assert await editor.leave() == 0


def message(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


STATS = {"method": "workspace/executeCommand", "params": {"command": "dlm.stats"}}


# Framing and JSON


async def test_broken_json_is_a_parse_error(ready: LspClient) -> None:
    bodies = [
        b'{"jsonrpc": "2.0", "id": 1, "method":',
        b"",
        b"not json",
        b'{"jsonrpc": "2.0", "method": "x\xff\xfe"}',
        b"[" * 100_000,
    ]
    for number, body in enumerate(bodies, 1):
        ready.send_body(body)
        assert (await ready.refused(number))[-1]["code"] == REFUSED_PARSE, body[:50]


async def test_wrong_content_length_costs_only_its_own_message(ready: LspClient) -> None:
    body = message(method="$/nothing", params={"text": "x" * 50})
    ready.send_bytes(b"Content-Length: 20\r\n\r\n" + body)
    await ready.round_trip()
    assert {error["code"] for error in ready.refusals} == {REFUSED_PARSE}
    count = len(ready.refusals)
    ready.send_bytes(b"Content-Length: %d\r\n\r\n" % (len(body) + 9) + body)
    await ready.round_trip()
    assert len(ready.refusals) == count
    ready.send_body(message(id=77, **STATS) + b"}")
    await ready.round_trip()
    assert len(ready.refusals) == count + 1
    assert 77 in ready.answered


async def test_missing_or_senseless_length_is_reported_and_skipped(ready: LspClient) -> None:
    headers = [b"", b"Content-Type: x\r\n", b"Content-Length: many\r\n", b"Content-Length: -5\r\n"]
    for number, header in enumerate(headers, 1):
        ready.send_bytes(header + b"\r\n" + message(id=77, **STATS))
        await ready.round_trip()
        error = (await ready.refused(number))[-1]
        assert (error["code"], "header" in error["message"]) == (REFUSED_PARSE, True), header


async def test_batch_is_refused_as_lsp_has_none(ready: LspClient) -> None:
    ready.send([json.loads(message(id=77, **STATS)), json.loads(message(id=78, **STATS))])
    (error,) = await ready.refused(1)
    assert (error["code"], "atch" in error["message"]) == (REFUSED_REQUEST, True)


async def test_what_is_no_message_is_refused(ready: LspClient) -> None:
    values: list[Any] = [
        5,
        None,
        "text",
        {},
        {"jsonrpc": "1.0", "id": 3, "method": "shutdown"},
        {"jsonrpc": "2.0", "id": 3.5, "method": "shutdown"},
        {"jsonrpc": "2.0", "id": None, "method": "shutdown"},
        {"jsonrpc": "2.0", "id": [1], "method": "shutdown"},
        {"jsonrpc": "2.0", "id": True, "method": "shutdown"},
        {"jsonrpc": "2.0", "method": 5},
    ]
    for number, value in enumerate(values, 1):
        ready.send(value)
        assert (await ready.refused(number))[-1]["code"] == REFUSED_REQUEST, value


async def test_answers_to_nothing_are_dropped(ready: LspClient) -> None:
    ready.send({"jsonrpc": "2.0", "id": 99, "result": 5})
    ready.send({"jsonrpc": "2.0", "id": 99, "error": "broken"})
    ready.send({"jsonrpc": "2.0", "id": "x", "error": {"code": "a", "message": 5}})
    ready.send({"jsonrpc": "2.0"})
    await ready.round_trip()


# Methods and life cycle


async def test_unknown_methods(ready: LspClient) -> None:
    for method in ("textDocument/hover", "dlm/nothing", "$/thing", ""):
        with pytest.raises(LspError) as error:
            await ready.request(method, {})
        assert error.value.code == -32601
        assert method in error.value.message
        ready.notify(method, {})
    await ready.round_trip()
    assert ready.all_of("window/showMessage") == []


async def test_requests_before_initialize_and_after_shutdown_are_answered(
    editor: LspClient,
) -> None:
    editor.open(URI, TEXT)
    with pytest.raises(LspError) as error:
        await editor.inline(URI, 1, 11)
    assert error.value.code == -32002
    await editor.initialize()
    with pytest.raises(LspError) as error:
        await editor.initialize()
    assert error.value.code == REFUSED_REQUEST
    await editor.request("shutdown")
    editor.open(URI, TEXT)
    for method in ("shutdown", "textDocument/inlineCompletion"):
        with pytest.raises(LspError) as error:
            await editor.request(method)
        assert error.value.code == REFUSED_REQUEST
    editor.notify("exit", None)
    assert await editor.wait() == 0


async def test_id_of_a_running_request_cannot_be_used_again(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    asking, job = await started(ready, scripted)
    ready.ask("textDocument/codeAction", {}, id=asking)
    with pytest.raises(LspError) as error:
        await ready.answer(asking)
    assert error.value.code == REFUSED_REQUEST
    ready.expect(asking)
    job.finish("a + b")
    assert len(await ready.answer(asking)) == 1


# Parameters


async def test_parameters_that_do_not_fit_are_refused(ready: LspClient) -> None:
    place = {"line": 0, "character": 0}
    backwards = {"start": {"line": 1, "character": 0}, "end": place}
    fits = {"textDocument": {"uri": URI}, "position": place, "context": {"triggerKind": 2}}
    info = {"selectedCompletionInfo": {"range": backwards, "text": "x"}}
    wrong: list[Any] = [
        None,
        [],
        "text",
        {},
        {"textDocument": {"uri": URI}, "position": place},
        fits | {"textDocument": URI},
        fits | {"position": {}},
        fits | {"position": {"line": -1, "character": 0}},
        fits | {"position": {"line": 0, "character": 1 << 40}},
        fits | {"context": {"triggerKind": 17}},
        fits | {"context": {"triggerKind": 2, **info}},
    ]
    for params in wrong:
        with pytest.raises(LspError) as error:
            await ready.request("textDocument/inlineCompletion", params)
        assert error.value.code == REFUSED_PARAMS, params


async def test_position_beyond_the_text_means_its_end(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    for line, character, prefix in (
        (99, 0, TEXT),
        (1, 999, TEXT[:-1]),
        (0, 2**31 - 1, "def add(a, b):"),
    ):
        scripted.script = ["x", "y", "z"]
        await ready.inline(URI, line, character, INVOKED)
        assert scripted.bodies[-1].prefix == prefix


# Documents


async def test_unknown_document_is_null_and_reported_once(ready: LspClient) -> None:
    for _ in range(3):
        assert await ready.inline("file:///nowhere.py", 0, 0) is None
        ready.insert("file:///nowhere.py", 2, 0, 0, "x")
    ready.notify("textDocument/didClose", {"textDocument": {"uri": "file:///nowhere.py"}})
    await ready.round_trip()
    logs = [log["message"] for log in ready.all_of("window/logMessage")]
    assert len([log for log in logs if "nowhere.py" in log]) == 1


@pytest.mark.parametrize("how", ["version", "range", "shape"])
async def test_edit_that_cannot_be_right_silences_its_document_until_the_whole_text_comes(
    ready: LspClient, scripted: ScriptedHost, how: str
) -> None:
    ready.insert(URI, 5, 1, 11, "a")
    if how == "version":
        ready.insert(URI, 3, 1, 11, "b")
    elif how == "range":
        start, end = {"line": 1, "character": 0}, {"line": 0, "character": 0}
        ready.change(URI, 6, {"range": {"start": start, "end": end}, "text": ""})
    else:
        document = {"textDocument": {"uri": URI}, "contentChanges": 5}
        ready.notify("textDocument/didChange", document)
    assert await ready.inline(URI, 1, 12) is None
    ready.insert(URI, 7, 0, 0, "c")
    assert await ready.inline(URI, 1, 12) is None
    logs = [log["message"] for log in ready.all_of("window/logMessage")]
    assert len([log for log in logs if URI in log]) == 1
    assert scripted.bodies == []
    ready.change(URI, 8, {"text": "x = "})
    scripted.script = ["1"]
    assert len(await ready.inline(URI, 0, 4)) == 1
    assert scripted.bodies[0].prefix == "x = "


async def test_lost_document_makes_its_running_request_null(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    asking, job = await started(ready, scripted)
    ready.insert(URI, 0, 0, 0, "x")
    assert await ready.answer(asking) is None
    await job.cancelled()


async def test_closed_document_makes_its_running_request_null(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    asking, job = await started(ready, scripted)
    ready.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert await ready.answer(asking) is None
    await job.cancelled()


async def test_binary_document_is_silent(ready: LspClient, scripted: ScriptedHost) -> None:
    ready.open(URI, "\x7fELF" + "\0\1\2\3" * 500, 2)
    assert await ready.inline(URI, 0, 10, INVOKED) == []
    assert scripted.bodies == []


async def test_lone_surrogates_do_no_harm(ready: LspClient, scripted: ScriptedHost) -> None:
    ready.open(URI, "s = '\ud800'\nx = ", 2)
    scripted.script = ["1"]
    assert len(await ready.inline(URI, 1, 4)) == 1
    assert scripted.bodies[0].prefix == "s = '\ufffd'\nx = "


async def test_document_of_100_mb_is_refused_by_name_and_does_no_harm(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    ready.open(URI, ("x" * 99 + "\n") * 1_000_000, 2)
    ready.insert(URI, 3, 0, 0, "y")
    assert await ready.inline(URI, 0, 1) is None
    log = await ready.seen("window/logMessage", lambda log: URI in log["message"])
    assert "100000000 characters" in log["message"]
    assert scripted.bodies == []


async def test_document_beyond_the_setting_is_silent(
    ready: LspClient, scripted: ScriptedHost
) -> None:
    ready.open(URI, "x = 1\n" * 1_000_000, 2)
    assert await ready.inline(URI, 5, 1) == []
    assert scripted.bodies == []


@pytest.mark.parametrize("options", [5, [1], "x", {"dlm": 7}, {"dlm": {"limits": [1]}}])
async def test_settings_of_the_wrong_shape_are_reported_and_defaults_hold(
    editor: LspClient, options: Any
) -> None:
    await editor.initialize(initializationOptions=options)
    await editor.round_trip()
    assert await editor.seen("window/logMessage")
    assert await editor.leave() == 0
