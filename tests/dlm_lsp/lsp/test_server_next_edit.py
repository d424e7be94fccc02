"""`dlm.nextEdit` over a real server process, with a scripted engine host."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import URI, LspClient, LspError, insertion
from tests.dlm_lsp.scripted_host import ScriptedHost

TEXT = (
    "def f(vs):\r\n    total = 0  # 😀\r\n    for v in vs:\r\n        total += v\r\n"
    "    return total\r\n"
)
LOOP = {"start": {"line": 3, "character": 0}, "end": {"line": 3, "character": 18}}
RETURN = {"start": {"line": 4, "character": 0}, "end": {"line": 4, "character": 16}}
HERE = {"line": 1, "character": 10}


def asked(editor: LspClient, **fields: Any) -> int | str:
    """Sends the command for the cursor; returns the request's id."""
    argument = {"textDocument": {"uri": URI, "version": 2}, "position": HERE, "token": "n"}
    return editor.ask(
        "workspace/executeCommand",
        {"command": "dlm.nextEdit", "arguments": [{**argument, **fields}]},
    )


async def ready(editor: LspClient, scripted: ScriptedHost, **options: Any) -> None:
    """Opens the document and gives the total another name where it is bound."""
    workspace = {"applyEdit": True, "workspaceEdit": {"documentChanges": True}}
    await editor.greet(scripted.url, capabilities={"workspace": workspace}, **options)
    editor.open(URI, TEXT)
    word = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 9}}
    editor.change(URI, 2, {"range": word, "text": "amount"})


async def score(scripted: ScriptedHost, *values: float) -> list[str]:
    """Answers as many requests for the score of a text; returns the texts."""
    given: list[str] = []
    for value in values:
        job = await scripted.job()
        given.append(job.body.given)
        job.start()
        job.score((len(job.body.given), value))
    return given


