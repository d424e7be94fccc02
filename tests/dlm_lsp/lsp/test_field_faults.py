"""Faults that users of such tools have reported, over a real process: the class and its rule.

Nothing of a silenced or secret document may reach the engine: `scripted.bodies` holds all that did.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import INVOKED, TEXT, URI, LspClient
from tests.dlm_lsp.scripted_host import ScriptedHost

CONFIGURATION = {"workspace": {"configuration": True}}
INLINE: dict[str, Any] = {"textDocument": {"inlineCompletion": {}}}


@pytest.fixture
async def plain(scripted: ScriptedHost, editor: LspClient) -> LspClient:
    """A server that is initialised; the engine answers every request."""
    await editor.initialize({"engine": {"url": scripted.url}})
    scripted.script = ["a + b"] * 50
    return editor


async def is_suggested(editor: LspClient, uri: str, language: str = "python") -> bool:
    """Opens a document and tells whether something is suggested in it, asked in both ways."""
    editor.open(uri, TEXT, language=language)
    automatic = await editor.inline(uri, 1, 11)
    invoked = await editor.inline(uri, 1, 11, INVOKED)
    assert bool(automatic) == bool(invoked)
    editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    return bool(automatic)


# Line ends


@pytest.mark.parametrize(
    ("client", "line_end"),
    [
        ({"name": "Neovim", "version": "0.12.4"}, "\n"),
        ({"name": "Visual Studio Code"}, "\n"),
        ({"name": "emacs"}, "\n"),
        ({"name": "helix"}, "\r\n"),
        (None, "\r\n"),
    ],
)
async def test_line_ends_are_those_that_the_client_needs_on_every_path(
    editor: LspClient, scripted: ScriptedHost, client: Any, line_end: str
) -> None:
    """A client that gives text its own line ends would keep another \\r as a character."""
    dlm = {"engine": {"url": scripted.url}, "drafts": True}
    capabilities = {**INLINE, "workspace": {"workspaceEdit": {"documentChanges": True}}}
    await editor.initialize(dlm, capabilities, clientInfo=client)
    editor.open(URI, "def f(x):\r\n    y = 1\r\n")
    wanted = f"{line_end}    y = 2{line_end}    z = 3"
    asking = editor.ask_inline(URI, 1, 9, workDoneToken="t")
    job = await scripted.job()
    job.start()
    job.draft("\n    y = 2", "\n    z = 3", (0, 1, 0.5), (1, 10, 0.25))
    draft = await editor.seen("dlm/draft")
    assert draft["committed"] + draft["draft"] == wanted
    assert draft["spans"][-1]["end"] == len(draft["draft"])
    job.finish("\n    y = 2\n    z = 3\n")
    (item,) = await editor.answer(asking)
    assert item["insertText"] == wanted
    scripted.script = ["\n    y = 2\n    z = 3\n"]
    fill = {"uri": URI, "position": {"line": 1, "character": 9}}
    filled = await editor.request(
        "workspace/executeCommand", {"command": "dlm.fill", "arguments": [fill]}
    )
    (change,) = filled["edit"]["documentChanges"]
    assert change["edits"][0]["newText"] == wanted


async def test_line_ends_of_a_popup_item_are_the_client_s(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.initialize(
        {"engine": {"url": scripted.url}}, capabilities={}, clientInfo={"name": "Neovim"}
    )
    editor.open(URI, "def f(x):\r\n    y = 1\r\n")
    scripted.script = ["\n    y = 2\n    z = 3\n"] * 4
    place = {"textDocument": {"uri": URI}, "position": {"line": 1, "character": 9}}
    for _ in range(50):  # While the engine loads the list is empty.
        answer = await editor.request("textDocument/completion", place)
        if answer["items"]:
            break
        await asyncio.sleep(0.05)
    (item,) = answer["items"]
    assert "\r" not in item["textEdit"]["newText"]
    assert "\n" in item["textEdit"]["newText"]


async def test_typing_through_a_line_end_keeps_the_suggestion(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    await editor.initialize({"engine": {"url": scripted.url}}, clientInfo={"name": "Neovim"})
    editor.open(URI, "def f(x):\r\n    y = 1\r\n")
    scripted.script = ["\n    y = 2\n    z = 3\n"]
    assert await editor.inline(URI, 1, 9)
    editor.insert(URI, 2, 1, 9, "\r\n    y")
    (item,) = await editor.inline(URI, 2, 5)
    assert item["insertText"] == " = 2\n    z = 3"
    assert len(scripted.bodies) == 1


# Names of documents


@pytest.mark.parametrize(
    "uri",
    [
        "file:///w/" + "a" * 4764 + ".py",
        "file:///w/" + "b/" * 3000 + "x.py",
        "file:///w/\ud800.py",
        "untitled:\udfff",
    ],
)
async def test_a_name_that_only_the_log_needs_never_fails_a_request(
    plain: LspClient, scripted: ScriptedHost, uri: str
) -> None:
    assert await is_suggested(plain, uri)
    assert scripted.bodies


@pytest.mark.parametrize(
    ("glob", "uri"),
    [
        ("*.ipynb", "vscode-notebook-cell:/w/n.ipynb#W0"),
        ("*.ipynb", "vscode-notebook-cell:/w/n.ipynb#W0/sub?x=/a"),
        ("*.py", "git:/w/a.py?%7B%22ref%22%3A%22HEAD%22%7D"),
        ("w/**", "vscode-vfs://host/w/x.txt?q#f"),
        ("*.py", "file:///w/a%2Epy"),
    ],
)
async def test_a_glob_sees_the_name_without_query_and_fragment(
    editor: LspClient, scripted: ScriptedHost, glob: str, uri: str
) -> None:
    await editor.initialize({"engine": {"url": scripted.url}, "silence": {"globs": [glob]}})
    assert not await is_suggested(editor, uri)
    assert not scripted.bodies


@pytest.mark.parametrize(
    "uri",
    [
        *("git:/w/.env?%7B%22path%22%3A1%7D", "file:///w/.env#x", "file:///w#/.env"),
        *("vscode-notebook-cell:/w/.env#W0", "file:///w/secret.yaml", "file:///w/.env-prod"),
        *("file:///w/.Renviron", "file:///w/terraform.tfvars.json", "file:///w/key.p8"),
        *("file:///k8s/secrets/db.yaml", "file:///w/application_default_credentials.json"),
        *("file:///w/my-secret.yml", "file:///w/.env_staging", "file:///w/.config/gcloud/x.db"),
        *("file:///w/a.keytab", "file:///w/.env.example.local", "file:///w/id_ed25519_sk"),
    ],
)
async def test_secrets_are_found_under_any_spelling_of_their_name(
    plain: LspClient, scripted: ScriptedHost, uri: str
) -> None:
    assert not await is_suggested(plain, uri)
    assert not scripted.bodies


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///w/.env.example", "file:///w/.env.sample", "file:///w/.env-template"),
        *("file:///w/example.env", "file:///w/secrets.py", "file:///src/secrets/vault.go"),
        "file:///w/vite.env.d.ts",
    ],
)
async def test_names_that_only_show_where_secrets_belong_are_harmless(
    plain: LspClient, uri: str
) -> None:
    assert await is_suggested(plain, uri)


@pytest.mark.parametrize("kind", ["file", "chain", "folder", "relative"])
async def test_a_link_counts_as_what_it_leads_to(
    plain: LspClient, scripted: ScriptedHost, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / ".ssh"
    folder.mkdir()
    (folder / "config").write_text(TEXT)
    (tmp_path / ".env").write_text(TEXT)
    link = tmp_path / "settings.txt"
    if kind == "folder":
        (tmp_path / "plain").symlink_to(folder)
        link = tmp_path / "plain" / "config"
    elif kind == "chain":
        (tmp_path / "between").symlink_to(tmp_path / ".env")
        link.symlink_to(tmp_path / "between")
    else:
        link.symlink_to(".env" if kind == "relative" else tmp_path / ".env")
    assert not await is_suggested(plain, link.as_uri())
    assert not scripted.bodies


@pytest.mark.parametrize("uri", ["file://", "file:///", "file:", ""])
async def test_documents_without_a_name_are_never_mixed(
    plain: LspClient, scripted: ScriptedHost, uri: str
) -> None:
    """Neovim calls every buffer without a name `file://`, so that their texts cannot be told
    apart."""
    plain.open(uri, "first = 1\n")
    plain.open(uri, "second = 2\n")
    assert await plain.inline(uri, 0, 6) == []
    assert await plain.inline(uri, 0, 6, INVOKED) == []
    assert not scripted.bodies


async def test_an_edit_that_cuts_a_character_puts_the_document_out_of_step(
    plain: LspClient, scripted: ScriptedHost
) -> None:
    plain.open(URI, "x = '😀'\n")
    place = {"line": 0, "character": 6}
    plain.change(URI, 2, {"range": {"start": place, "end": place}, "text": "a"})
    assert await plain.inline(URI, 0, 6) is None
    log = await plain.seen("window/logMessage", lambda log: "inside a character" in log["message"])
    assert URI in log["message"]
    plain.change(URI, 3, {"text": TEXT})
    assert await plain.inline(URI, 1, 11)


# Settings


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


async def test_a_settings_file_may_begin_with_a_byte_order_mark(
    plain: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    content = b'\xef\xbb\xbf[silence]\nlanguages = ["python"]\n'
    (tmp_path / "dlm-lsp.toml").write_bytes(content)
    uri = (tmp_path / "a.py").as_uri()
    assert not await is_suggested(plain, uri)
    assert await is_suggested(plain, uri, "javascript")
    assert not plain.all_of("window/logMessage")


async def test_a_home_folder_that_does_not_exist_is_named_and_the_server_goes_on(
    editor: LspClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await editor.initialize({"engine": {"checkpoint": "~nosuchuser/m"}})
    editor.open(URI, TEXT)
    assert await editor.inline(URI, 1, 11) == []
    shown = await editor.seen("window/showMessage")
    assert "engine.checkpoint is '~nosuchuser/m'" in shown["message"]
    assert await editor.stats()


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


# What users switch


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
        ("x = 1 ", (0, 6), True),
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


async def run(editor: LspClient, command: str, **fields: Any) -> Any:
    return await editor.request(
        "workspace/executeCommand", {"command": command, "arguments": [fields]}
    )


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
