"""Where and when nothing is suggested, and what the status bar says and offers."""

from __future__ import annotations

from tests.vscode.bridge import wait_for
from tests.vscode.conftest import Bench
from tests.vscode.editor import STATUS

SHOW_DIFF = """
const [left, right] = values.map((path) => vscode.Uri.file(path));
await vscode.commands.executeCommand('vscode.diff', left, right, 'one and other');
"""
OUTPUT = """
const channel = vscode.window.createOutputChannel('numbers');
channel.appendLine('1 2 3');
channel.show();
"""
NOTEBOOK = """
const cell = new vscode.NotebookCellData(vscode.NotebookCellKind.Code, 'x = 1\\n', 'python');
const notebook = await vscode.workspace.openNotebookDocument(
  'jupyter-notebook', new vscode.NotebookData([cell]));
await vscode.window.showNotebookDocument(notebook);
"""


def is_quiet(bench: Bench) -> None:
    """Typing arrives, and asks nothing."""
    bench.stub.reset()
    before = bench.text()
    bench.type("xy")
    wait_for(lambda: "xy" in bench.text() and bench.text() != before, "the keys arrive")
    bench.settle()
    bench.sleep(0.3)
    assert bench.stub.requests() == []
    assert (bench.ghost(), bench.draft()) == ("", "")


def open_menu(bench: Bench, entry: str) -> None:
    """Clicks the item in the status bar and an entry of its menu."""
    bench.page.click(STATUS)
    bench.choose(entry)


def test_a_comparison_is_quiet(bench: Bench):
    bench.fresh("one\n|")
    left = bench.open("left.py", "x = 1\n|")
    right = bench.open("right.py", "x = 2\n|")
    bench.command("workbench.action.closeAllEditors")
    bench.driver.run(SHOW_DIFF, str(left), str(right))
    bench.page.wait_for_selector(".monaco-diff-editor .editor.modified .view-line")
    bench.command("workbench.action.compareEditor.focusPrimarySide")
    is_quiet(bench)
    bench.fresh()
    bench.stub.suggest(bench.asked_after("x"), " = 1")
    bench.shows_ghost(" = 1")


def test_output_and_search_are_quiet(bench: Bench):
    bench.fresh("needle\n|")
    bench.driver.run(OUTPUT)
    bench.settle()
    assert bench.stub.requests() == []
    bench.stub.reset()
    bench.command("search.action.openNewEditor", {"query": "needle", "triggerSearch": True})
    wait_for(
        lambda: (
            bench.driver.run("return vscode.window.activeTextEditor?.document.uri.scheme")
            == "search-editor"
        ),
        "the search editor",
    )
    bench.page.click(".search-editor .search-results .view-lines")
    bench.press("Control+End")
    is_quiet(bench)
    # Closing it as it is would ask whether to save it.
    bench.command("workbench.action.revertAndCloseActiveEditor")
    bench.command("workbench.action.closePanel")


def test_a_language_is_off_by_setting(bench: Bench):
    bench.fresh("|", name="notes.md", language="markdown", dlm__languages={"markdown": False})
    is_quiet(bench)
    wait_for(lambda: "markdown" in bench.status()[1], "the status says why")
    bench.open("code.py", "|")
    bench.stub.suggest(bench.asked_after("x"), " = 1")
    bench.shows_ghost(" = 1")
    assert "markdown" not in bench.status()[1]


def test_a_language_is_switched_off_and_on_from_the_status_bar(bench: Bench):
    bench.fresh()
    open_menu(bench, "Toggle Suggestions for python")
    bench.notified("Suggestions for python are off")
    bench.page.click(".editor-instance .view-lines")
    is_quiet(bench)
    wait_for(lambda: "Switched off for python" in bench.status()[1], "the status says why")
    bench.command("notifications.clearAll")
    open_menu(bench, "Toggle Suggestions for python")
    bench.notified("Suggestions for python are on")
    bench.page.click(".editor-instance .view-lines")
    bench.stub.suggest(bench.asked_after("z"), " = 1")
    bench.shows_ghost(" = 1")
    bench.settings({"dlm.languages": None})


