"""Work ahead of a request over the wire: `dlm/warm`, and follow-ups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import INLINE, TEXT, URI, LspClient
from tests.dlm_lsp.scripted_host import SECONDS_MAX, ScriptedHost


def warm(editor: LspClient, line: int, character: int) -> None:
    position = {"line": line, "character": character}
    editor.notify("dlm/warm", {"textDocument": {"uri": URI}, "position": position})


async def test_a_rest_at_a_new_place_brings_its_prompt_into_the_cache(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    warm(editor, 1, 9)
    warm(editor, 1, 11)
    async with asyncio.timeout(SECONDS_MAX):
        body = await scripted.warmed.get()
    assert (body.prefix, body.suffix) == ("def add(a, b):\n    return ", "\n")
    assert body.limits.tokens_max == 0
    assert scripted.bodies == []
    await editor.round_trip()
    assert scripted.warmed.empty(), "only the last place was one of rest"


async def test_follow_up_of_a_shown_suggestion_is_ready_when_it_is_accepted(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, followUp=True)
    scripted.script = ["a + b", "\n\n\nadd(1, 2)"]
    (item,) = await editor.inline(URI, 1, 11)
    async with asyncio.timeout(SECONDS_MAX):
        await scripted.warmed.get()  # This comes after the follow-up.
    editor.insert(URI, 2, 1, 11, item["insertText"])
    await editor.inline(URI, 1, 16)
    assert [body.prefix.rpartition("\n")[2] for body in scripted.bodies] == [
        "    return ",
        "    return a + b",
    ]
    assert (await editor.stats())["from_cache"] == 1


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"textDocument": {"uri": 3}, "position": {"line": 0, "character": 0}},
        {"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}},
        {"textDocument": {"uri": URI}, "position": {"line": "0", "character": 0}},
        {"textDocument": {"uri": "file:///other.py"}, "position": {"line": 0, "character": 0}},
    ],
)
async def test_a_broken_notification_is_dropped(
    editor: LspClient, scripted: ScriptedHost, params: Any
) -> None:
    await editor.greet(scripted.url)
    editor.notify("dlm/warm", params)
    scripted.script = ["a + b"]
    assert len(await editor.inline(URI, 1, 11)) == 1


async def test_nothing_is_warmed_before_the_settings_are_known(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    waiting = {**INLINE, "workspace": {"configuration": True}}
    told = asyncio.Event()

    def options(_: Any) -> list[Any]:
        told.set()
        return [{"silence": {"languages": ["python"]}}]

    editor.answers["workspace/configuration"] = options
    await editor.initialize({"engine": {"url": scripted.url}}, waiting)
    editor.open(URI, TEXT)
    warm(editor, 1, 11)
    async with asyncio.timeout(SECONDS_MAX):
        await told.wait()
    await editor.round_trip()
    warm(editor, 1, 10)
    await asyncio.sleep(0.5)  # More than the rest that warming waits for.
    assert scripted.warmed.empty()
