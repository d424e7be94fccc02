"""The server as a process, and the settings: what is sent, named, started anew and survived."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import MACHINE_SETTINGS, Bench, bench_with


@pytest.fixture(scope="module")
def bench(vscode: None) -> Iterator[Bench]:
    with bench_with() as made:
        yield made


def runs(bench: Bench) -> bool:
    return bench.stub.is_up and f"Model: scripted {bench.stub.starts}" in bench.status()[1]


def suggests(bench: Bench) -> None:
    """Asks for a suggestion, which comes."""
    bench.stub.suggest(bench.begin(), " = 1")
    bench.shows_ghost(" = 1")


def crashed(bench: Bench) -> None:
    """Kills the server and waits for the next one."""
    starts = bench.stub.starts
    bench.stub.crash()
    wait_for(lambda: bench.stub.starts == starts + 1, "the server is started again")


def test_the_server_is_told_what_the_user_has_set_and_nothing_else(bench: Bench):
    sent = bench.stub.settings["dlm"]
    assert set(sent) <= {"drafts", "statusNotifications", "delay", "nextEdit"}
    assert sent["drafts"] is True
    bench.stub.reset()
    bench.settings({"dlm.limits.lines": 3, "dlm.silence.comments": True})
    changed = bench.stub.asked(method="workspace/didChangeConfiguration")
    wait_for(
        lambda: any(
            one["params"]["settings"]["dlm"].get("limits") == {"lines": 3}
            and one["params"]["settings"]["dlm"].get("silence") == {"comments": True}
            for one in bench.stub.requests("workspace/didChangeConfiguration")
        ),
        f"both are sent, after {changed}",
    )
    bench.settings({"dlm.limits.lines": None, "dlm.silence.comments": None})


def test_a_crash_in_the_middle_of_a_draft_takes_it_away_and_work_goes_on(bench: Bench):
    request = bench.begin()
    bench.stub.draft(request, " = dra", "░░")
    bench.shows_draft(" = dra░░")
    crashed(bench)
    bench.shows_draft("")
    assert bench.text() == "x"
    suggests(bench)
    bench.press("Tab")
    bench.has_text("x = 1")


def test_the_document_is_told_to_the_new_server_as_it_is_now(bench: Bench):
    bench.fresh("first\n|")
    bench.type("second")
    bench.has_text("first\nsecond")
    bench.stub.reset()
    bench.press("Control+Shift+P")
    bench.page.keyboard.type("dlm: Restart the Language")
    bench.choose("Restart the Language Server")
    bench.stub.asked(method="textDocument/didOpen")
    wait_for(
        lambda: any(
            one["params"]["textDocument"]["text"] == "first\nsecond"
            for one in bench.stub.requests("textDocument/didOpen")
        ),
        "the text is told",
    )
    wait_for(lambda: runs(bench), "it runs again")
    suggests(bench)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dlm.draft", "final"),
        ("workbench.reduceMotion", "on"),
        ("editor.accessibilitySupport", "on"),
    ],
)
def test_only_final_suggestions_by_setting(bench: Bench, name: str, value: str):
    """Also for whom motion is too much, and for a screen reader."""
    starts = bench.stub.starts
    bench.settings({name: value})
    wait_for(lambda: bench.stub.starts > starts, "it is started anew")
    try:
        wait_for(lambda: bench.stub.settings["dlm"]["drafts"] is False, "it is told")
        request = bench.begin()
        assert "workDoneToken" not in request["params"]
        bench.stub.draft(request, " = draft", changes={"token": "dlm-1"})
        bench.settle()
        assert bench.draft() == ""
        bench.stub.suggest(request, " = 1")
        bench.shows_ghost(" = 1")
    finally:
        starts = bench.stub.starts
        bench.settings({name: None})
        wait_for(lambda: bench.stub.starts > starts, "it is started anew")


def test_wrong_settings_are_named_and_do_no_harm(bench: Bench):
    bench.fresh()
    wrong = {"dlm.delay": "soon", "dlm.limits.lines": "many", "dlm.colour": "red"}
    bench.write_settings(wrong)
    message = bench.notified("dlm.")
    assert "dlm.delay" in message
    assert '"soon"' in message
    assert "dlm.limits.lines" in message
    assert "dlm.colour is not a setting" in message
    bench.stub.suggest(bench.asked_after("x"), " = 1")
    bench.shows_ghost(" = 1")
    bench.write_settings({})


def test_a_server_that_ends_again_and_again_is_given_up_with_a_button(bench: Bench):
    bench.fresh()
    while not bench.notifications():
        starts = bench.stub.starts
        bench.stub.crash()
        wait_for(
            lambda starts=starts: (
                (bench.stub.starts > starts and runs(bench)) or bench.notifications()
            ),
            "it is started again or given up",
        )
        assert bench.stub.starts < 20
    assert bench.notifications() == [
        "The language server has ended unexpectedly. It is not started again by itself."
    ]
    assert bench.status()[1].startswith("dlm-lsp: The language server has ended unexpectedly")
    starts = bench.stub.starts
    bench.page.click('.notifications-toasts .monaco-button:has-text("Restart")')
    wait_for(lambda: bench.stub.starts == starts + 1, "it is started")
    wait_for(lambda: runs(bench), "it runs")
    suggests(bench)


def test_a_server_that_ends_while_it_starts_is_said_once(bench: Bench):
    bench.fresh()
    bench.stub.dies_early = True
    starts = bench.stub.starts
    bench.stub.crash()
    try:
        message = bench.notified("could not be started")
        bench.settle()
        assert bench.notifications() == [message]
        assert bench.stub.starts == starts + 1
    finally:
        bench.stub.dies_early = False
    bench.page.click('.notifications-toasts .monaco-button:has-text("Restart")')
    wait_for(lambda: runs(bench), "it runs again")
    suggests(bench)


def test_switched_off_nothing_runs_and_switched_on_it_does(bench: Bench):
    bench.settings({"dlm.enabled": False})
    wait_for(lambda: not bench.stub.is_up, "the server has ended")
    wait_for(lambda: "dlm.enabled" in bench.status()[1], "the status says why")
    bench.settings({"dlm.enabled": None})
    wait_for(lambda: runs(bench), "it runs")
    suggests(bench)


def test_a_program_that_is_missing_is_said_with_a_button_to_install(bench: Bench):
    bench.settings({"dlm.server.path": "/nowhere/dlm-lsp"})
    message = bench.notified("/nowhere/dlm-lsp")
    assert "dlm.server.path" in message
    buttons = bench.texts(".notifications-toasts .monaco-button")
    assert "Install" in buttons
    assert "/nowhere/dlm-lsp" in bench.status()[1]
    bench.open("without.py", "|")
    bench.type("x")
    bench.settle()
    assert bench.ghost() == ""
    bench.settings({"dlm.server.path": MACHINE_SETTINGS["dlm.server.path"]})
    wait_for(lambda: runs(bench), "it runs")
    suggests(bench)


def test_a_program_that_is_no_server_is_said(bench: Bench):
    bench.settings({"dlm.server.args": ["-c", "raise SystemExit('no such option: --stdio')"]})
    wait_for(bench.notifications, "a message")
    assert "dlm-lsp" in bench.status()[1]
    bench.settings({"dlm.server.args": MACHINE_SETTINGS["dlm.server.args"]})
    wait_for(lambda: runs(bench), "it runs")
    suggests(bench)
