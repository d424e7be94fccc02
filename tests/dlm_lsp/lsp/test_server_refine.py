"""`dlm.refine` over a real server process, with a scripted engine host."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import URI, LspClient, LspError
from tests.dlm_lsp.scripted_host import ScriptedHost

TEXT = "def f(a):\r\n    # 😀 sum\r\n    return a - 1\r\n"
WHOLE = {"start": {"line": 1, "character": 0}, "end": {"line": 2, "character": 16}}
SELECTED = "    # 😀 sum\r\n    return a - 1"
BETTER = SELECTED.replace("-", "+")
DOUBT = (
    (len("    # 😀 sum\r\n    return a"), -0.1),
    (len(SELECTED) - 2, -9.0),
    (len(SELECTED), -0.2),
)
SURE = ((len(BETTER), -0.5),)


def asked(editor: LspClient, **fields: Any) -> int | str:
    """Sends the command for the selection; returns the request's id."""
    argument = {"textDocument": {"uri": URI, "version": 1}, "range": WHOLE, "token": "r", **fields}
    return editor.ask(
        "workspace/executeCommand", {"command": "dlm.refine", "arguments": [argument]}
    )


async def ready(editor: LspClient, scripted: ScriptedHost, **options: Any) -> None:
    workspace = {"applyEdit": True, "workspaceEdit": {"documentChanges": True}}
    await editor.greet(scripted.url, capabilities={"workspace": workspace}, **options)
    editor.open(URI, TEXT)


async def play(scripted: ScriptedHost, fill: str = "+", after: Any = SURE) -> None:
    """Answers the requests of one refinement: the score, the hole's text, and the new score."""
    job = await scripted.job()
    assert job.body.given == SELECTED
    job.start()
    job.score(*DOUBT)
    job = await scripted.job()
    assert (job.body.prefix[-9:], job.body.suffix[:3]) == ("return a ", " 1\r")
    job.start()
    job.draft("", fill, (0, 1, 0.5))
    job.finish(fill)
    if fill.strip() not in ("", "-"):
        job = await scripted.job()
        job.start()
        job.score(*after)


async def test_a_selection_is_shown_while_it_is_refined_and_then_answered_as_an_edit(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted, drafts=True)
    asking = asked(editor)
    await play(scripted)
    answer = await editor.answer(asking)
    assert (answer["applied"], answer["reason"]) == (False, None)
    (change,) = answer["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": URI, "version": 1}
    assert change["edits"] == [{"range": WHOLE, "newText": BETTER}]
    await editor.seen("dlm/refinement", lambda params: params["final"])
    notices = editor.all_of("dlm/refinement")
    assert [one["sequence"] for one in notices] == list(range(1, len(notices) + 1))
    assert {one["token"] for one in notices} == {"r"}
    assert all(one["range"] == WHOLE for one in notices)
    (doubt,) = notices[0]["spans"]
    text = notices[0]["text"].encode("utf-16-le")
    assert text[2 * doubt["start"] : 2 * doubt["end"]].decode("utf-16-le") == "-"
    assert notices[-1]["text"] == BETTER
    assert notices[-1]["spans"] == []


async def test_a_client_without_drafts_is_asked_to_apply_the_edit(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted)
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    asking = asked(editor)
    await play(scripted)
    assert (await editor.answer(asking))["applied"] is True
    params = await editor.asked("workspace/applyEdit")
    assert params["label"] == "Refine selection"
    (change,) = params["edit"]["documentChanges"]
    assert change["edits"][0]["newText"] == BETTER


@pytest.mark.parametrize(
    ("fill", "after"), [("-", SURE), ("*", ((len(BETTER), -9.0),)), ("", SURE)]
)
async def test_where_nothing_is_better_the_answer_says_so(
    editor: LspClient, scripted: ScriptedHost, fill: str, after: Any
) -> None:
    await ready(editor, scripted)
    asking = asked(editor)
    await play(scripted, fill, after)
    answer = await editor.answer(asking)
    assert (answer["edit"], answer["applied"]) == (None, False)
    assert "change nothing" in answer["reason"]
    assert answer["reason"] in (await editor.seen("window/showMessage"))["message"]


async def test_an_edit_meanwhile_ends_it(editor: LspClient, scripted: ScriptedHost) -> None:
    await ready(editor, scripted)
    asking = asked(editor)
    job = await scripted.job()
    job.start()
    editor.insert(URI, 2, 0, 0, "x")
    await job.cancelled()
    with pytest.raises(LspError, match="came between") as error:
        await editor.answer(asking)
    assert error.value.code == -32801


async def test_it_is_cancelled_by_its_token_and_by_the_next_request(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted)
    asking = asked(editor)
    job = await scripted.job()
    job.start()
    cancel = {"command": "dlm.cancel", "arguments": [{"token": "r"}]}
    assert await editor.request("workspace/executeCommand", cancel) == {"cancelled": True}
    with pytest.raises(LspError):
        await editor.answer(asking)
    await job.cancelled()
    first, job = asked(editor), await scripted.job()
    job.start()
    second = asked(editor)
    with pytest.raises(LspError):
        await editor.answer(first)
    await job.cancelled()
    await play(scripted)
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    assert (await editor.answer(second))["applied"] is True


async def test_wrong_arguments_are_named(editor: LspClient, scripted: ScriptedHost) -> None:
    await ready(editor, scripted)
    document = {"uri": URI, "version": 1}
    far = {"line": 99, "character": 0}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"textDocument": {}}, "textDocument.uri"),
        ({"textDocument": URI}, "textDocument"),
        ({"range": [1, 2]}, "range"),
        ({"range": {"start": {"line": -1, "character": 0}, "end": far}}, "range.start"),
        ({"range": {"start": far, "end": {"line": 1}}}, "range.end"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"token": [1]}, "token"),
        ({"textDocument": document | {"uri": "file:///nowhere.py"}}, "not open"),
    ]
    for fields, named in wrong:
        with pytest.raises(LspError, match=named) as error:
            await editor.answer(asked(editor, **fields))
        assert error.value.code == -32602
    with pytest.raises(LspError, match="version is 7") as error:
        await editor.answer(asked(editor, textDocument=document | {"version": 7}))
    assert error.value.code == -32801
    assert scripted.bodies == []


async def test_an_empty_or_silenced_selection_reaches_no_engine(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await ready(editor, scripted)
    here = {"line": 2, "character": 4}
    answer = await editor.answer(asked(editor, range={"start": here, "end": here}))
    assert "nothing to refine" in answer["reason"]
    editor.open("file:///w/.env", "KEY=secret\n")
    secret = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 10}}
    answer = await editor.answer(
        asked(editor, textDocument={"uri": "file:///w/.env"}, range=secret)
    )
    assert "secrets" in answer["reason"]
    await asyncio.sleep(0)
    assert scripted.bodies == []


async def test_a_selection_has_its_code_action(editor: LspClient, scripted: ScriptedHost) -> None:
    await ready(editor, scripted)
    params = {"textDocument": {"uri": URI}, "range": WHOLE, "context": {"diagnostics": []}}
    (action,) = await editor.request("textDocument/codeAction", params)
    assert action["title"] == "Refine selection"
    command = action["command"]
    assert command["command"] == "dlm.refine"
    asking = editor.ask("workspace/executeCommand", command)
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    await play(scripted)
    assert (await editor.answer(asking))["applied"] is True
