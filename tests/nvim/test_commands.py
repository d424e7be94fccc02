"""The commands of `:Dlm`, the settings, the status and the check of health."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.nvim.plugin import Plugin

CONFIGURATION = "workspace/didChangeConfiguration"
STATUS: dict[str, Any] = {
    "state": "ready",
    "message": "The engine is ready.",
    "reason": None,
    "mode": "auto",
    "model": "qwen2.5-coder-0.5b",
    "device": "cpu",
    "lastMs": 120.4,
    "tokensPerForward": 2.34,
    "snoozedUntil": None,
    "documentsOff": [],
}


def notes(plugin: Plugin) -> str:
    return "\n".join(plugin.nvim.lua("return Notes"))


def component(plugin: Plugin) -> str:
    return plugin.nvim.lua("return require('dlm').status()")


def run(plugin: Plugin, command: str) -> None:
    plugin.nvim.lua("vim.cmd(...)", command)


def test_every_subcommand_is_offered(plugin: Plugin):
    offered = plugin.nvim.lua("return vim.fn.getcompletion('Dlm ', 'cmdline')")
    assert offered == plugin.nvim.lua("return require('dlm.commands').names()")
    assert {"fill", "refine", "snooze", "toggle", "log", "restart", "mode", "model"} <= set(offered)
    assert plugin.nvim.lua("return vim.fn.getcompletion('Dlm mode p', 'cmdline')") == [
        "pruned_spec"
    ]
    assert plugin.nvim.lua("return vim.fn.getcompletion('Dlm sn', 'cmdline')") == ["snooze"]


def test_an_unknown_subcommand_names_the_known_ones(plugin: Plugin):
    plugin.fresh("|")
    run(plugin, "Dlm fil")
    assert "fill" in notes(plugin)


def test_mode_is_the_servers_affair(plugin: Plugin):
    plugin.fresh("|")
    plugin.nvim.lua("Stub.auto['dlm.setMode'] = { mode = 'block' }")
    run(plugin, "Dlm mode block")
    plugin.wait(lambda: "The mode is block" in notes(plugin), "it is told")
    assert plugin.commands("dlm.setMode") == [{"mode": "block"}]


def test_a_refused_command_is_told(plugin: Plugin):
    plugin.fresh("|")
    run(plugin, "Dlm mode fast")
    request = plugin.asked(1, "workspace/executeCommand")
    plugin.nvim.lua("Stub.refuse(..., -32602, 'mode must be one of these')", request["id"])
    plugin.wait(lambda: "must be one of these" in notes(plugin), "it is told")


def test_model_changes_the_servers_settings(plugin: Plugin):
    plugin.fresh("|")
    run(plugin, "Dlm model qwen2.5-coder-1.5b")
    sent = plugin.asked(1, CONFIGURATION)["params"]["settings"]
    assert sent == {"dlm": {"engine": {"checkpoint": "qwen2.5-coder-1.5b"}}}
    kept = plugin.nvim.lua("return vim.lsp.get_clients({ name = 'dlm_lsp' })[1].settings")
    assert kept == sent, "the server asks for them again"


def test_restart_restarts_the_engine(plugin: Plugin):
    plugin.fresh("|")
    plugin.nvim.lua("Stub.auto['dlm.restart'] = true")
    run(plugin, "Dlm restart")
    plugin.wait(lambda: "restarted" in notes(plugin), "it is told")


def test_restart_starts_a_server_that_has_ended(plugin: Plugin):
    plugin.fresh("|")
    starts = plugin.nvim.lua("return Stub.starts")
    plugin.nvim.lua("vim.lsp.get_clients({ name = 'dlm_lsp' })[1]:stop()")
    plugin.wait(lambda: not plugin.is_attached(), "it has ended")
    run(plugin, "Dlm restart")
    plugin.wait(plugin.is_attached, "it is attached again")
    assert plugin.nvim.lua("return Stub.starts") == starts + 1


def test_a_server_that_keeps_ending_is_given_up(plugin: Plugin):
    plugin.fresh("|")
    plugin.nvim.lua("require('dlm.client').forgive()")
    starts = plugin.nvim.lua("return Stub.starts")
    for count in range(1, 5):
        plugin.nvim.lua("Stub.crash()")
        plugin.settle()
        if count < 4:
            plugin.wait(plugin.is_attached, "it is started again")
    assert plugin.nvim.lua("return Stub.starts") == starts + 3
    assert "not started again" in notes(plugin)
    assert component(plugin) == "dlm ✗"
    run(plugin, "Dlm restart")
    plugin.wait(plugin.is_attached, "by hand it is")


def test_pull_shows_its_progress_and_can_be_cancelled(plugin: Plugin):
    plugin.fresh("|")
    run(plugin, "Dlm pull qwen2.5-coder-0.5b")
    request = plugin.asked(1, "workspace/executeCommand")
    assert request["params"]["command"] == "dlm.pullModel"
    assert request["params"]["arguments"] == [{"name": "qwen2.5-coder-0.5b"}]
    token = request["params"]["workDoneToken"]
    value: dict[str, Any] = {"kind": "begin", "title": "Pulling", "percentage": 0}
    plugin.notify("$/progress", {"token": token, "value": value})
    value = {"kind": "report", "message": "210 of 491 MB", "percentage": 43}
    plugin.notify("$/progress", {"token": token, "value": value})
    plugin.wait(lambda: component(plugin) == "dlm ↓ 43 % 210 of 491 MB", "the status")
    plugin.wait(
        lambda: "dlm: 43 % 210 of 491 MB" in plugin.nvim.refresh().lines()[-1], "the message area"
    )
    run(plugin, "Dlm pull")
    assert "already" in notes(plugin)
    run(plugin, "Dlm cancel")
    plugin.wait(lambda: plugin.commands("dlm.cancel") == [{"token": token}], "it is cancelled")
    plugin.answer_with(request, {"pulled": False, "code": "cancelled", "reason": "Cancelled."})
    plugin.wait(lambda: "Cancelled" in notes(plugin), "it is told")
    assert "↓" not in component(plugin)


def test_a_pulled_model_is_told(plugin: Plugin):
    plugin.fresh("|")
    plugin.nvim.lua("Stub.auto['dlm.pullModel'] = { pulled = true, name = 'it', path = '/x' }")
    run(plugin, "Dlm pull")
    plugin.wait(lambda: "it is here" in notes(plugin), "it is told")


def test_the_servers_hint_offers_the_command(plugin: Plugin):
    plugin.fresh("|")
    message = "The small bundled model is used. Run the command dlm.pullModel to get a real one."
    plugin.notify("window/showMessage", {"type": 3, "message": message})
    plugin.wait(lambda: ":Dlm pull" in notes(plugin), "it is told")


def test_the_status_names_latency_and_tokens_per_forward(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.notify("dlm/status", STATUS)
    plugin.wait(lambda: "2.3 tok/fwd" in component(plugin), "the status")
    assert "ms" in component(plugin)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reason": "The model has nothing to add here."}, "nothing to add here"),
        ({"state": "loading", "message": "The model is loaded."}, "… The model is loaded."),
        ({"state": "error", "message": "No memory."}, "✗ No memory."),
        ({"state": "busy"}, "◐"),
    ],
)
def test_the_status_says_what_is_the_matter(plugin: Plugin, changes: dict[str, Any], expected: str):
    plugin.fresh("x = |")
    plugin.notify("dlm/status", {**STATUS, **changes})
    plugin.wait(lambda: expected in component(plugin), "the status")


def test_the_whole_status_is_shown_in_a_window_that_waits_for_nothing(plugin: Plugin):
    plugin.fresh("|x = 1\ny = 2")
    plugin.notify("dlm/status", {**STATUS, "message": "The engine is ready."})
    plugin.wait(lambda: "tok/fwd" in component(plugin), "the status")
    plugin.type(":Dlm status<CR>")
    plugin.wait(lambda: "message: The engine is ready." in "\n".join(plugin.lines()), "it is seen")
    assert plugin.nvim.lua("return vim.api.nvim_get_mode()") == {"mode": "n", "blocking": False}
    plugin.type("j")
    plugin.shows("x = 1", "y = 2")
    assert plugin.cursor() == (2, 0)


@pytest.mark.parametrize("text", ["word " * 100, "first\nsecond\nthird", "日本 " * 50])
def test_no_message_waits_for_enter(plugin: Plugin, text: str):
    plugin.fresh("|x = 1")
    plugin.nvim.lua("vim.cmd.messages('clear')")
    plugin.nvim.lua("vim.notify, Replaced = Notify, vim.notify")
    try:
        plugin.nvim.lua("require('dlm.tell').tell(...)", text)
        plugin.settle()
        assert plugin.nvim.lua("return vim.api.nvim_get_mode()") == {"mode": "n", "blocking": False}
        told = plugin.nvim.lua("return vim.fn.execute('messages')")
        assert told.replace("\n", "").count("dlm: ") == 1
        for word in text.split():
            assert word in told
    finally:
        plugin.nvim.lua("vim.notify = Replaced")


def test_the_status_says_why_the_plugin_is_silent(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.notify("dlm/status", STATUS)
    run(plugin, "Dlm snooze 5")
    assert component(plugin) == "dlm ○ Snoozed for 5 more minutes."


def test_the_status_is_empty_where_the_server_is_not_attached(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.notify("dlm/status", STATUS)
    plugin.nvim.lua("vim.cmd.new()")
    assert component(plugin) == ""


def test_a_change_of_the_status_is_an_event(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua(
        "Told = 0; vim.api.nvim_create_autocmd('User', { pattern = 'DlmStatus',"
        " callback = function() Told = Told + 1 end })"
    )
    plugin.notify("dlm/status", STATUS)
    plugin.wait(lambda: plugin.nvim.lua("return Told") > 0, "the event")


def test_broken_notifications_of_the_server_break_nothing(plugin: Plugin):
    plugin.fresh("x = |")
    for params in ([], "text", 7, {"state": 5}, {"lastMs": "soon"}):
        for method in ("dlm/draft", "dlm/status", "dlm/refinement"):
            plugin.notify(method, params)
            assert component(plugin).startswith("dlm")
    plugin.settle()
    assert "Error" not in plugin.nvim.lua("return vim.fn.execute('messages')")
    plugin.notify("dlm/status", STATUS)
    plugin.suggest("1")


def test_settings_that_are_wrong_are_named_and_ignored(plugin: Plugin):
    config, problems = plugin.nvim.lua(
        "return { require('dlm.config').resolve({ draft = 'lively', delay = -1,"
        " keys = { acept = 1 }, silence = { globs = 'x', macros = false },"
        " server = { mode = 'ar' }, cmd = {} }) }"
    )
    assert sorted(problems) == [
        "cmd must be a list of strings, the program first",
        "delay must be 'auto' or milliseconds",
        "draft must be one of live, first-line, final",
        "keys.acept is not a setting of dlm",
        "silence.globs must be a list of strings",
    ]
    assert config["draft"] == "live"
    assert config["silence"]["macros"] is False
    assert config["server"] == {"mode": "ar"}


def test_the_servers_settings_are_passed_on(plugin: Plugin):
    sent = plugin.nvim.lua(
        "require('dlm.config').set({ server = { mode = 'block', delay = 40 } })"
        " local p = { capabilities = {}, initializationOptions = { dlm = { syntax = false } } }"
        " require('dlm.client').before_init(p); return p"
    )
    assert sent["initializationOptions"]["dlm"] == {
        "mode": "block",
        "delay": 40,
        "drafts": True,
        "statusNotifications": True,
        "syntax": False,
    }
    assert "inlineCompletion" in sent["capabilities"]["textDocument"]


def test_neovims_own_inline_completion_is_switched_off_for_the_server(plugin: Plugin):
    """Else it would draw the same text a second time."""
    if not plugin.nvim.lua("return vim.lsp.inline_completion ~= nil"):
        pytest.skip("Neovim 0.11 has none.")
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.lsp.inline_completion.enable()")
    plugin.fresh("y = |")
    plugin.suggest("1")
    plugin.nvim.lua("vim.wait(300)")
    plugin.shows("y = 1")
    assert len(plugin.requests()) == 1
    plugin.nvim.lua("vim.lsp.inline_completion.enable(false)")


def test_log_opens_the_servers_log(plugin: Plugin):
    plugin.fresh("x = |")
    name = plugin.nvim.lua("return require('dlm.client').log_file()")
    plugin.nvim.lua(
        "vim.fn.mkdir(vim.fs.dirname(...), 'p') vim.fn.writefile({ 'line' }, ...)", name
    )
    run(plugin, "Dlm log")
    assert plugin.nvim.api.current.buffer.name == name
    plugin.nvim.lua("vim.cmd('tabclose')")


def test_health_reports_a_server_that_cannot_be_found(plugin: Plugin):
    plugin.fresh("x = |", cmd=["no-such-program"])
    reason = {"edit": None, "applied": False, "reason": "The host is gone."}
    plugin.nvim.lua("Stub.auto['dlm.fill'] = ...", reason)
    run(plugin, "checkhealth dlm")
    report = plugin.text()
    assert "no-such-program, which 'cmd' names, cannot be run." in report
    assert "python3 -m venv" in report
    assert "The host is gone." in report
    plugin.nvim.lua("vim.cmd('tabclose')")


def test_health_times_a_real_completion(plugin: Plugin):
    program = plugin.folder / "dlm-lsp"
    doctor = {
        "ok": True,
        "problems": ["the store is full"],
        "sections": {
            "engine host": {"state": {"value": "running", "why": "pid 7"}},
            "model": {"model": {"value": "qwen2.5-coder-0.5b"}},
            "engine": {"device": {"value": "cpu"}, "checkpoint": {"value": "/m.gguf"}},
        },
    }
    (plugin.folder / "doctor.json").write_text(json.dumps(doctor))
    program.write_text(
        f"#!/bin/sh\ncase $1 in --version) echo dlm-lsp 9.9;;"
        f" doctor) cat {plugin.folder}/doctor.json;; esac\n"
    )
    program.chmod(0o755)
    plugin.fresh("x = |", cmd=[str(program), "--stdio"])
    plugin.notify("dlm/status", STATUS)
    uri = plugin.nvim.lua(
        "return vim.uri_from_fname(vim.fn.stdpath('cache') .. '/dlm-health/example.py')"
    )
    place = {"line": 2, "character": 11}
    change = {"range": {"start": place, "end": place}, "newText": "width * height"}
    answer = {"edit": {"changes": {uri: [change]}}, "applied": False, "reason": None}
    plugin.nvim.lua("Stub.auto['dlm.fill'] = ...", answer)
    run(plugin, "checkhealth dlm")
    report = plugin.text()
    for expected in (
        "dlm-lsp 9.9",
        "engine host: running (pid 7)",
        "model: qwen2.5-coder-0.5b",
        "checkpoint: /m.gguf",
        "device: cpu",
        "the store is full",
        "attached to 1 buffers",
        "return width * height",
    ):
        assert expected in report
    assert "ERROR" not in report
    plugin.nvim.lua("vim.cmd('tabclose')")


def test_another_command_may_follow(plugin: Plugin):
    plugin.fresh("x = 1")
    plugin.nvim.api.command("Dlm snooze 5 | let g:followed = 1")
    assert plugin.nvim.lua("return vim.g.followed") == 1
    assert "Snoozed for 5 minutes." in notes(plugin)
