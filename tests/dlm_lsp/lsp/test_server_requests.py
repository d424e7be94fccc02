"""Answers to an editor's requests, with a real server process and a scripted engine host."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dlm_lsp.client.messages import Marks
from tests.dlm_lsp.lsp_client import AUTOMATIC, INVOKED, TEXT, URI, LspClient, LspError, started
from tests.dlm_lsp.scripted_host import ScriptedHost


def at(line: int, start: int, end: int) -> dict[str, Any]:
    return {
        "start": {"line": line, "character": start},
        "end": {"line": line, "character": end},
    }


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["insertText"] for item in items]


# Inline completion


async def test_automatic_request_has_one_item_to_insert_at_the_cursor(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b"]
    (item,) = await editor.inline(URI, 1, 11)
    command = item.pop("command")
    assert item == {"insertText": "a + b", "range": at(1, 11, 11)}
    assert command["command"] == "dlm.accepted"
    (body,) = scripted.bodies
    assert (body.prefix, body.suffix) == ("def add(a, b):\n    return ", "\n")
    assert body.sampling.temperature == 0


async def test_invoked_request_has_up_to_three_distinct_items(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b", "b + a", "sum((a, b))"]
    items = await editor.inline(URI, 1, 11, INVOKED)
    assert texts(items)[0] == "a + b"
    assert sorted(texts(items)) == ["a + b", "b + a", "sum((a, b))"]
    assert [body.sampling.temperature > 0 for body in scripted.bodies] == [False, True, True]
    assert len({body.sampling.seed for body in scripted.bodies[1:]}) == 2
    scripted.script = ["a", "a", "a"]
    assert texts(await editor.inline(URI, 1, 11, INVOKED)) == ["a"]


async def test_cancelling_an_invoked_request_stops_every_draw(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b"]
    asking = editor.ask_inline(URI, 1, 11, INVOKED)
    jobs = [await scripted.job(), await scripted.job()]
    editor.notify("$/cancelRequest", {"id": asking})
    with pytest.raises(LspError) as error:
        await editor.answer(asking)
    assert error.value.code == -32800
    for job in jobs:
        await job.cancelled()


async def test_selected_completion_is_extended_and_its_range_replaced(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, text="import os\nos.pa\nprint()\n")
    scripted.script = [".join('a', 'b')"]
    info = {"range": at(1, 3, 5), "text": "path"}
    (item,) = await editor.inline(URI, 1, 5, context={"selectedCompletionInfo": info})
    assert item["insertText"] == "path.join('a', 'b')"
    assert item["range"] == at(1, 3, 5)
    assert scripted.bodies[0].prefix == "import os\nos.path"
    assert scripted.bodies[0].suffix == "\nprint()\n"
    scripted.script = [""]
    assert await editor.inline(URI, 1, 5, context={"selectedCompletionInfo": info}) == []


async def test_limits_and_mode_of_the_settings_reach_the_engine(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(
        scripted.url,
        mode="ar",
        limits={"tokensMax": 7, "tokensMaxInvoked": 9, "millisecondsMax": 400},
        block={"length": 8, "threshold": 0.5},
        context={"prefixTokens": 64, "suffixTokens": 32},
    )
    scripted.script = ["a", "a", "a", "a"]
    await editor.inline(URI, 1, 11)
    await editor.inline(URI, 1, 11, INVOKED)
    automatic, invoked = scripted.bodies[0], scripted.bodies[1]
    assert (automatic.limits.tokens_max, invoked.limits.tokens_max) == (7, 9)
    assert automatic.limits.milliseconds_max == 400
    assert (automatic.mode, automatic.block.length, automatic.block.threshold) == ("ar", 8, 0.5)
    assert (automatic.budget.prefix_tokens, automatic.budget.suffix_tokens) == (64, 32)


async def test_marks_of_the_host_come_back_moved_with_the_edits(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    text = "# 1\n# 2\n" + "x = 1  # a line long enough to keep\n" * 20 + TEXT + "# b\n" * 9
    await editor.greet(scripted.url, text=text)
    asking = editor.ask_inline(URI, 23, 11)
    job = await scripted.job()
    far = job.body.marks.far_suffix_start
    assert far is not None
    job.start(Marks(prefix_start=4, far_suffix_start=far))
    job.finish("a + b")
    assert texts(await editor.answer(asking)) == ["a + b"]
    editor.insert(URI, 2, 0, 0, "# 0\n")
    editor.insert(URI, 3, 24, 11, "b")
    scripted.script = [" + a"]
    assert texts(await editor.inline(URI, 24, 12)) == [" + a"]
    body = scripted.bodies[1]
    assert body.marks.prefix_start == 8
    assert body.prefix[8:].startswith("# 2\n")
    assert body.marks.far_suffix_start == far


# Answers without the engine


async def test_typing_what_is_shown_asks_the_engine_no_more(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["add(a, b)"]
    assert texts(await editor.inline(URI, 1, 11)) == ["add(a, b)"]
    editor.insert(URI, 2, 1, 11, "add")
    (item,) = await editor.inline(URI, 1, 14)
    assert (item["insertText"], item["range"]) == ("(a, b)", at(1, 14, 14))
    editor.insert(URI, 3, 1, 14, "()")  # the editor closes the bracket
    (item,) = await editor.inline(URI, 1, 15)
    assert (item["insertText"], item["range"]) == ("a, b)", at(1, 15, 16))
    assert len(scripted.bodies) == 1
    editor.insert(URI, 4, 1, 15, "x")
    scripted.script = [", y"]
    assert texts(await editor.inline(URI, 1, 16)) == [", y"]
    assert len(scripted.bodies) == 2


async def test_answer_that_came_too_late_serves_the_next_request(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted)
    editor.insert(URI, 2, 1, 11, "ab")
    await editor.round_trip()
    job.finish("abc")
    assert texts(await editor.answer(asking)) == ["c"]
    assert texts(await editor.inline(URI, 1, 13)) == ["c"]
    assert len(scripted.bodies) == 1


async def test_typed_text_that_continues_a_running_draft_takes_the_run_over(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True)
    first, job = await started(editor, scripted, workDoneToken="one")
    job.draft("a", " + b░")
    await editor.seen("dlm/draft", lambda draft: draft["token"] == "one")
    editor.insert(URI, 2, 1, 11, "a +")
    second = editor.ask_inline(URI, 1, 14, workDoneToken="two")
    assert await editor.answer(first) is None
    draft = await editor.seen("dlm/draft", lambda draft: draft["token"] == "two")
    assert (draft["committed"], draft["draft"]) == ("", " b░")
    assert (draft["textDocument"]["version"], draft["range"]) == (2, at(1, 14, 14))
    job.finish("a + b * 2")
    (item,) = await editor.answer(second)
    assert (item["insertText"], item["range"]) == (" b * 2", at(1, 14, 14))
    assert len(scripted.bodies) == 1
    assert (await editor.stats())["taken_over"] == 1


async def test_run_that_was_taken_over_and_deviates_is_stopped_and_asked_anew(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True)
    first, job = await started(editor, scripted, workDoneToken="one")
    job.draft("a", " + b░")
    await editor.seen("dlm/draft")
    editor.insert(URI, 2, 1, 11, "a +")
    second = editor.ask_inline(URI, 1, 14)
    assert await editor.answer(first) is None
    job.draft("a - b")
    await job.cancelled()
    job = await scripted.job()
    assert job.body.prefix.endswith("return a +")
    job.start()
    job.finish(" 1")
    assert texts(await editor.answer(second)) == [" 1"]


async def test_cancelling_a_request_that_took_a_run_over_stops_the_engine(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True)
    _, job = await started(editor, scripted, workDoneToken="one")
    job.draft("a", " + b░")
    await editor.seen("dlm/draft")
    editor.insert(URI, 2, 1, 11, "a")
    second = editor.ask_inline(URI, 1, 12)
    await editor.round_trip()
    assert not job.is_cancelled
    editor.notify("$/cancelRequest", {"id": second})
    await job.cancelled()
    with pytest.raises(LspError):
        await editor.answer(second)


# Drafts


async def test_drafts_are_whole_states_that_only_grow_and_end_with_the_answer(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True, silence={"confidence": 0})
    asking, job = await started(editor, scripted, workDoneToken="t")
    for committed, draft in (("", "a░b"), ("a", " + ░"), ("a + b", " * ")):
        job.draft(committed, draft, (0, 1, 0.25))
        await editor.seen("dlm/draft", lambda d, tail=draft[:3]: tail.rstrip() in d["draft"])
    job.finish("a + b * 2")
    (item,) = await editor.answer(asking)
    await editor.round_trip()
    drafts = editor.all_of("dlm/draft")
    assert set(drafts[0]) == {
        *("token", "textDocument", "position", "range", "committed", "draft", "spans"),
        *("sequence", "final"),
    }
    assert [draft["sequence"] for draft in drafts] == list(range(1, len(drafts) + 1))
    assert all(draft["token"] == "t" for draft in drafts)
    assert all(draft["textDocument"] == {"uri": URI, "version": 1} for draft in drafts)
    assert drafts[0]["position"] == {"line": 1, "character": 11}
    assert drafts[0]["range"] == at(1, 11, 11)
    committed = [draft["committed"] for draft in drafts]
    assert all(b.startswith(a) for a, b in itertools.pairwise(committed))
    assert [draft["final"] for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    assert drafts[-1]["committed"] == item["insertText"] == "a + b * 2"
    answered = editor.notifications.index(
        {"jsonrpc": "2.0", "method": "dlm/draft", "params": drafts[-1]}
    )
    assert not [m for m in editor.notifications[answered + 1 :] if m["method"] == "dlm/draft"]


async def test_request_without_token_has_no_drafts(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True)
    asking, job = await started(editor, scripted)
    job.draft("a", " + b")
    job.finish("a + b")
    assert await editor.answer(asking)
    await editor.round_trip()
    assert editor.all_of("dlm/draft") == []


async def test_superseded_request_sends_no_more_drafts(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, drafts=True)
    first, job = await started(editor, scripted, workDoneToken="one")
    job.draft("a", "b")
    await editor.seen("dlm/draft")
    editor.insert(URI, 2, 1, 11, "zzz")
    second = editor.ask_inline(URI, 1, 14, workDoneToken="two")
    assert await editor.answer(first) is None
    count = len(editor.all_of("dlm/draft"))
    job.draft("ab", "c")
    job = await scripted.job()
    job.start()
    job.finish("y")
    assert await editor.answer(second)
    assert {draft["token"] for draft in editor.all_of("dlm/draft")[count:]} == {"two"}


# Completion for editors without inline completion

PLAIN: dict[str, Any] = {"general": {"positionEncodings": ["utf-16"]}}


async def complete(editor: LspClient, line: int, character: int) -> dict[str, Any]:
    return await editor.request(
        "textDocument/completion",
        {
            "textDocument": {"uri": URI},
            "position": {"line": line, "character": character},
            "context": {"triggerKind": 1},
        },
    )


async def test_completion_item_is_one_that_clients_do_not_filter_away(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    result = await editor.greet(
        scripted.url, "import os\nx = os.pa\n", PLAIN, statusNotifications=True
    )
    assert "completionProvider" in result["capabilities"]
    await editor.seen("dlm/status", lambda status: status["state"] == "ready")
    scripted.script = ["th.join(\n    'a',\n    'b',\n)"]
    answer = await complete(editor, 1, 9)
    assert answer["isIncomplete"] is True
    (item,) = answer["items"]
    assert item["textEdit"] == {
        "range": at(1, 7, 9),
        "newText": "path.join(\n    'a',\n    'b',\n)",
    }
    assert item["filterText"].startswith("pa")
    assert item["label"] == "path.join( 'a', 'b', )"
    assert not item.get("preselect", False)
    assert item["command"]["command"] == "dlm.accepted"


async def test_completion_while_the_engine_loads_is_empty_and_at_once(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    loading = {"error": {"message": "Loading.", "type": "unavailable_error", "code": "loading"}}
    scripted.health = (503, scripted.health[1] | loading)
    await editor.greet(scripted.url, capabilities=PLAIN)
    assert await complete(editor, 1, 11) == {"isIncomplete": True, "items": []}
    assert scripted.bodies == []


async def test_completion_is_served_as_soon_as_the_engine_has_answered_anything(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    ready = scripted.health
    loading = {"error": {"message": "Loading.", "type": "unavailable_error", "code": "loading"}}
    scripted.health = (503, ready[1] | loading)
    await editor.greet(scripted.url, capabilities=PLAIN)
    scripted.script = ["a + b"]
    assert await editor.inline(URI, 1, 11)
    assert len((await complete(editor, 1, 11))["items"]) == 1


async def test_completion_is_not_advertised_to_a_client_with_inline_completion(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    result = await editor.greet(scripted.url)
    assert "completionProvider" not in result["capabilities"]
    with pytest.raises(LspError) as error:
        await complete(editor, 1, 11)
    assert error.value.code == -32601


async def test_completion_can_be_turned_off(editor: LspClient, scripted: ScriptedHost) -> None:
    await editor.greet(scripted.url, capabilities=PLAIN, completion=False, statusNotifications=True)
    await editor.seen("dlm/status", lambda status: status["state"] == "ready")
    assert (await complete(editor, 1, 11))["items"] == []
    assert scripted.bodies == []


@pytest.mark.parametrize("kind", [AUTOMATIC, INVOKED])
async def test_silenced_document_is_an_empty_list_with_the_reason_in_the_status(
    editor: LspClient, scripted: ScriptedHost, kind: int
) -> None:
    await editor.greet(scripted.url, statusNotifications=True, silence={"languages": ["python"]})
    assert await editor.inline(URI, 1, 11, kind) == []
    status = await editor.seen("dlm/status", lambda status: status["reason"] is not None)
    assert "python" in status["reason"]
    assert scripted.bodies == []
