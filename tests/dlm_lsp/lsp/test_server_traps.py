"""Peculiarities of real editors and of the LSP libraries, tested with a real process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import (
    AUTOMATIC,
    INVOKED,
    URI,
    LspClient,
    LspError,
    lsp_client,
    started,
)
from tests.dlm_lsp.scripted_host import ScriptedHost


def at(line: int, start: int, end: int) -> dict[str, Any]:
    return {
        "start": {"line": line, "character": start},
        "end": {"line": line, "character": end},
    }


# pygls and lsprotocol


@pytest.mark.parametrize(
    "arguments",
    [("--stdio",), ("--stdio", "--clientProcessId", "1"), ("--stdio", "--log-level=debug")],
)
async def test_stdio_flag_that_clients_append_is_accepted(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    async with lsp_client(tmp_path, *arguments) as editor:
        assert (await editor.initialize())["serverInfo"]["name"] == "dlm-lsp"
        assert await editor.leave() == 0


async def test_unknown_params_that_lsprotocol_drops_are_tolerated(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b"]
    items = await editor.inline(
        URI,
        1,
        11,
        textDocument={"uri": URI, "version": 1},
        partialResultToken="p",
        formattingOptions={"tabSize": 4, "insertSpaces": True},
        context={"somethingNew": 1},
    )
    assert [item["insertText"] for item in items] == ["a + b"]


async def test_trigger_kind_zero_is_an_explicit_request_and_one_then_automatic(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """vscode-languageclient 9.0.1 forwards VS Code's own numbers: 0 invoked, 1 automatic."""
    await editor.greet(scripted.url)
    scripted.script = ["a + b", "a - b", "b"]
    assert len(await editor.inline(URI, 1, 11, 0)) == 3
    scripted.script = ["a"]
    editor.insert(URI, 2, 0, 0, "# x\n")
    assert len(await editor.inline(URI, 2, 11, 1)) == 1
    assert len(scripted.bodies) == 4


@pytest.mark.parametrize("level", ["warning", "info"])
async def test_payloads_are_not_logged(scripted: ScriptedHost, tmp_path: Path, level: str) -> None:
    """By default a session without trouble logs nothing at all, as editors show every line."""
    arguments = [] if level == "warning" else ["--log-level", level]
    async with lsp_client(tmp_path, "--stdio", *arguments) as editor:
        await editor.greet(scripted.url, text="password = 'swordfish'\nx = ")
        scripted.script = ["'marlin'"]
        assert await editor.inline(URI, 1, 4)
        assert await editor.leave() == 0
    log = (tmp_path / "stderr.txt").read_text()
    assert (URI in log) is (level == "info")
    assert log or level == "warning"
    assert "swordfish" not in log
    assert "marlin" not in log


@pytest.mark.parametrize(
    "capabilities",
    [{}, {"textDocument": {"inlineCompletion": {"dynamicRegistration": True}}}],
)
async def test_inline_completion_is_always_advertised_with_options(
    editor: LspClient, capabilities: dict[str, Any]
) -> None:
    """lsp-mode asks without declaring support; pygls advertises the method only with options."""
    result = await editor.initialize(capabilities=capabilities)
    assert result["capabilities"]["inlineCompletionProvider"] == {}


async def test_capabilities_that_lsprotocol_does_not_know_do_not_break_initialize(
    editor: LspClient,
) -> None:
    result = await editor.initialize(
        capabilities={
            "general": {"positionEncodings": ["utf-7", "utf-32"], "markdown": 5},
            "textDocument": {
                "completion": {"completionItemKind": {"valueSet": [1, 9999]}},
                "documentSymbol": {"symbolKind": {"valueSet": ["new"]}},
                "codeAction": {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["x"]}}},
            },
            "experimental": {"anything": [1, None]},
            "workspace": {"semanticTokens": "yes"},
        }
    )
    assert result["capabilities"]["positionEncoding"] == "utf-32"


@pytest.mark.parametrize(
    ("wanted", "chosen", "character"),
    [
        (["utf-8", "utf-16"], "utf-8", 11),
        (["utf-16", "utf-8"], "utf-16", 8),
        (["utf-32"], "utf-32", 7),
        (None, "utf-16", 8),
    ],
)
async def test_position_encoding_is_the_first_the_client_prefers(
    editor: LspClient,
    scripted: ScriptedHost,
    wanted: list[str] | None,
    chosen: str,
    character: int,
) -> None:
    general = {} if wanted is None else {"positionEncodings": wanted}
    settings = {"engine": {"url": scripted.url}, "drafts": True, "silence": {"confidence": 0}}
    result = await editor.initialize(settings, {"general": general})
    assert result["capabilities"]["positionEncoding"] == chosen
    editor.open(URI, "é😀 = (2)\n")  # é: 2, 1, 1 units; 😀: 4, 2, 1
    start = character - 2
    editor.change(URI, 2, {"range": at(0, start, start + 2), "text": "f("})
    asking = editor.ask_inline(URI, 0, character, workDoneToken="t")
    job = await scripted.job()
    assert (job.body.prefix, job.body.suffix) == ("é😀 = f(", ")\n")
    job.start()
    job.draft("", "é😀░", (1, 2, 0.5))
    draft = await editor.seen("dlm/draft")
    job.finish("é😀)")
    (item,) = await editor.answer(asking)
    assert draft["position"] == {"line": 0, "character": character}
    widths = {"utf-8": (2, 6), "utf-16": (1, 3), "utf-32": (1, 2)}
    span = draft["spans"][1]
    assert (span["start"], span["end"], span["confidence"]) == (*widths[chosen], 0.5)
    assert item["range"]["start"] == {"line": 0, "character": character}


