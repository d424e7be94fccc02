"""The extension with the real language server, and the extension as it is packaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Home, home  # noqa: F401
from tests.e2e.test_nvim import NOISE, SOURCE
from tests.e2e.test_nvim_plugin import TEXT, drafting
from tests.vscode.bridge import wait_for
from tests.vscode.editor import Editor
from tests.vscode.programs import EXTENSION, FETCHED, node
from tests.vscode.stub import CAPABILITIES

PROGRAM = Path(sys.executable).parent / "dlm-lsp"
SECONDS_MAX = 120.0
HOLE = SOURCE.replace("amount: float) -> None:\n\n", "amount: float) -> None:\n        |\n", 1)
WRITTEN = TEXT.replace("\\n", "\n")  # what the scripted host makes of it


@pytest.fixture(scope="module")
def editor(vscode: None, home: Home) -> Iterator[Editor]:  # noqa: F811
    machine_settings = {"dlm.server.path": str(PROGRAM)}
    made = Editor(machine_settings, {"dlm.delay": 0}, home.environment)
    try:
        made.fresh()
        wait_for(lambda: "Model" in made.status()[1], "the server runs", SECONDS_MAX)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An engine host that writes TEXT, word by word."""
    with drafting(TEXT) as given:
        yield given


def shown(editor: Editor) -> str:
    return wait_for(editor.ghost, "a suggestion", SECONDS_MAX)


def accept(editor: Editor) -> None:
    """Takes what is shown by Tab and checks that the document has just that more."""
    shown(editor)
    wait_for(lambda: editor.draft() == "", "it is final", SECONDS_MAX)
    before, ghost = editor.text(), editor.ghost()
    line, character = editor.cursor()
    offset = sum(len(one) + 1 for one in before.split("\n")[:line]) + character
    editor.press("Tab")
    wait_for(lambda: editor.text() != before, "it is inserted")
    # Blanks at the beginnings of lines are not part of what is compared: tabulators are drawn so.
    inserted = editor.text()[offset : offset + len(editor.text()) - len(before)]
    assert inserted.split() == ghost.split()


