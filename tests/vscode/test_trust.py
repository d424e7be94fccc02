"""A workspace from a stranger: what it may not choose until the user trusts it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import MACHINE_SETTINGS, STUB_SERVER, USER_SETTINGS
from tests.vscode.editor import Editor
from tests.vscode.stub import Stub

RESTRICTED = {
    "security.workspace.trust.enabled": True,
    "security.workspace.trust.startupPrompt": "never",
    "security.workspace.trust.banner": "never",
}


@contextmanager
def stranger(
    machine_settings: dict[str, object], environment: dict[str, str] | None = None
) -> Iterator[tuple[Editor, Stub]]:
    """An editor whose workspace is not trusted, and the scripted server."""
    editor = Editor(machine_settings, {**USER_SETTINGS, **RESTRICTED}, environment)
    try:
        assert not editor.driver.run("return vscode.workspace.isTrusted")
        yield editor, Stub(editor.bridge)
    finally:
        editor.close()


def trust(editor: Editor) -> None:
    """Trusts the workspace, as a user does in the editor's page about it."""
    editor.start("workbench.trust.manage")
    editor.page.click('.workspace-trust-buttons-row .monaco-button:has-text("Trust")')
    wait_for(lambda: editor.driver.run("return vscode.workspace.isTrusted"), "it is trusted")


def test_its_settings_choose_no_model_until_it_is_trusted(vscode: None) -> None:
    with stranger(MACHINE_SETTINGS) as (editor, stub):
        wait_for(lambda: stub.requests("initialized"), "the server runs")
        editor.write_settings({"dlm.model": "of-a-stranger.gguf", "dlm.limits.lines": 2})

        def sent() -> dict[str, object]:
            told = stub.requests("workspace/didChangeConfiguration")
            return told[-1]["params"]["settings"]["dlm"] if told else {}

        wait_for(lambda: sent().get("limits") == {"lines": 2}, "the harmless one is sent")
        assert "of-a-stranger" not in json.dumps(stub.log)
        trust(editor)
        wait_for(lambda: "of-a-stranger.gguf" in json.dumps(stub.log), "the model is sent")


def test_a_program_inside_it_is_not_run_until_it_is_trusted(vscode: None, tmp_path: Path) -> None:
    """Not even one that PATH leads to through a link."""
    arguments = {"dlm.server.args": []}
    path = f"{tmp_path}:{os.environ['PATH']}"
    with stranger(arguments, {"PATH": path}) as (editor, stub):
        program = editor.workspace / "bin" / "dlm-lsp"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{STUB_SERVER}'\n")
        program.chmod(0o755)
        (tmp_path / "dlm-lsp").symlink_to(program)
        editor.command("dlm.restartServer")
        message = editor.notified("not trusted")
        assert str(tmp_path / "dlm-lsp") in message
        assert "not trusted" in editor.status()[1]
        assert stub.starts == 0
        trust(editor)
        wait_for(lambda: stub.starts == 1, "it is run")
        wait_for(lambda: "Model: scripted" in editor.status()[1], "it is up")


@pytest.fixture(autouse=True)
def no_program_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests has the real server, whose folder may be on PATH."""
    folders = [
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "dlm-lsp").exists()
    ]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