async def test_lines_end_where_lsp_says_and_not_at_form_feed_or_u2028(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url, text="a\u2028b\x0cc\x85d\re = 1\r\nf = ")
    scripted.script = ["2"]
    assert await editor.inline(URI, 2, 4)
    assert scripted.bodies[0].prefix == "a\u2028b\x0cc\x85d\re = 1\r\nf = "


async def test_prints_of_libraries_do_not_reach_stdout(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "sitecustomize.py").write_text(
        "import os, subprocess, sys\n"
        "class Noise:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'dlm_lsp.session.session':\n"
        "            print('NOISE'); os.write(1, b'NOISE'); subprocess.run(['echo', 'NOISE'])\n"
        "sys.meta_path.insert(0, Noise())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(noise))
        async with lsp_client(tmp_path, warm=False) as editor:
            await editor.initialize()
            await editor.round_trip()
            assert await editor.leave() == 0
    assert (tmp_path / "stderr.txt").read_text().count("NOISE") == 3


async def test_cancel_request_stops_the_engine_and_is_answered_request_cancelled(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted)
    editor.notify("$/cancelRequest", {"id": asking})
    with pytest.raises(LspError) as error:
        await editor.answer(asking)
    assert error.value.code == -32800
    await job.cancelled()


async def test_cancel_of_an_unknown_or_answered_request_is_ignored(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    scripted.script = ["a + b"]
    asking = editor.ask_inline(URI, 1, 11)
    assert len(await editor.answer(asking)) == 1
    editor.notify("$/cancelRequest", {"id": asking})
    editor.notify("$/cancelRequest", {"id": "never"})
    editor.notify("$/cancelRequest", {})
    await editor.round_trip()


async def test_notifications_of_our_own_are_never_sent_unasked(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """lsp-mode warns about every unknown notification."""
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted, workDoneToken="t")
    job.draft("a", " + b")
    job.finish("a + b")
    assert await editor.answer(asking)
    assert [m["method"] for m in editor.notifications if m["method"].startswith("dlm/")] == []


# Neovim's built-in client


async def test_superseded_request_that_the_client_does_not_cancel_is_stopped_and_null(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    first, job = await started(editor, scripted)
    editor.insert(URI, 2, 0, 0, "# changed elsewhere\n")
    second = editor.ask_inline(URI, 2, 11)
    assert await editor.answer(first) is None
    await job.cancelled()
    job = await scripted.job()
    job.start()
    job.finish("a + b")
    assert [item["insertText"] for item in await editor.answer(second)] == ["a + b"]
    assert editor.answered[-2:] == [first, second]


async def test_late_answer_for_an_old_cursor_is_null(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """Neovim 0.12 draws every answer, even after the cursor has moved."""
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted)
    editor.insert(URI, 2, 1, 11, "xy")
    await editor.round_trip()
    job.finish("a + b")
    assert await editor.answer(asking) is None


async def test_late_answer_whose_beginning_was_typed_is_what_is_left_of_it(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.greet(scripted.url)
    asking, job = await started(editor, scripted)
    editor.insert(URI, 2, 1, 11, "a ")
    await editor.round_trip()
    job.finish("a + b")
    (item,) = await editor.answer(asking)
    assert (item["insertText"], item["range"]) == ("+ b", at(1, 13, 13))


async def test_current_request_with_nothing_to_show_is_an_empty_list(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """`null` would keep the old ghost text on Neovim's screen; `[]` removes it."""
    await editor.greet(scripted.url)
    scripted.script = [""]
    assert await editor.inline(URI, 1, 11) == []


async def test_failing_host_is_an_empty_list_and_no_error(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """Neovim writes every error but RequestCancelled into a log that nobody reads."""
    await editor.greet(scripted.url)
    asking = editor.ask_inline(URI, 1, 11)
    (await scripted.job()).fail("out_of_memory", "The cache does not fit.")
    assert await editor.answer(asking) == []
    assert "does not fit" in (await editor.seen("window/showMessage"))["message"]


@pytest.mark.parametrize("kind", [AUTOMATIC, INVOKED])
async def test_range_is_empty_in_the_middle_of_a_line(
    editor: LspClient, scripted: ScriptedHost, kind: int
) -> None:
    """Neovim draws a range that is not empty over the text right of the cursor."""
    await editor.greet(scripted.url, text="total = add(1) * 2\n")
    scripted.script = ["2 + ", "", ""]
    items = await editor.inline(URI, 0, 8, kind)
    assert items
    assert all(item["range"] == at(0, 8, 8) for item in items)


async def test_auto_closed_bracket_is_not_doubled(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """Tab replaces the item's range in the line with the model's text."""
    await editor.greet(scripted.url, text="x = add()\n")
    scripted.script = ["1, (2))"]
    (item,) = await editor.inline(URI, 0, 8)
    line, start = "x = add()", item["range"]["start"]["character"]
    end = item["range"]["end"]["character"]
    assert line[:start] + item["insertText"] + line[end:] == "x = add(1, (2))"


async def test_null_result_is_written_out(editor: LspClient) -> None:
    """Clients would wait for ever after a response without `result`; `answer` asserts it."""
    await editor.initialize()
    assert await editor.request("shutdown") is None


@pytest.mark.parametrize(("says_shutdown", "code"), [(True, 0), (False, 1)])
async def test_exit_code_is_what_lsp_asks_for(
    editor: LspClient, says_shutdown: bool, code: int
) -> None:
    await editor.initialize()
    if says_shutdown:
        await editor.request("shutdown")
    editor.notify("exit", None)
    assert await editor.wait() == code
