"""Names of documents and line ends, over a real process: faults that users have reported.

Nothing of a silenced or secret document may reach the engine: `scripted.bodies` holds all that did.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp.suggested import is_suggested
from tests.dlm_lsp.lsp_client import INLINE, INVOKED, TEXT, URI, LspClient
from tests.dlm_lsp.scripted_host import ScriptedHost

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
