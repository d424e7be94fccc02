"""Commands, code actions, status, progress and configuration, over a real process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import (
    INLINE,
    INVOKED,
    TEXT,
    URI,
    LspClient,
    LspError,
    lsp_client,
    started,
)
from tests.dlm_lsp.scripted_host import ScriptedHost

PLACE = {"line": 1, "character": 11}
LOADING = {"error": {"message": "Loading.", "type": "unavailable_error", "code": "loading"}}


async def run(editor: LspClient, command: str, *arguments: Any, **params: Any) -> Any:
    return await editor.request(
        "workspace/executeCommand", {"command": command, "arguments": list(arguments), **params}
    )


def fill_arguments(version: int = 1) -> dict[str, Any]:
    return {"uri": URI, "version": version, "position": PLACE}


# Commands


async def test_commands_that_exist_are_advertised_and_no_others(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    result = await editor.greet(scripted.url)
    commands = result["capabilities"]["executeCommandProvider"]["commands"]
    assert sorted(commands) == [
        *("dlm.accepted", "dlm.cancel", "dlm.fill", "dlm.nextEdit", "dlm.pullModel", "dlm.refine"),
        *("dlm.requests", "dlm.restart", "dlm.setMode", "dlm.snooze", "dlm.stats", "dlm.toggle"),
    ]
    with pytest.raises(LspError, match=r"dlm\.improve"):
        await run(editor, "dlm.improve", {})


async def test_accepted_offer_is_counted_once_it_is_known(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b"]
    (item,) = await editor.inline(URI, 1, 11)
    (argument,) = item["command"]["arguments"]
    assert await run(editor, "dlm.accepted", argument) == {"known": True}
    word = {"id": argument["id"], "acceptedLength": 1, "kind": "word"}
    assert await run(editor, "dlm.accepted", word) == {"known": True}
    assert await run(editor, "dlm.accepted", {"id": "made up"}) == {"known": False}
    counts = await editor.stats()
    assert (counts["accepted_full"], counts["accepted_word"], counts["offers"]) == (1, 1, 1)


async def test_fill_applies_an_edit_bound_to_the_version(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    workspace = {"applyEdit": True, "workspaceEdit": {"documentChanges": True}}
    await editor.greet(scripted.url, capabilities={"workspace": workspace})
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": True}
    scripted.script = ["a + b"]
    result = await run(editor, "dlm.fill", fill_arguments() | {"limits": {"tokensMax": 40}})
    assert result["applied"] is True
    edit = (await editor.asked("workspace/applyEdit"))["edit"]
    (change,) = edit["documentChanges"]
    assert change["textDocument"] == {"uri": URI, "version": 1}
    assert change["edits"] == [{"range": {"start": PLACE, "end": PLACE}, "newText": "a + b"}]
    assert scripted.bodies[0].limits.tokens_max == 40


async def test_fill_answers_the_edit_to_a_client_that_cannot_apply_it_or_draws_it(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, capabilities={"workspace": {"applyEdit": True}}, drafts=True)
    asking = editor.ask(
        "workspace/executeCommand",
        {"command": "dlm.fill", "arguments": [fill_arguments()], "workDoneToken": "f"},
    )
    job = await scripted.job()
    job.start()
    job.draft("a", " + ░")
    assert (await editor.seen("dlm/draft"))["token"] == "f"
    job.finish("a + b")
    answer = await editor.answer(asking)
    assert answer["applied"] is False
    assert answer["edit"]["changes"][URI][0]["newText"] == "a + b"
    assert editor.requests == []


async def test_fill_takes_a_mode_of_its_own(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b", "a + b"]
    await run(editor, "dlm.fill", fill_arguments() | {"mode": "linear_spec"})
    await editor.inline(URI, 1, 11)
    assert [body.mode for body in scripted.bodies] == ["linear_spec", "auto"]


async def test_fill_that_has_nothing_to_insert_says_why(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = [""]
    result = await run(editor, "dlm.fill", fill_arguments())
    assert (result["edit"], result["applied"]) == (None, False)
    assert result["reason"]
    shown = await editor.seen("window/showMessage")
    assert (shown["type"], result["reason"] in shown["message"]) == (3, True)


async def test_fill_of_another_version_or_document_is_refused_by_name(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    with pytest.raises(LspError, match="version is 7") as error:
        await run(editor, "dlm.fill", fill_arguments(7))
    assert error.value.code == -32801
    with pytest.raises(LspError, match=r"nowhere\.py.*not open"):
        await run(editor, "dlm.fill", fill_arguments() | {"uri": "file:///nowhere.py"})


async def test_wrong_argument_is_named(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url)
    wrong: list[tuple[str, list[Any], str]] = [
        ("dlm.fill", [], "uri"),
        ("dlm.fill", [{"uri": URI, "position": {"line": -1, "character": 0}}], "position"),
        ("dlm.fill", [{"uri": URI, "position": [1, 2]}], "position"),
        ("dlm.fill", [fill_arguments() | {"limits": {"tokensMax": 0}}], "tokensMax"),
        ("dlm.fill", [fill_arguments() | {"mode": "fast"}], "mode"),
        ("dlm.fill", [1, 2], "one object"),
        ("dlm.accepted", [{"id": 3}], "id"),
        ("dlm.accepted", [{"id": "1", "kind": "most"}], "kind"),
        ("dlm.cancel", [{"token": [1]}], "token"),
        ("dlm.setMode", [{"mode": "warp"}], "mode"),
    ]
    for command, arguments, named in wrong:
        with pytest.raises(LspError, match=named) as error:
            await run(editor, command, *arguments)
        assert error.value.code == -32602


async def test_cancel_by_token_stops_the_engine(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url)
    for number, say in enumerate(("dlm.cancel", "window/workDoneProgress/cancel")):
        asking = editor.ask_inline(URI, 1, 11, workDoneToken=f"t{number}")
        job = await scripted.job()
        job.start()
        if say == "dlm.cancel":
            assert await run(editor, say, {"token": "t0"}) == {"cancelled": True}
        else:
            editor.notify(say, {"token": "t1"})
        assert await editor.answer(asking) is None
        await job.cancelled()
    assert await run(editor, "dlm.cancel", {"token": "t0"}) == {"cancelled": False}


async def test_set_mode_holds_from_the_next_request_on(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, mode="block", statusNotifications=True)
    scripted.script = ["a", "b"]
    await editor.inline(URI, 1, 11)
    assert await run(editor, "dlm.setMode", {"mode": "ar"}) == {"mode": "ar"}
    await editor.inline(URI, 1, 11)
    assert [body.mode for body in scripted.bodies] == ["block", "ar"]
    await editor.seen("dlm/status", lambda status: status["mode"] == "ar")


async def test_restart_leaves_a_host_that_was_started_by_hand_alone(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted)
    await run(editor, "dlm.restart")
    assert await editor.answer(asking) is None
    await job.cancelled()
    scripted.script = ["a + b"]
    assert len(await editor.inline(URI, 1, 11)) == 1
    assert scripted.num_shutdowns == 0


# Code actions


async def fill_actions(editor: LspClient, end: int = 11, **context: Any) -> list[dict[str, Any]]:
    return await editor.request(
        "textDocument/codeAction",
        {
            "textDocument": {"uri": URI},
            "range": {"start": PLACE, "end": {"line": 1, "character": end}},
            "context": {"diagnostics": [], **context},
        },
    )


async def test_fill_here_is_offered_at_a_cursor_and_runs_the_command(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    code_action = {"tagSupport": {"valueSet": [1]}}
    await editor.greet(scripted.url, capabilities={"textDocument": {"codeAction": code_action}})
    (action,) = await fill_actions(editor, triggerKind=1)
    assert action["title"] == "Fill here"
    assert action["kind"] == "refactor.rewrite"
    assert action["tags"] == [1]
    scripted.script = ["a + b"]
    command = action["command"]
    result = await run(editor, command["command"], *command["arguments"])
    assert result["edit"]["changes"][URI][0]["newText"] == "a + b"


async def test_fill_here_is_offered_only_where_it_is_wanted(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    selection, light_bulb = 12, {"triggerKind": 2}
    assert len(await fill_actions(editor)) == 1
    assert len(await fill_actions(editor, only=["refactor"], **light_bulb)) == 1
    (action,) = await fill_actions(editor, selection)
    assert action["title"] == "Refine selection"
    assert await fill_actions(editor, **light_bulb) == []
    assert await fill_actions(editor, only=["quickfix"]) == []
    assert "tags" not in (await fill_actions(editor))[0]


# Loading


async def test_loading_is_shown_as_progress_where_the_client_can(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    ready = scripted.health
    scripted.health = (503, ready[1] | LOADING)
    await editor.greet(scripted.url, capabilities=INLINE | {"window": {"workDoneProgress": True}})
    token = (await editor.asked("window/workDoneProgress/create"))["token"]
    begin = await editor.seen("$/progress", lambda p: p["value"]["kind"] == "begin")
    assert begin["token"] == token
    await editor.seen("$/progress", lambda p: p["value"].get("message") == "Loading.")
    scripted.health = ready
    await editor.seen("$/progress", lambda p: p["value"]["kind"] == "end")
    kinds = [params["value"]["kind"] for params in editor.all_of("$/progress")]
    assert (kinds[0], kinds[-1], kinds.count("begin")) == ("begin", "end", 1)


async def test_client_without_progress_is_asked_for_nothing(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, statusNotifications=True)
    await editor.seen("dlm/status", lambda status: status["state"] == "ready")
    assert editor.requests == []
    assert editor.all_of("$/progress") == []


async def test_status_tells_loading_ready_and_figures(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    ready = scripted.health
    scripted.health = (503, ready[1] | LOADING)
    await editor.greet(scripted.url, statusNotifications=True)
    await editor.seen("dlm/status", lambda status: status["message"] == "Loading.")
    scripted.health = ready
    status = await editor.seen("dlm/status", lambda status: status["state"] == "ready")
    assert (status["model"], status["device"]) == ("/toy", "cpu")
    scripted.script = ["a + b"]
    assert await editor.inline(URI, 1, 11)
    await editor.seen("dlm/status", lambda status: status["state"] == "busy")
    status = await editor.seen(
        "dlm/status", lambda status: status["lastMs"] is not None and status["state"] == "ready"
    )
    assert set(status) == {
        *("state", "message", "reason", "mode", "model", "device", "lastMs", "tokensPerForward"),
        *("snoozedUntil", "documentsOff"),
    }
    assert (status["state"], status["reason"], status["tokensPerForward"]) == ("ready", None, 2.0)


async def test_host_that_cannot_load_is_told_once_with_its_remedy(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    error = {"code": "load_failed", "message": "model.safetensors is cut off.", "type": "x"}
    error["remedy"] = "Copy it again."
    scripted.health = (500, scripted.health[1] | {"error": error})
    await editor.greet(scripted.url, statusNotifications=True)
    shown = await editor.seen("window/showMessage")
    assert shown["type"] == 1
    assert "model.safetensors is cut off. Copy it again." in shown["message"]
    await editor.seen("dlm/status", lambda status: status["state"] == "error")
    for _ in range(3):
        assert await editor.inline(URI, 1, 11) == []
    assert len(editor.all_of("window/showMessage")) == 1


async def test_host_that_dies_in_the_middle_is_no_message_box(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, statusNotifications=True)
    asking, job = await started(editor, scripted)
    job.draft("a")
    job.die()
    assert await editor.answer(asking) == []
    scripted.script = ["a + b"]
    assert len(await editor.inline(URI, 1, 11)) == 1
    await editor.seen("dlm/status", lambda status: status["state"] == "ready")
    assert editor.all_of("window/showMessage") == []


# Configuration


async def test_unknown_options_are_reported_once_by_name(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, colour="red", limits={"tokenMax": 5})
    editor.notify("workspace/didChangeConfiguration", {"settings": None})
    editor.notify("workspace/didChangeConfiguration", {"settings": {"dlm": {}}})
    scripted.script = ["a + b"]
    assert await editor.inline(URI, 1, 11)
    logs = [log["message"] for log in editor.all_of("window/logMessage")]
    assert len([log for log in logs if "colour" in log]) == 1
    assert len([log for log in logs if "tokenMax" in log]) == 1


async def test_configuration_is_pulled_and_stands_over_the_first_options(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    configuration = {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}}
    pulled = [{"mode": "ar", "limits": {"tokensMax": 5}}]
    editor.answers["workspace/configuration"] = lambda params: pulled
    await editor.greet(
        scripted.url,
        capabilities={"workspace": configuration},
        mode="block",
        limits={"tokensMaxInvoked": 9},
    )
    assert (await editor.asked("workspace/configuration"))["items"] == [{"section": "dlm"}]
    registered = (await editor.asked("client/registerCapability"))["registrations"]
    assert [one["method"] for one in registered] == ["workspace/didChangeConfiguration"]
    await editor.round_trip()
    scripted.script = ["a", "a", "a", "a", "a", "a"]
    await editor.inline(URI, 1, 11)
    await editor.inline(URI, 1, 11, INVOKED)
    pulled[0] = {"mode": "block"}
    editor.notify("workspace/didChangeConfiguration", {"settings": None})
    await editor.round_trip()
    await editor.round_trip()
    await editor.inline(URI, 1, 11)
    bodies = scripted.bodies
    assert [bodies[0].mode, bodies[1].mode, bodies[4].mode] == ["ar", "ar", "block"]
    assert (bodies[0].limits.tokens_max, bodies[1].limits.tokens_max) == (5, 9)


async def test_pushed_configuration_holds(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url, mode="block")
    editor.notify("workspace/didChangeConfiguration", {"settings": {"dlm": {"mode": "ar"}}})
    scripted.script = ["a"]
    await editor.inline(URI, 1, 11)
    assert scripted.bodies[0].mode == "ar"


async def test_project_file_chooses_the_mode_but_not_where_text_goes(
    tmp_path: Path, scripted: ScriptedHost
) -> None:
    (tmp_path / "dlm-lsp.toml").write_text(
        'mode = "ar"\n[engine]\nurl = "http://127.0.0.1:1/elsewhere"\n'
    )
    async with lsp_client(tmp_path) as editor:
        folder = {"uri": tmp_path.as_uri(), "name": "project"}
        dlm = {"engine": {"url": scripted.url}}
        await editor.initialize(dlm, workspaceFolders=[folder])
        uri = (tmp_path / "src" / "add.py").as_uri()
        editor.open(uri, TEXT)
        scripted.script = ["a"]
        assert await editor.inline(uri, 1, 11)
        assert scripted.bodies[0].mode == "ar"
        log = await editor.seen("window/logMessage", lambda log: "engine.url" in log["message"])
        assert "dlm-lsp.toml" in log["message"]


async def test_user_file_is_read_and_a_broken_one_is_named(
    tmp_path: Path, scripted: ScriptedHost
) -> None:
    file = tmp_path / "config" / "dlm-lsp" / "dlm-lsp.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'mode = "ar"\n[engine]\nurl = "{scripted.url}"\n')
    async with lsp_client(tmp_path) as editor:
        await editor.initialize()
        editor.open(URI, TEXT)
        scripted.script = ["a"]
        assert await editor.inline(URI, 1, 11)
        assert scripted.bodies[0].mode == "ar"
    file.write_text("mode = \n")
    async with lsp_client(tmp_path) as editor:
        await editor.greet(scripted.url)
        # What the file silences is not known, so that nothing is sent.
        assert await editor.inline(URI, 1, 11) == []
        assert scripted.bodies[1:] == []
        log = await editor.seen("window/logMessage", lambda log: str(file) in log["message"])
        assert "line 1" in log["message"]
