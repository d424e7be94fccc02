"""What users switch off and set while they type: snooze, toggle, limits, delay, over a real
process."""

from __future__ import annotations

import asyncio

import pytest

from tests.dlm_lsp.lsp.suggested import run
from tests.dlm_lsp.lsp_client import INVOKED, TEXT, URI, LspClient
from tests.dlm_lsp.scripted_host import ScriptedHost


async def test_a_snooze_silences_typing_and_is_shown_in_the_status(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, statusNotifications=True)
    scripted.script = ["a"] * 20
    await run(editor, "dlm.snooze", minutes=10)
    await editor.seen("dlm/status", lambda status: status["snoozedUntil"] is not None)
    assert await editor.inline(URI, 1, 11) == []
    assert not scripted.bodies
    assert await editor.inline(URI, 1, 11, INVOKED)  # The user asks for it.
    await run(editor, "dlm.snooze", minutes=0)
    assert await editor.inline(URI, 1, 11)
    await run(editor, "dlm.snooze", minutes=0.005)
    await asyncio.sleep(0.4)
    assert editor.all_of("dlm/status")[-1]["snoozedUntil"] is None
    assert await editor.inline(URI, 1, 11)


async def test_a_document_can_be_switched_off_and_on_again(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, statusNotifications=True)
    other = URI.replace("add", "other")
    editor.open(other, TEXT)
    scripted.script = ["a"] * 20
    assert (await run(editor, "dlm.toggle", uri=URI))["on"] is False
    await editor.seen("dlm/status", lambda status: status["documentsOff"] == [URI])
    assert await editor.inline(URI, 1, 11) == []
    assert await editor.inline(URI, 1, 11, INVOKED) == []
    assert await editor.inline(other, 1, 11)
    assert (await run(editor, "dlm.toggle", uri=URI, on=False))["on"] is False
    assert (await run(editor, "dlm.toggle", uri=URI))["on"] is True
    assert await editor.inline(URI, 1, 11)


@pytest.mark.parametrize(
    ("text", "place", "is_shown"),
    [
        ("x = 1  # why ", (0, 13), False),
        ('x = "a b', (0, 8), False),
        ('"""\nOne\n"""\n', (1, 3), False),
        ('x = f"{a.', (0, 9), True),
        ("x = 1 + ", (0, 8), True),
    ],
)
async def test_comments_and_strings_can_be_silenced_while_typing(
    editor: LspClient,
    scripted: ScriptedHost,
    text: str,
    place: tuple[int, int],
    is_shown: bool,
) -> None:
    silence = {"comments": True, "strings": True}
    await editor.greet(scripted.url, text=text, silence=silence)
    scripted.script = ["a"] * 9
    assert bool(await editor.inline(URI, *place)) is is_shown
    assert await editor.inline(URI, *place, INVOKED)


@pytest.mark.parametrize("syntax", [True, False])
async def test_what_would_not_parse_is_not_shown_unless_the_gate_is_off(
    editor: LspClient, scripted: ScriptedHost, syntax: bool
) -> None:
    await editor.greet(scripted.url, text="x = \n", syntax=syntax, statusNotifications=True)
    scripted.script = ["1 2"]
    items = await editor.inline(URI, 0, 4)
    assert bool(items) is not syntax
    if syntax:
        why = "The suggestion would not parse here."
        await editor.seen("dlm/status", lambda status: status["reason"] == why)


async def test_a_limit_of_lines_holds_for_suggestions_and_drafts(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, text="x = 1\n", limits={"lines": 1}, drafts=True)
    asking = editor.ask_inline(URI, 0, 5, workDoneToken="t")
    job = await scripted.job()
    job.start()
    job.draft(" + 2\n", "y = 3")
    (item,) = await editor.answer(asking)
    assert item["insertText"] == " + 2"
    assert all("\n" not in d["committed"] + d["draft"] for d in editor.all_of("dlm/draft"))


@pytest.mark.parametrize("field", ["minutes", "uri", "on"])
async def test_a_wrong_argument_of_the_switches_is_named(plain: LspClient, field: str) -> None:
    command = "dlm.snooze" if field == "minutes" else "dlm.toggle"
    wrong = {"uri": URI, "on": None} | {field: ["x"]}
    with pytest.raises(Exception, match=f"{command}: {field} must be"):
        await run(plain, command, **wrong)


async def test_a_request_waits_for_the_next_key_by_the_delay(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """Only the last request of a burst of keys reaches the engine."""
    await editor.greet(scripted.url, delay=300)
    scripted.script = ["a"] * 20
    asked = []
    for version, column in enumerate(range(11, 17), start=2):
        editor.insert(URI, version, 1, column, "x")
        asked.append(editor.ask_inline(URI, 1, column + 1))
    answers = [await editor.answer(one) for one in asked]
    assert [answer is None for answer in answers] == [True] * 5 + [False]
    assert len(scripted.bodies) == 1
    assert await editor.inline(URI, 1, 17, INVOKED)  # The user's own wish does not wait.


async def test_what_is_accepted_by_word_and_by_line_is_told_and_counted(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """`length` says how much is accepted so far; the rest is shown again as it was."""
    await editor.greet(scripted.url)
    scripted.script = ["a + b\n    return 1"]
    (item,) = await editor.inline(URI, 1, 11)
    offer = item["command"]["arguments"][0]["id"]
    assert (await run(editor, "dlm.accepted", id=offer, kind="word", length=1))["known"]
    editor.insert(URI, 2, 1, 11, "a")
    (rest,) = await editor.inline(URI, 1, 12)
    assert rest["insertText"] == item["insertText"][1:]
    assert (await run(editor, "dlm.accepted", id=offer, kind="line", length=5))["known"]
    counts = await editor.stats()
    assert counts["accepted_word"] == counts["accepted_line"] == 1
    assert counts["accepted_characters"] == 5
    assert len(scripted.bodies) == 1
    for wrong in (-1, "x", True):
        with pytest.raises(Exception, match="length must be"):
            await run(editor, "dlm.accepted", id=offer, kind="word", length=wrong)
