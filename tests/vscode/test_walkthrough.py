"""The first run: the walkthrough's steps are there, lead to what they say, and are ticked off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import MACHINE_SETTINGS, USER_SETTINGS, Bench, bench_with
from tests.vscode.editor import Editor
from tests.vscode.stub import Stub

STEP = ".getting-started-step"
TITLES = ("Install the language server", "Get a model", "Type")
DONE = f"{STEP} .codicon-getting-started-step-checked"


def num_done(editor: Editor) -> int:
    return len(editor.page.query_selector_all(DONE))


@pytest.fixture(scope="module")
def bench(vscode: None) -> Iterator[Bench]:
    with bench_with() as made:
        yield made


def test_its_steps_are_ticked_off_by_what_happens(vscode: None):
    """In a window in which no server runs yet, as after an installation."""
    editor = Editor(MACHINE_SETTINGS, {**USER_SETTINGS, "dlm.enabled": False})
    try:
        stub = Stub(editor.bridge)
        editor.command("workbench.action.openWalkthrough", "dlm-lsp.dlm#start", False)
        editor.page.wait_for_selector(STEP)
        for text, title in zip(editor.texts(STEP), TITLES, strict=True):
            assert text.startswith(title)
        assert num_done(editor) == 0
        editor.settings({"dlm.enabled": True})
        wait_for(lambda: stub.requests("initialized"), "the server is started")
        wait_for(lambda: num_done(editor) == 2, "the server runs and has a model")
    finally:
        editor.close()


def test_a_model_is_pulled_with_progress_and_can_be_cancelled(bench: Bench):
    bench.fresh()
    bench.start("dlm.getModel")
    request = bench.stub.commanded("dlm.pullModel")
    token = request["params"]["workDoneToken"]

    def progress(**value: object) -> None:
        bench.stub.notify("$/progress", {"token": token, "value": value})

    progress(kind="begin", title="Pulling", percentage=0)
    progress(kind="report", message="245 of 491 MB, 9 s left", percentage=50)
    bench.notified("245 of 491 MB")
    wait_for(lambda: "50 %" in bench.status()[0], "the status bar says how far it is")
    bench.page.click('.notifications-toasts .monaco-button:has-text("Cancel")')
    cancelled = bench.stub.commanded("dlm.cancel")
    assert cancelled["params"]["arguments"] == [{"token": token}]
    progress(kind="end")
    bench.stub.answer(request, {"pulled": False, "name": "qwen2.5-coder-0.5b"})
    wait_for(lambda: "%" not in bench.status()[0], "the status bar is as before")


def test_a_model_that_was_pulled_is_said_and_a_failure_with_its_cause(bench: Bench):
    bench.fresh()
    bench.start("dlm.getModel")
    request = bench.stub.commanded("dlm.pullModel")
    bench.stub.answer(request, {"pulled": True, "name": "qwen2.5-coder-0.5b"})
    bench.notified("qwen2.5-coder-0.5b is here")
    bench.stub.reset()
    bench.start("dlm.getModel")
    request = bench.stub.commanded("dlm.pullModel")
    bench.stub.refuse(request["id"], -32803, "The disk is full: 491 MB are needed.")
    bench.notified("No model was pulled: The disk is full: 491 MB are needed.")