def answer_to_initialize(environment: dict[str, str]) -> dict[str, Any]:
    """What the real server offers to a client as VS Code is one."""
    params = {
        "processId": None,
        "rootUri": None,
        "capabilities": {
            "general": {"positionEncodings": ["utf-16"]},
            "textDocument": {"inlineCompletion": {}},
        },
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    exit_body = json.dumps({"jsonrpc": "2.0", "method": "exit"})
    messages = "".join(f"Content-Length: {len(one)}\r\n\r\n{one}" for one in (body, exit_body))
    done = subprocess.run(
        [str(PROGRAM), "--stdio"],
        input=messages.encode(),
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    header, _, rest = done.stdout.partition(b"\r\n\r\n")
    length = int(header.split(b"Content-Length:")[1].split(b"\r\n")[0])
    return json.loads(rest[:length])["result"]["capabilities"]


def test_the_scripted_server_offers_what_the_real_one_does(home: Home):  # noqa: F811
    assert answer_to_initialize(home.environment) == CAPABILITIES


def test_a_draft_of_the_real_server_refines_and_is_inserted_as_shown(editor: Editor, url: str):
    editor.fresh(HOLE.replace(" |", "|"), name="account.py", dlm__engine__url=url)
    editor.record()
    editor.type(" ")
    editor.shows_ghost(WRITTEN)
    frames = editor.recorded()
    assert any("░" in frame.draft for frame in frames)
    first = next(index for index, frame in enumerate(frames) if not frame.is_blank)
    blank = [frame for frame in frames[first:] if frame.is_blank]
    assert len(blank) <= 1
    editor.press("Tab")
    editor.has_text(HOLE.replace("|", WRITTEN))


def test_a_fill_of_the_real_server(editor: Editor, url: str):
    editor.fresh(HOLE, name="filled.py", dlm__engine__url=url, dlm__silence__automatic=False)
    editor.press("Control+Alt+Space")
    editor.shows_ghost(WRITTEN)
    editor.press("Tab")
    editor.has_text(HOLE.replace("|", WRITTEN))


def test_snoozing_the_real_server(editor: Editor, url: str):
    editor.fresh(HOLE, name="snoozed.py", dlm__engine__url=url)
    editor.start("dlm.snoozeSuggestions")
    wait_for(lambda: "5 minutes" in editor.choices(), "a choice of minutes")
    editor.choose("5 minutes")
    wait_for(lambda: "Snoozing until" in editor.status()[1], "the status says so")
    editor.page.click(".editor-instance .view-lines")
    editor.type("self")
    editor.settle()
    editor.sleep(1)
    assert (editor.ghost(), editor.draft()) == ("", "")
    editor.start("dlm.snoozeSuggestions")
    wait_for(lambda: "End the snooze" in editor.choices(), "its end")
    editor.choose("End the snooze")
    wait_for(lambda: "Snoozing" not in editor.status()[1], "it has ended")


def test_a_suggestion_of_the_bundled_model(editor: Editor, home: Home):  # noqa: F811
    settings: dict[str, Any] = {}
    if not home.is_bundled:
        settings = {
            "dlm__limits__tokensMax": NOISE["limits"]["tokensMax"],
            "dlm__silence__confidence": 0,
            "dlm__syntax": False,
        }
    editor.fresh(HOLE, name="bundled.py", **settings)
    editor.type("self.")
    accept(editor)
    wait_for(lambda: "Last answer" in editor.status()[1], "the status")


@pytest.mark.slow
def test_a_suggestion_of_a_real_model(editor: Editor, real_model: Path):
    editor.fresh(HOLE, name="real.py", dlm__model=str(real_model))
    editor.type("self.")
    wait_for(lambda: "balance" in editor.ghost(), "a suggestion", SECONDS_MAX)
    accept(editor)


@pytest.mark.slow
def test_a_refinement_of_a_real_model(editor: Editor, real_model: Path):
    text = "def area(width, height):\n    return widht * hieght\n"
    editor.fresh(text + "|", name="refined.py", dlm__model=str(real_model))
    editor.driver.run(
        "vscode.window.activeTextEditor.selection = new vscode.Selection(1, 0, 1, 24)"
    )
    wait_for(
        lambda: any("selected" in one for one in editor.texts(".statusbar-item")), "a selection"
    )
    editor.press("Control+Alt+r")
    ended = "Nothing is refined"
    wait_for(
        lambda: "accepts" in editor.draft() or any(ended in one for one in editor.notifications()),
        "the refinement ends",
        SECONDS_MAX,
    )
    assert editor.text() == text
    if "accepts" not in editor.draft():  # The model may find the line good enough.
        return
    editor.press("Enter")
    wait_for(lambda: editor.text() != text, "it is accepted")
    editor.press("Control+z")
    editor.has_text(text)


def test_the_package_installs_and_holds_the_extension_and_the_server(tmp_path: Path, vscode: None):
    """As `make vsix` packs it, with a stand-in for the server's wheel, which is slow to build."""
    folder = tmp_path / "vscode"
    shutil.copytree(EXTENSION, folder, ignore=shutil.ignore_patterns("node_modules", "bundled"))
    (folder / "node_modules").symlink_to(EXTENSION / "node_modules")
    (folder / "bundled").mkdir()
    (folder / "bundled" / "dlm_lsp-0-py3-none-any.whl").write_bytes(b"wheel")
    for name in ("LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    package = folder / "dlm.vsix"
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{node().parent}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        [str(npm), "run", "package", "--", "--out", str(package)],
        [
            str(FETCHED / "vscode" / "out" / "server-main.js"),
            "--accept-server-license-terms",
            f"--server-data-dir={tmp_path / 'data'}",
            f"--extensions-dir={tmp_path / 'extensions'}",
            f"--install-extension={package}",
        ],
    ):
        done = subprocess.run(
            [str(node()), *command], cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (installed,) = (tmp_path / "extensions").glob("dlm-lsp.dlm-*")
    names = {str(one.relative_to(installed)) for one in installed.rglob("*") if one.is_file()}
    assert {"dist/extension.js", "bundled/dlm_lsp-0-py3-none-any.whl", "package.json"} <= names
    assert not [one for one in names if one.startswith(("src", "test", "node_modules"))]