async def test_the_next_place_is_answered_as_an_edit_of_its_line(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    asking = asked(editor)
    old, new, without = await score(scripted, -20.0, -10.0, -15.0)
    assert old == "        total += v\r\n    return total"
    assert new == "        amount += v\r\n    return amount"
    assert without == "        total += v\r\n    return amount"
    answer = await editor.answer(asking)
    assert (answer["applied"], answer["reason"]) == (False, None)
    assert (answer["range"], answer["text"]) == (LOOP, "        amount += v")
    (change,) = answer["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": URI, "version": 2}
    assert change["edits"] == [{"range": LOOP, "newText": "        amount += v"}]


async def test_asked_again_it_is_another_place_until_there_is_none(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    for place in (LOOP, RETURN, LOOP):
        asking = asked(editor)
        await score(scripted, -20.0, -10.0, -15.0)
        answer = await editor.answer(asking)
        assert answer["range"] == place
        if place == RETURN:
            asking = asked(editor)
            await score(scripted, -20.0, -10.0)
            answer = await editor.answer(asking)
            assert (answer["edit"], answer["range"], answer["text"]) == (None, None, None)
            assert "begins again" in answer["reason"]


async def test_a_client_without_drafts_is_asked_to_apply_the_edit(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted)
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    asking = asked(editor)
    await score(scripted, -20.0, -10.0, -15.0)
    assert (await editor.answer(asking))["applied"] is True
    params = await editor.asked("workspace/applyEdit")
    assert params["label"] == "Next edit"
    (change,) = params["edit"]["documentChanges"]
    assert change["edits"][0]["newText"] == "        amount += v"


async def test_before_any_change_there_is_none_and_no_engine_is_asked(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    editor.open(URI, TEXT)
    answer = await editor.answer(asked(editor, textDocument={"uri": URI}))
    assert (answer["edit"], answer["applied"]) == (None, False)
    assert "Change something first" in answer["reason"]
    assert answer["reason"] in (await editor.seen("window/showMessage"))["message"]
    assert scripted.bodies == []


async def test_a_document_that_is_opened_anew_has_no_changes(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    editor.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    editor.open(URI, TEXT)
    answer = await editor.answer(asked(editor, textDocument={"uri": URI}))
    assert "Change something first" in answer["reason"]


async def test_a_document_that_was_out_of_step_has_no_changes(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """What is known of its last changes lies elsewhere in the text that is sent then."""
    await ready(editor, scripted, drafts=True)
    unreadable = {"textDocument": {"uri": URI, "version": 3}, "contentChanges": [{"range": 1}]}
    editor.notify("textDocument/didChange", unreadable)
    editor.change(URI, 4, {"text": "# The mean.\r\n" + TEXT})
    answer = await editor.answer(asked(editor, textDocument={"uri": URI}))
    assert "Change something first" in answer["reason"]


async def test_half_of_a_character_is_read_as_another(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    editor.change(URI, 3, insertion(3, 18, " # \ud83d"))
    asking = asked(editor, textDocument={"uri": URI})
    old, *_ = await score(scripted, -20.0, -10.0, -15.0)
    assert old == "        total += v # \ufffd\r\n    return total"
    assert (await editor.answer(asking))["text"] == "        amount += v # \ud83d"


async def test_an_edit_meanwhile_ends_it(editor: LspClient, scripted: ScriptedHost) -> None:
    await ready(editor, scripted)
    asking = asked(editor)
    job = await scripted.job()
    job.start()
    editor.change(URI, 3, insertion(4, 0, "x"))
    await job.cancelled()
    with pytest.raises(LspError, match="came between") as error:
        await editor.answer(asking)
    assert error.value.code == -32801


async def test_it_is_cancelled_by_its_token_and_by_the_next_request(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    asking = asked(editor)
    job = await scripted.job()
    cancel = {"command": "dlm.cancel", "arguments": [{"token": "n"}]}
    assert await editor.request("workspace/executeCommand", cancel) == {"cancelled": True}
    with pytest.raises(LspError):
        await editor.answer(asking)
    await job.cancelled()
    first, job = asked(editor), await scripted.job()
    second = asked(editor)
    with pytest.raises(LspError):
        await editor.answer(first)
    await job.cancelled()
    await score(scripted, -20.0, -10.0, -15.0)
    assert (await editor.answer(second))["range"] == LOOP, "what was cancelled was not offered"


async def test_wrong_arguments_are_named(editor: LspClient, scripted: ScriptedHost) -> None:
    await ready(editor, scripted)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"textDocument": {}}, "textDocument.uri"),
        ({"textDocument": URI}, "textDocument"),
        ({"position": None}, "position"),
        ({"position": {"line": -1, "character": 0}}, "position"),
        ({"position": {"line": 1}}, "position"),
        ({"token": [1]}, "token"),
        ({"textDocument": {"uri": "file:///nowhere.py"}}, "not open"),
    ]
    for fields, named in wrong:
        with pytest.raises(LspError, match=named) as error:
            await editor.answer(asked(editor, **fields))
        assert error.value.code == -32602
    with pytest.raises(LspError, match="version is 1") as error:
        await editor.answer(asked(editor, textDocument={"uri": URI, "version": 1}))
    assert error.value.code == -32801
    assert scripted.bodies == []


async def test_a_secret_document_reaches_no_engine(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted)
    uri = "file:///w/.env"
    editor.open(uri, "KEY=secret\nTOKEN=secret\n")
    word = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 10}}
    editor.change(uri, 2, {"range": word, "text": "other"})
    answer = await editor.answer(asked(editor, textDocument={"uri": uri}))
    assert "secrets" in answer["reason"]
    assert scripted.bodies == []


async def test_after_a_change_the_cursor_has_its_code_action(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    workspace = {"applyEdit": True, "workspaceEdit": {"documentChanges": True}}
    await editor.greet(scripted.url, capabilities={"workspace": workspace})
    editor.open(URI, TEXT)
    place = {"start": HERE, "end": HERE}
    params = {"textDocument": {"uri": URI}, "range": place, "context": {"diagnostics": []}}
    titles = [one["title"] for one in await editor.request("textDocument/codeAction", params)]
    assert titles == ["Fill here"]
    word = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 9}}
    editor.change(URI, 2, {"range": word, "text": "amount"})
    _, action = await editor.request("textDocument/codeAction", params)
    assert action["title"] == "Next edit"
    asking = editor.ask("workspace/executeCommand", action["command"])
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    await score(scripted, -20.0, -10.0, -15.0)
    assert (await editor.answer(asking))["applied"] is True
