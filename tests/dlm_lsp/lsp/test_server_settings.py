"""Which settings count for a document, and that nothing is sent before they are known.

Over a real process; `scripted.bodies` holds all that reached the engine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp.suggested import is_suggested
from tests.dlm_lsp.lsp_client import INLINE, TEXT, URI, LspClient, lsp_client
from tests.dlm_lsp.scripted_host import ScriptedHost, scripted_host

CONFIGURATION = {"workspace": {"configuration": True}}


async def test_the_nearest_settings_file_above_a_document_counts(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    """Whichever workspace folders there are, and also with `rootUri: null`."""
    for name in ("one", "two", "two/inner", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "dlm-lsp.toml").write_text('mode = "ar"\n')
    (tmp_path / "two" / "dlm-lsp.toml").write_text('[silence]\nlanguages = ["python"]\n')
    (tmp_path / "two" / "inner" / "dlm-lsp.toml").write_text('mode = "block"\n')
    (tmp_path / "three" / ".git").mkdir()
    folders = [{"uri": (tmp_path / n).as_uri(), "name": n} for n in ("one", "two")]
    await editor.initialize({"engine": {"url": scripted.url}}, workspaceFolders=folders)
    scripted.script = ["a"] * 20
    found = {
        name: await is_suggested(editor, (tmp_path / name / "a.py").as_uri())
        for name in ("one", "two", "two/inner", "two/inner/deep", "three")
    }
    assert [name for name, is_shown in found.items() if not is_shown] == ["two"]
    assert [body.mode for body in scripted.bodies if body.draft] == [
        *("ar", "ar", "block", "block", "block", "block", "auto", "auto"),
    ]
    assert not await is_suggested(editor, "untitled:Untitled-1")  # Either folder may silence it.


@pytest.mark.parametrize("how", ["by time", "watched", "dlm.restart"])
async def test_a_settings_file_is_read_again_when_it_changes(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path, how: str
) -> None:
    watching = {"didChangeWatchedFiles": {"dynamicRegistration": True}}
    capabilities = {**INLINE, "workspace": watching} if how == "watched" else INLINE
    file = tmp_path / "dlm-lsp.toml"
    await editor.initialize({"engine": {"url": scripted.url}}, capabilities)
    uri = (tmp_path / "a.py").as_uri()
    scripted.script = ["a"] * 20
    editor.open(uri, TEXT)
    assert await editor.inline(uri, 1, 11)
    for text, is_shown in (('[silence]\nlanguages = ["python"]\n', False), ("", True)):
        file.write_text(text)
        if how == "by time":
            await asyncio.sleep(1.1)
        elif how == "watched":
            (registration,) = (await editor.asked("client/registerCapability"))["registrations"]
            globs = [one["globPattern"] for one in registration["registerOptions"]["watchers"]]
            assert "**/dlm-lsp.toml" in globs
            changes = {"changes": [{"uri": file.as_uri(), "type": 2}]}
            editor.notify("workspace/didChangeWatchedFiles", changes)
        else:
            await editor.request("workspace/executeCommand", {"command": "dlm.restart"})
        assert bool(await editor.inline(uri, 1, 11)) is is_shown


@pytest.mark.parametrize(
    "content",
    [
        "[silence\n",
        "[silence]\nlanguages = 3\n",
        "[silence]\nlangauges = ['python']\n",
        "[silense]\nlanguages = ['python']\n",
        "mode = 'ar'\n\xff",
    ],
)
async def test_while_settings_are_broken_nothing_is_sent(
    plain: LspClient, scripted: ScriptedHost, tmp_path: Path, content: str
) -> None:
    """What a broken file would silence cannot be known."""
    (tmp_path / "dlm-lsp.toml").write_bytes(content.encode("latin-1"))
    uri = (tmp_path / "a.py").as_uri()
    assert not await is_suggested(plain, uri)
    assert not scripted.bodies
    log = await plain.seen("window/logMessage")
    assert "dlm-lsp.toml" in log["message"]
    assert await is_suggested(plain, URI)  # Other folders go on.


@pytest.mark.parametrize(
    "dlm",
    [
        {"silence.languages": ["python"]},
        {"dlm.silence.languages": ["python"]},
        {"silence.globs": ["*.py"], "silence": {"automatic": True}},
        {"silence": {"languages": "python"}},
    ],
)
async def test_silence_is_kept_however_the_client_spells_it(
    editor: LspClient, scripted: ScriptedHost, dlm: dict[str, Any]
) -> None:
    await editor.initialize({"engine": {"url": scripted.url}} | dlm)
    scripted.script = ["a"] * 9
    assert not await is_suggested(editor, URI)
    assert not scripted.bodies


@pytest.mark.parametrize(
    "content",
    [
        '[silence]\nlanguages = ["python"]\n',
        '[silence]\r\nlanguages = ["python"]\r\n',
        '# ours\nsilence.languages = ["python"]\n',
        '\n\n[silence]\nlanguages = [\n  "python",\n]',
        '"silence"."languages" = ["python"]\n',
    ],
)
@pytest.mark.parametrize("whose", ["project", "user"])
async def test_a_settings_file_may_begin_with_a_byte_order_mark(
    scripted: ScriptedHost, tmp_path: Path, content: str, whose: str
) -> None:
    """Some editors write one and hide it."""
    folder = tmp_path / ("config/dlm-lsp" if whose == "user" else "work")
    folder.mkdir(parents=True)
    (folder / "dlm-lsp.toml").write_bytes(b"\xef\xbb\xbf" + content.encode())
    uri = (tmp_path / "work" / "a.py").as_uri()
    async with lsp_client(tmp_path) as editor:
        await editor.initialize({"engine": {"url": scripted.url}})
        scripted.script = ["a + b"] * 9
        assert not await is_suggested(editor, uri)
        assert await is_suggested(editor, uri, "javascript")
        assert not editor.all_of("window/logMessage")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
async def test_a_settings_file_in_another_encoding_is_named_and_silences(
    plain: LspClient, scripted: ScriptedHost, tmp_path: Path, encoding: str
) -> None:
    content = '[silence]\nlanguages = ["python"]  # \u00e9\n'
    (tmp_path / "dlm-lsp.toml").write_bytes(content.encode(encoding))
    assert not await is_suggested(plain, (tmp_path / "a.py").as_uri())
    assert not scripted.bodies
    assert "dlm-lsp.toml" in (await plain.seen("window/logMessage"))["message"]


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"checkpoint": "~nosuchuser/m"}, "engine.checkpoint is '~nosuchuser/m'"),
        ({"checkpoint": "~nosuchuser"}, "~nosuchuser"),
        ({"checkpoint": "a\0b"}, "engine.checkpoint"),
        ({"checkpoint": "x" * 4096}, "engine.checkpoint"),
        ({"checkpoint": "/no/such/\ud800"}, "/no/such/"),
        ({"checkpoint": "no such model"}, "no such model"),
        ({"url": "http://[::1"}, "engine.url is 'http://[::1'"),
        ({"url": "http://user:secret@host"}, "engine.url holds a user name or a password"),
        ({"url": "http://host:99999"}, "engine.url is 'http://host:99999'"),
        ({"url": "http://127.0.0.1:9", "token": "a b"}, "engine.token cannot be sent"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named_and_the_server_goes_on(
    editor: LspClient, engine: dict[str, str], words: str
) -> None:
    """At the first request, without an internal error, and never with a secret."""
    await editor.initialize({"engine": engine})
    editor.open(URI, TEXT)
    assert await editor.inline(URI, 1, 11) == []
    shown = await editor.seen("window/showMessage")
    assert words in shown["message"]
    assert "secret" not in shown["message"]
    assert await editor.stats()
    await editor.request("workspace/executeCommand", {"command": "dlm.restart"})
    assert await editor.inline(URI, 1, 11) == []


@pytest.mark.parametrize("answer", [[{"silence": {"languages": ["python"]}}], [None]])
async def test_requests_wait_for_the_client_s_first_settings(
    editor: LspClient, scripted: ScriptedHost, answer: list[Any]
) -> None:
    """A request that overtakes the settings would send what they silence."""
    release = hold_configuration(editor, answer)
    await editor.initialize({"engine": {"url": scripted.url}}, {**INLINE, **CONFIGURATION})
    editor.open(URI, TEXT)
    scripted.script = ["a + b"]
    asking = editor.ask_inline(URI, 1, 11)
    await editor.asked("workspace/configuration")
    await asyncio.sleep(0.3)
    assert not scripted.bodies
    release()
    assert bool(await editor.answer(asking)) is (answer == [None])
    assert len(scripted.bodies) == (answer == [None])


async def test_a_request_is_answered_empty_where_settings_never_come(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    hold_configuration(editor, [None])
    await editor.initialize(
        {"engine": {"url": scripted.url}, "statusNotifications": True}, {**INLINE, **CONFIGURATION}
    )
    editor.open(URI, TEXT)
    assert await editor.inline(URI, 1, 11) == []
    assert not scripted.bodies
    await editor.seen("dlm/status", lambda status: "settings" in (status["reason"] or ""))


async def test_an_answer_for_a_text_that_changed_while_settings_were_awaited_is_null(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    release = hold_configuration(editor, [None])
    await editor.initialize({"engine": {"url": scripted.url}}, {**INLINE, **CONFIGURATION})
    editor.open(URI, TEXT)
    asking = editor.ask_inline(URI, 1, 11)
    await editor.asked("workspace/configuration")
    editor.insert(URI, 2, 0, 0, "# x\n")
    release()
    assert await editor.answer(asking) is None


def hold_configuration(editor: LspClient, answer: Any) -> Any:
    """Makes the client answer `workspace/configuration` only when the result is called."""
    held: list[Any] = []
    send = editor.send

    def hold(message: Any) -> None:
        if message.get("result") == "held":
            held.append(message["id"])
        else:
            send(message)

    editor.answers["workspace/configuration"] = lambda params: "held"
    editor.send = hold  # type: ignore[method-assign]

    def release() -> None:
        for number in held:
            send({"jsonrpc": "2.0", "id": number, "result": answer})

    return release


# Ignore files


@pytest.mark.parametrize(
    ("file", "content", "name", "is_shown"),
    [
        (".gitignore", "*.gen.py\n", "a.gen.py", False),
        (".gitignore", "build/\n", "build/deep/a.py", False),
        (".gitignore", "*.py\n!keep.py\n", "keep.py", True),
        (".gitignore", "/a.py\n", "sub/a.py", True),
        (".dlmignore", "private/**\n", "private/a.py", False),
        ("sub/.dlmignore", "*\n", "sub/a.py", False),
        (".git/info/exclude", "local*\n", "local.py", False),
    ],
)
async def test_files_that_an_ignore_file_names_are_silent(
    plain: LspClient,
    scripted: ScriptedHost,
    tmp_path: Path,
    file: str,
    content: str,
    name: str,
    is_shown: bool,
) -> None:
    (tmp_path / ".git" / "info").mkdir(parents=True)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert await is_suggested(plain, (tmp_path / name).as_uri()) is is_shown
    assert bool(scripted.bodies) is is_shown


async def test_gitignore_counts_in_a_repository_alone_and_can_be_switched_off(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    (tmp_path / ".gitignore").write_text("*.py\n")
    uri = (tmp_path / "a.py").as_uri()
    await editor.initialize({"engine": {"url": scripted.url}, "silence": {"ignoredFiles": False}})
    scripted.script = ["a"] * 20
    (tmp_path / ".git").mkdir()
    assert await is_suggested(editor, uri)


@pytest.mark.skipif(os.getuid() == 0, reason="root can read everything")
async def test_an_ignore_file_that_cannot_be_read_silences_its_folder(
    plain: LspClient, tmp_path: Path
) -> None:
    (tmp_path / ".dlmignore").write_text("")
    (tmp_path / ".dlmignore").chmod(0)
    assert not await is_suggested(plain, (tmp_path / "a.py").as_uri())


async def test_another_engine_in_the_user_s_file_is_used_from_the_next_request_on(
    tmp_path: Path, scripted: ScriptedHost
) -> None:
    file = tmp_path / "config" / "dlm-lsp" / "dlm-lsp.toml"
    file.parent.mkdir(parents=True)
    async with scripted_host() as other, lsp_client(tmp_path) as editor:
        scripted.script, other.script = ["a"] * 5, ["b"] * 5
        file.write_text(f'followUp = false\n[engine]\nurl = "{scripted.url}"\n')
        await editor.initialize()
        editor.open(URI, TEXT)
        assert (await editor.inline(URI, 1, 11))[0]["insertText"] == "a"
        file.write_text(f'followUp = false\n[engine]\nurl = "{other.url}"\n')
        await asyncio.sleep(1.1)
        assert (await editor.inline(URI, 1, 11))[0]["insertText"] == "b"
        assert len(scripted.bodies) == len(other.bodies) == 1
