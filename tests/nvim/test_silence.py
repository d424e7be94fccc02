"""Where nothing is suggested, and that nothing runs while the user rests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nvim.plugin import Plugin


def is_silent(plugin: Plugin, reason: str) -> None:
    """Nothing is asked for, and the reason can be read."""
    plugin.settle()
    assert not plugin.requests()
    told = plugin.nvim.lua("return require('dlm.status').get()")
    assert reason in (told.get("silence") or told.get("last") or "")


@pytest.mark.parametrize(
    ("silence", "reason"),
    [
        ({"filetypes": ["python"]}, "filetype python"),
        ({"globs": ["*.py"]}, "matches *.py"),
        ({"globs": ["dlm-nvim-*/**"]}, "matches dlm-nvim-*"),
    ],
)
def test_filetypes_and_globs(plugin: Plugin, silence: dict[str, Any], reason: str):
    plugin.fresh("x = |", silence=silence)
    plugin.insert()
    plugin.type("1")
    is_silent(plugin, reason)


def test_what_git_asks_for_gets_nothing_by_default(plugin: Plugin):
    plugin.fresh("fix: |", filetype="gitcommit")
    plugin.insert()
    plugin.type("1")
    is_silent(plugin, "filetype gitcommit")


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("*.md", "/a/b/notes.md", True),
        ("*.md", "/a/b.md/notes.py", False),
        ("vendor/**", "/home/u/project/vendor/x/y.c", True),
        ("vendor/**", "/home/u/project/src/y.c", False),
        ("/etc/**", "/etc/passwd", True),
        ("/etc/**", "/home/etc/passwd", False),
        ("*.{key,pem}", "/a/server.key", True),
        ("[", "/a/b", False),
    ],
)
def test_a_glob_without_a_slash_is_about_names(
    plugin: Plugin, glob: str, path: str, expected: bool
):
    found = plugin.nvim.lua("return require('dlm.silence').matches(...)", path, glob)
    assert found is expected


def test_a_prompt_buffer_gets_nothing(plugin: Plugin):
    if not plugin.nvim.lua("return vim.fn.has('nvim-0.12') == 1"):
        pytest.skip("Neovim 0.11's own LSP client reports an error in such a buffer.")
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.bo.buftype = 'prompt'")
    plugin.nvim.type("ihello")
    is_silent(plugin, "prompt")
    plugin.nvim.lua("vim.cmd('stopinsert'); vim.bo.buftype = ''")


def test_nothing_while_a_macro_is_recorded_or_executed(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.type("qqA1")
    is_silent(plugin, "macro")
    plugin.type("<Tab>2<Esc>q")
    plugin.wait(lambda: plugin.text() == "x = 1   2", "recorded")
    plugin.type("o<Esc>@q")
    plugin.wait(lambda: plugin.text() == "x = 1   2\n1   2", "played")


def test_nothing_while_text_is_typed_for_a_visual_block(plugin: Plugin):
    plugin.fresh("|one\ntwo\nsix")
    plugin.type("<C-v>jjIx")
    is_silent(plugin, "visual block")
    plugin.type("y<Esc>")
    plugin.wait(lambda: plugin.text() == "xyone\nxytwo\nxysix", "each line has it")
    plugin.type("A")
    plugin.asked()


def test_nothing_in_a_snippet_with_places_left(plugin: Plugin):
    plugin.fresh("|")
    plugin.insert()
    plugin.asked()
    plugin.nvim.lua("Stub.reset(); vim.snippet.expand('f(${1:a}, ${2:b})')")
    plugin.wait(lambda: plugin.text() == "f(a, b)", "it is expanded")
    plugin.type("x")
    is_silent(plugin, "snippet")
    plugin.nvim.lua("vim.snippet.stop()")


def test_nothing_right_after_text_was_deleted(plugin: Plugin):
    plugin.fresh("x = 12|")
    plugin.insert()
    plugin.asked()
    plugin.nvim.lua("Stub.reset()")
    plugin.type("<BS>")
    plugin.wait(lambda: plugin.text() == "x = 1", "it is deleted")
    is_silent(plugin, "deleted")
    plugin.type("3")
    plugin.asked()


def test_asking_after_a_deletion_is_a_setting(plugin: Plugin):
    plugin.fresh("x = 12|", silence={"deletion": False})
    plugin.insert()
    plugin.asked()
    plugin.type("<BS>")
    plugin.asked(2)


def test_nothing_in_replace_mode(plugin: Plugin):
    plugin.fresh("|abc")
    plugin.type("Rx")
    plugin.settle()
    assert not plugin.requests()


def test_snooze_and_its_end(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.api.command("Dlm snooze 10")
    plugin.insert()
    plugin.type("1")
    is_silent(plugin, "Snoozed for 10")
    assert plugin.commands("dlm.snooze") == [{"minutes": 10}]
    plugin.nvim.lua("vim.cmd('Dlm snooze 0')")
    plugin.type("2")
    plugin.asked()


def test_toggle_everywhere_and_in_one_buffer(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.nvim.lua("vim.cmd('Dlm toggle')")
    plugin.wait(lambda: not plugin.ghost(), "it is gone at once")
    plugin.type("2")
    plugin.settle()
    assert len(plugin.requests()) == 1
    plugin.nvim.lua("vim.cmd('Dlm toggle')")
    plugin.nvim.lua("vim.cmd('Dlm disable buffer')")
    plugin.type("3")
    plugin.settle()
    assert len(plugin.requests()) == 1
    assert plugin.commands("dlm.toggle")[0]["on"] is False
    plugin.nvim.lua("vim.cmd('Dlm enable buffer')")
    plugin.type("4")
    plugin.asked(2)


def test_a_buffer_variable_switches_it_off(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.nvim.lua("vim.b.dlm = false")
    plugin.insert()
    is_silent(plugin, "in this buffer")


def test_comments_and_strings_are_left_to_the_server(plugin: Plugin):
    sent = plugin.nvim.lua(
        "return require('dlm.config').set({ silence = { comments = true } })"
        " or require('dlm.config').for_server()"
    )
    assert sent["silence"]["comments"] is True
    assert not sent["silence"].get("strings")


def test_nothing_runs_while_the_user_rests(plugin: Plugin):
    plugin.fresh("x = |")
    plugin.suggest("1")
    plugin.settle()
    timers = "return require('dlm.suggestion').num_timers()"
    assert plugin.nvim.lua(timers) == 0
    before = plugin.nvim.lua("return #Stub.log")
    plugin.nvim.lua(
        "Drawn = 0; local ghost = require('dlm.ghost'); local draw = ghost.draw"
        " ghost.draw = function(...) Drawn = Drawn + 1; draw(...) end"
    )
    plugin.nvim.lua("vim.wait(300)")
    assert plugin.nvim.lua("return Drawn") == 0
    assert plugin.nvim.lua("return #Stub.log") == before
    plugin.type("<Esc>")
    plugin.settle()
    assert plugin.nvim.lua(timers) == 0


@pytest.mark.parametrize(
    ("intervals", "latencies", "expected"),
    [
        ([], [], 60),  # nothing is known
        ([100] * 8, [], 125),  # most keys come before
        ([100] * 8, [50] * 8, 75),  # the answer takes a while as well
        ([100] * 8, [500] * 8, 62.5),  # but half of the rest is always kept
        ([600] * 8, [], 250),  # a slow typist does not wait for ever
        ([100] * 8 + [2000], [], 125),  # a pause says nothing
    ],
)
def test_the_delay_follows_the_typing_and_the_latency(
    plugin: Plugin, intervals: list[int], latencies: list[int], expected: float
):
    found = plugin.nvim.lua(
        """
        local intervals, latencies = ...
        local delay = require('dlm.delay')
        local rhythm, now = delay.new(), 1000
        delay.key(rhythm, now)
        for _, interval in ipairs(intervals) do
          now = now + interval
          delay.key(rhythm, now)
        end
        for _, latency in ipairs(latencies) do delay.answered(rhythm, latency) end
        return delay.wait(rhythm, 'auto')
        """,
        intervals,
        latencies,
    )
    assert found == expected
    assert plugin.nvim.lua("return require('dlm.delay').wait({}, 150)") == 150


def test_one_request_for_keys_that_come_within_the_delay(plugin: Plugin):
    plugin.fresh("|", delay=150)
    plugin.insert()
    plugin.type("abc")
    request = plugin.asked()
    assert request["params"]["position"]["character"] == 3
    plugin.settle()
    assert len(plugin.requests()) == 1
