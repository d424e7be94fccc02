"""Whatever is typed, edited and sent in any order: what is drawn fits, and is what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.nvim.plugin import Plugin

SHOWN = """
vim.wait(45)
local suggestion, view = require('dlm.suggestion').shown()
if not suggestion or not view then return false end
local line = vim.api.nvim_get_current_line()
local column = vim.api.nvim_win_get_cursor(0)[2]
return {
  token = suggestion.token, text = view.text, before = line:sub(1, column),
  typed = line:sub(suggestion.column + 1, column), after = line:sub(column + 1),
  row = vim.fn.winline(),
}
"""
OTHER_LINE = "vim.api.nvim_buf_set_lines(0, -2, -1, false, { 'other ' .. ... })"
TEXT = st.text(alphabet="ab ", min_size=1, max_size=6)
OPERATION = st.one_of(
    st.tuples(st.just("type"), st.sampled_from(["a", "b", "<Space>"])),
    st.tuples(st.just("draft"), TEXT, st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("answer"), TEXT, st.integers(0, 2)),
    st.tuples(st.just("remove")),
    st.tuples(st.just("edit elsewhere"), st.integers(0, 9)),
    st.tuples(st.just("move")),
    st.tuples(st.just("word")),
)


@dataclass
class Sent:
    """What the server has sent about one request; `texts` by the drafts' numbers."""

    texts: dict[int, str] = field(default_factory=dict)
    answer: str | None = None
    version: int = 0


class Play:
    """Plays operations against the plugin, and knows what may be drawn."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.sent: dict[str, Sent] = {}
        self.stale: set[str] = set()
        self.num_edits = 0

    def request(self, back: int) -> dict[str, Any] | None:
        """The request that came so many before the last; the server knows its version."""
        requests = self.plugin.requests()
        for request in requests:
            token = request["params"]["workDoneToken"]
            if token not in self.sent:
                self.sent[token] = Sent(version=self.plugin.version())
        return requests[-1 - back] if len(requests) > back else None

    def run(self, operation: tuple[Any, ...]) -> None:
        kind, *values = operation
        if kind == "type":
            self.plugin.type(values[0])
        elif kind == "remove":
            self.plugin.type("<BS>")
        elif kind == "word":
            self.plugin.type("<M-w>")
        elif kind == "move":
            self.plugin.type("<Left>")
        elif kind == "edit elsewhere":
            self.request(0)
            self.stale |= set(self.sent)  # They were asked about another text.
            self.num_edits += 1
            self.plugin.nvim.lua(OTHER_LINE, f"{values[0]} {self.num_edits}")
        else:
            self.send(kind, values)

    def send(self, kind: str, values: list[Any]) -> None:
        text, back = values[0], values[-1]
        request = self.request(back)
        if request is None:
            return
        sent = self.sent[request["params"]["workDoneToken"]]
        if kind == "draft":
            sequence = values[1]
            newest = max(sent.texts, default=0)
            if sequence > newest and sent.answer is None:
                sent.texts[sequence] = text
            uri = request["params"]["textDocument"]["uri"]
            document = {"uri": uri, "version": sent.version}
            changes = {"textDocument": document}
            self.plugin.draft(request, "", text, sequence=sequence, changes=changes)
        elif sent.answer is None:
            pending = self.plugin.nvim.lua("return Stub.pending[...] ~= nil", request["id"])
            if pending:
                sent.answer = text
                self.plugin.answer(request, text)

    def check(self) -> None:
        shown = self.plugin.nvim.lua(SHOWN)
        if not shown:
            assert not self.plugin.ghost()
            return
        self.request(0)
        assert shown["token"] not in self.stale
        sent = self.sent[shown["token"]]
        newest = sent.texts[max(sent.texts)] if sent.texts else None
        assert shown["typed"] + shown["text"] == (sent.answer or newest)
        row = self.plugin.nvim.refresh().lines()[shown["row"] - 1]
        assert row == (shown["before"] + shown["text"] + shown["after"]).rstrip()


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=st.lists(OPERATION, min_size=4, max_size=14))
def test_what_is_drawn_is_the_newest_that_was_sent_and_fits(
    plugin: Plugin, operations: list[tuple[Any, ...]]
):
    plugin.fresh("x = | # end\nother")
    plugin.insert()
    plugin.asked()
    play = Play(plugin)
    for operation in operations:
        play.run(operation)
        play.check()


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    keys=st.lists(
        st.sampled_from(["1", "2", "<Space>", "<CR>", "<M-w>", "<M-l>", "<Tab>"]),
        min_size=2,
        max_size=6,
    )
)
def test_keys_that_come_at_once_do_what_they_do_one_by_one(plugin: Plugin, keys: list[str]):
    texts: list[tuple[str, tuple[int, int]]] = []
    for parts in (keys, ["".join(keys)]):
        plugin.fresh("a = |\nother")
        plugin.suggest("12 2\n11 2")
        for part in parts:
            plugin.type(part)
            plugin.settle()
        texts.append((plugin.text(), plugin.cursor()))
    assert texts[0] == texts[1]