def test_snoozing_from_the_status_bar_and_its_end(bench: Bench):
    bench.fresh()
    bench.stub.auto["dlm.snooze"] = None
    open_menu(bench, "Snooze")
    wait_for(lambda: "10 minutes" in bench.choices(), "a choice of minutes")
    bench.choose("10 minutes")
    request = bench.stub.commanded("dlm.snooze")
    assert request["params"]["arguments"] == [{"minutes": 10}]
    bench.stub.status("off", reason="snoozed", snoozedUntil="2040-01-01T10:00:00+00:00")
    wait_for(lambda: "Snoozing until" in bench.status()[1], "the status says so")
    open_menu(bench, "End the Snooze")
    request = bench.stub.commanded("dlm.snooze", 2)
    assert request["params"]["arguments"] == [{"minutes": 0}]
    bench.stub.status()
    wait_for(lambda: "Snoozing" not in bench.status()[1], "the status says so no more")


def test_a_file_is_switched_off_from_the_status_bar(bench: Bench):
    bench.fresh(name="quiet.py")
    bench.stub.auto["dlm.toggle"] = None
    open_menu(bench, "Toggle Suggestions in This File")
    request = bench.stub.commanded("dlm.toggle")
    assert request["params"]["arguments"][0]["uri"].endswith("/quiet.py")


def test_the_status_bar_says_model_mode_latency_and_reason(bench: Bench):
    bench.fresh()
    bench.stub.status(
        "ready", model="small", mode="block", device="cuda", lastMs=123.4, tokensPerForward=3.14
    )
    wait_for(lambda: "123 ms" in bench.status()[0], "the latency")
    told = bench.status()[1]
    for part in ("Model: small", "Mode: block", "Device: cuda", "123 ms", "3.1"):
        assert part in told
    bench.page.hover(STATUS)
    hover = ".workbench-hover, .monaco-hover"
    wait_for(lambda: any("Mode: block" in one for one in bench.texts(hover)), "a hover")
    bench.stub.status("ready", reason="the model is not sure enough")
    wait_for(
        lambda: "Nothing was shown: the model is not sure enough" in bench.status()[1],
        "the reason",
    )
    bench.stub.status("loading", message="The model is loaded, 40 %")
    wait_for(lambda: "40 %" in bench.status()[1], "what is loaded")
    bench.stub.status("error", message="No memory for the model")
    wait_for(lambda: "No memory for the model" in bench.status()[1], "what is wrong")
    bench.stub.status()


def test_a_mode_is_chosen_from_the_status_bar(bench: Bench):
    bench.fresh()
    bench.stub.auto["dlm.setMode"] = None
    open_menu(bench, "Choose Mode")
    wait_for(lambda: "block" in bench.choices(), "the modes")
    bench.choose("block diffusion")
    request = bench.stub.commanded("dlm.setMode")
    assert request["params"]["arguments"] == [{"mode": "block"}]


def test_messages_of_the_server_are_shown(bench: Bench):
    bench.fresh()
    bench.stub.notify("window/showMessage", {"type": 2, "message": "The settings file is broken."})
    bench.notified("The settings file is broken.")


def test_a_cell_of_a_notebook_gets_suggestions(bench: Bench):
    bench.fresh()
    bench.stub.reset()
    bench.driver.run(NOTEBOOK)
    bench.page.click(".notebookOverlay .cell .view-lines")
    bench.press("Control+End")
    bench.type("y")
    request = bench.stub.asked()
    assert request["params"]["textDocument"]["uri"].startswith("vscode-notebook-cell:")
    bench.stub.suggest(request, " = 2")
    ghost = ".notebookOverlay .ghost-text-decoration"
    wait_for(lambda: "".join(bench.texts(ghost)) == " = 2", "a suggestion")
    bench.press("Tab")
    cell = "return vscode.window.activeNotebookEditor.notebook.cellAt(0).document.getText()"
    wait_for(lambda: bench.driver.run(cell).endswith("y = 2"), "it is inserted")
    bench.command("workbench.action.revertAndCloseActiveEditor")


def test_a_selection_is_quiet(bench: Bench):
    bench.fresh("one two|")
    bench.press("Shift+Home")
    bench.settle()
    assert bench.stub.requests() == []


def test_a_new_file_without_a_name_gets_suggestions(bench: Bench):
    bench.fresh()
    bench.stub.reset()
    bench.driver.run(
        "await vscode.window.showTextDocument("
        "await vscode.workspace.openTextDocument({ language: 'python', content: '' }))"
    )
    bench.page.wait_for_selector('.tab.active[data-resource-name^="Untitled"]')
    bench.page.wait_for_selector(".editor-instance .monaco-editor.focused")
    request = bench.asked_after("x")
    assert request["params"]["textDocument"]["uri"].startswith("untitled:")
    bench.stub.suggest(request, " = 1")
    bench.shows_ghost(" = 1")
    bench.command("workbench.action.revertAndCloseActiveEditor")
