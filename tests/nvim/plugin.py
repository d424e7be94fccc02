"""A Neovim with the plugin and a scripted server; a test drives it by keys and reads its screen.

Owns how a buffer is prepared between tests and how the server's messages are made. Knows nothing of
what the plugin should do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ROOT
from tests.e2e.neovim_child import Neovim

PLUGIN = ROOT / "editors" / "nvim"
STUB = Path(__file__).parent / "stub.lua"
SECONDS_MAX = 120.0
INLINE = "textDocument/inlineCompletion"

SET_UP = """
local plugin, stub, options = ...
dofile(stub)
Notes = {}
Notify = vim.notify
vim.notify = function(message) table.insert(Notes, message) end
vim.g.dlm = options
vim.opt.runtimepath:prepend(plugin)
vim.lsp.config('dlm_lsp', { cmd = Stub.start })
vim.cmd.runtime({ 'plugin/dlm.lua', bang = true })
"""
# A fresh buffer with a name, in one window, with the server attached and nothing asked for yet.
FRESH = """
local name, text, filetype, options = ...
vim.cmd('stopinsert | silent! only | silent! %bwipeout!')
require('dlm.config').set(options)
require('dlm.silence').toggle(true)
require('dlm.silence').snooze(0)
vim.bo.modified = false
vim.cmd.edit(vim.fn.fnameescape(name))
vim.bo.fileformat = 'unix'
vim.api.nvim_buf_set_lines(0, 0, -1, false, vim.split(text, '\\n', { plain = true }))
vim.bo.filetype = filetype
vim.bo.expandtab, vim.bo.shiftwidth, vim.bo.autoindent, vim.bo.indentexpr = true, 4, false, ''
vim.wo.wrap = false
vim.bo.undolevels = vim.bo.undolevels
Stub.reset()
Notes = {}
"""


class Plugin:
    """One Neovim with the plugin; `fresh` gives each test its own buffer.

    Args:
        options: the plugin's settings of every test, which `fresh` may add to.
    """

    def __init__(self, binary: Path, folder: Path, options: dict[str, Any] | None = None) -> None:
        environment = {"HOME": str(folder), "TERM": "xterm-256color"}
        for name in ("CONFIG", "STATE", "DATA", "CACHE"):
            environment[f"XDG_{name}_HOME"] = str(folder / name.lower())
        self.nvim = Neovim(binary, environment, SECONDS_MAX)
        self.nvim.pause = 0.005
        self.folder = folder
        self.options: dict[str, Any] = {"delay": 0, **(options or {})}
        self.nvim.lua(SET_UP, str(PLUGIN), str(STUB), self.options)
        self._number = 0
        self._column = 0

    def close(self) -> None:
        self.nvim.close()

    # What the user does.

    def fresh(
        self, text: str = "", filetype: str = "python", name: str = "", **options: Any
    ) -> None:
        """A new buffer, whose cursor stands where the text has a |, or at the end without one."""
        self._number += 1
        before = text.partition("|")[0] if "|" in text else text
        whole = text.replace("|", "", 1)
        path = str(self.folder / (name or f"file{self._number}.py"))
        self.nvim.lua(FRESH, path, whole, filetype, {**self.options, **options})
        self.wait(self.is_attached, "the server is attached")
        self.place(before)
        self.nvim.lua("Stub.reset()")

    def place(self, before: str) -> None:
        """Puts the cursor behind this text, where `insert` begins to type."""
        lines = before.split("\n")
        self._column = len(lines[-1].encode())
        self.nvim.lua("vim.api.nvim_win_set_cursor(0, {...})", len(lines), self._column)

    def insert(self) -> None:
        """Begins to type at the cursor."""
        at_end = self._column == len(self.nvim.api.current.line.encode())
        self.nvim.type("A" if at_end else "i")
        self.wait(lambda: self.mode() == "i", "insert mode")

    def type(self, keys: str) -> None:
        self.nvim.type(keys)

    # What Neovim holds.

    def is_attached(self) -> bool:
        return bool(
            self.nvim.lua(
                "local c = vim.lsp.get_clients({ name = 'dlm_lsp', bufnr = 0 })[1]"
                " return c ~= nil and c.initialized"
            )
        )

    def mode(self) -> str:
        return self.nvim.lua("return vim.api.nvim_get_mode().mode")

    def text(self) -> str:
        return "\n".join(self.nvim.api.current.buffer[:])

    def cursor(self) -> tuple[int, int]:
        row, column = self.nvim.api.current.window.cursor
        return row, column

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        return self.nvim.wait_for(condition, what, seconds)

    def settle(self) -> None:
        """Lets what is on its way arrive: keys, events, scheduled functions and a late drawing."""
        for _ in range(3):
            self.nvim.lua("vim.wait(20)")
            self.nvim.refresh()

    # What the screen shows.

    def lines(self) -> list[str]:
        """The buffer's part of the screen."""
        rows = self.nvim.refresh().lines()
        return rows[: rows.index("~")] if "~" in rows else rows[:-2]

    def shows(self, *lines: str, seconds: float = 20.0) -> None:
        """Waits until the buffer's part of the screen is these lines."""
        wanted = list(lines)
        self.wait(lambda: self.lines() == wanted, f"the screen is {wanted}", seconds)

    def in_group(self, group: str) -> str:
        """The text on the screen that is drawn in a highlight group."""
        screen = self.nvim.refresh()
        return "".join(
            cell.text for row in screen.cells for cell in row if group in cell.highlights
        )

    def ghost(self) -> str:
        """Everything that is drawn as a suggestion."""
        return "".join(
            self.in_group(group) for group in ("DlmCommitted", "DlmDraft", "DlmUndecided")
        )

    # What the server sees and does.

    def requests(self, method: str = INLINE) -> list[dict[str, Any]]:
        return self.nvim.lua("return Stub.messages(...)", method)

    def asked(self, count: int = 1, method: str = INLINE) -> dict[str, Any]:
        """Waits until so many requests have come; returns the last."""
        self.wait(lambda: len(self.requests(method)) >= count, f"{count} requests of {method}")
        return self.requests(method)[-1]

    def commands(self, name: str) -> list[dict[str, Any]]:
        """The arguments with which a command of the server was run."""
        return [
            message["params"]["arguments"][0]
            for message in self.requests("workspace/executeCommand")
            if message["params"]["command"] == name
        ]

    def items(
        self, request: dict[str, Any], *texts: str, replaced: int = 0, at: int | None = None
    ) -> list[dict[str, Any]]:
        """An answer with these texts at the place that was asked about.

        Args:
            replaced: how many characters after the cursor the texts replace.
            at: the character where the range begins, if not at the cursor.
        """
        position = request["params"]["position"]
        start = {**position, "character": position["character"] if at is None else at}
        end = {**position, "character": start["character"] + replaced}
        return [
            {
                "insertText": text,
                "range": {"start": start, "end": end},
                "command": {
                    "title": "Suggestion accepted",
                    "command": "dlm.accepted",
                    "arguments": [{"id": f"{number}", "kind": "full"}],
                },
            }
            for number, text in enumerate(texts, 1)
        ]

    def answer(self, request: dict[str, Any], *texts: str, **options: Any) -> None:
        result = self.items(request, *texts, **options)
        self.nvim.lua("Stub.answer(...)", request["id"], result)

    def answer_with(self, request: dict[str, Any], result: object) -> None:
        self.nvim.lua("Stub.answer(...)", request["id"], result)

    def draft(
        self,
        request: dict[str, Any],
        committed: str,
        draft: str = "",
        *,
        sequence: int = 1,
        spans: Sequence[tuple[int, int, float]] = (),
        final: bool = False,
        changes: dict[str, Any] | None = None,
    ) -> None:
        """Sends a `dlm/draft` for a request; `changes` replaces fields of it."""
        params = request["params"]
        position = params["position"]
        uri = params["textDocument"]["uri"]
        message = {
            "token": params.get("workDoneToken"),
            "textDocument": {"uri": uri, "version": self.version()},
            "position": position,
            "range": {"start": position, "end": position},
            "committed": committed,
            "draft": draft,
            "spans": [{"start": a, "end": b, "confidence": c} for a, b, c in spans],
            "sequence": sequence,
            "final": final,
            **(changes or {}),
        }
        self.notify("dlm/draft", message)

    def version(self) -> int:
        """The document's version when it was last asked about, as the client counts it."""
        return self.nvim.lua(
            "local s = require('dlm.suggestion').shown()"
            " return s and s.version or vim.lsp.util.buf_versions[0] or 0"
        )

    def notify(self, method: str, params: object) -> None:
        self.nvim.lua("Stub.notify(...)", method, params)

    def suggest(self, *texts: str, **options: Any) -> dict[str, Any]:
        """Begins to type and answers what is asked; waits until something is shown."""
        self.insert()
        request = self.asked()
        self.answer(request, *texts, **options)
        self.wait(self.ghost, "a suggestion is shown")
        return request
