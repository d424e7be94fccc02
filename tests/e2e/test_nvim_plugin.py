"""The Neovim plugin with the real language server, started as a user's configuration starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.statistics.file import read
from tests.e2e.conftest import ROOT, Home
from tests.e2e.neovim_child import Neovim
from tests.e2e.test_nvim import CURSOR_LINE, NOISE, SOURCE, binary  # noqa: F401

PLUGIN = ROOT / "editors" / "nvim"
SECONDS_MAX = 120.0
GROUPS = ("DlmCommitted", "DlmDraft", "DlmUndecided")
TEXT = "self.balance -= amount\\n        return self.balance"


@contextmanager
def drafting(text: str) -> Iterator[str]:
    """The URL of an engine host that answers with this text, word by word."""
    command = [sys.executable, "-m", "tests.e2e.scripted_host_process", text, "--drafts"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@pytest.fixture
def drafting_url() -> Iterator[str]:
    with drafting(TEXT) as url:
        yield url


@contextmanager
def editing(
    binary: Path,  # noqa: F811
    home: Home,
    file: Path,
    set_up: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Neovim]:
    """A Neovim that is started with this `init.lua` and a file with a hole."""
    file.write_text(SOURCE)
    init = file.parent / "init.lua"
    init.write_text(set_up)
    path = f"{Path(sys.executable).parent}{os.pathsep}{home.environment['PATH']}"
    child = Neovim(
        binary,
        {**home.environment, "PATH": path, **(environment or {})},
        SECONDS_MAX,
        ["-u", str(init), "-i", "NONE", str(file)],
    )
    child.pause = 0.01
    try:
        child.wait_for(lambda: child.lua(ATTACHED), "the server is attached", 30)
        yield child
    finally:
        child.close()


ATTACHED = """
local client = vim.lsp.get_clients({ name = 'dlm_lsp', bufnr = 0 })[1]
return client ~= nil and client.initialized == true
"""


def init(options: dict[str, Any]) -> str:
    """The README's configuration, with these settings of the server."""
    encoded = repr(__import__("json").dumps({"server": options}))
    return f"vim.g.dlm = vim.json.decode({encoded})\nvim.opt.runtimepath:append('{PLUGIN}')\n"


def ghost(nvim: Neovim) -> str:
    """What is drawn as a suggestion."""
    return "".join(
        cell.text
        for row in nvim.refresh().cells
        for cell in row
        if cell.highlights.intersection(GROUPS)
    )


def begin(nvim: Neovim) -> None:
    """Opens the line of the empty body."""
    nvim.api.current.window.cursor = (CURSOR_LINE, 0)
    nvim.type("S")  # Neovim indents


def test_a_folder_on_the_runtimepath_is_all_it_takes(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    set_up = init({"engine": {"url": drafting_url}})
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        seen: list[str] = []
        nvim.on_flush = lambda screen: seen.append("\n".join(screen.lines()))
        begin(nvim)
        nvim.wait_for(lambda: "return self.balance" in ghost(nvim), "the whole suggestion")
        drafts = [state for state in seen if "░" in state]
        assert drafts, "drafts were drawn while they were refined"
        shown = nvim.screen.lines()
        nvim.type("<Tab>")
        nvim.wait_for(lambda: "return self.balance" in nvim.buffer(), "it is inserted")
        assert nvim.buffer() == SOURCE.replace(
            "amount: float) -> None:\n\n    def __r",
            "amount: float) -> None:\n        self.balance -= amount\n"
            "        return self.balance\n    def __r",
        )
        assert [line for line in nvim.buffer().splitlines() if line] == [
            line for line in shown[: len(nvim.buffer().splitlines())] if line
        ]


def test_as_a_package_it_works_without_any_configuration(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    """As vim.pack, mini.deps and lazy.nvim lay a plugin's folder: below a `pack/*/start`."""
    start = tmp_path / "site" / "pack" / "any" / "start"
    start.mkdir(parents=True)
    (start / "dlm").symlink_to(PLUGIN)
    set_up = f"vim.opt.packpath:prepend('{tmp_path / 'site'}')\n"
    settings = tmp_path / "config" / "dlm-lsp"
    settings.mkdir(parents=True)
    (settings / "dlm-lsp.toml").write_text(f'[engine]\nurl = "{drafting_url}"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    with editing(binary, home, tmp_path / "account.py", set_up, environment) as nvim:
        begin(nvim)
        nvim.wait_for(lambda: "return self.balance" in ghost(nvim), "a suggestion")
        assert nvim.lua("return vim.fn.maparg('<Tab>', 'i') ~= ''")


def test_fill_streams_from_the_real_server(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    set_up = init({"engine": {"url": drafting_url}, "silence": {"automatic": False}})
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        seen: list[str] = []
        nvim.on_flush = lambda screen: seen.append("\n".join(screen.lines()))
        begin(nvim)
        nvim.type("<Cmd>Dlm fill<CR>")
        nvim.wait_for(lambda: ghost(nvim).endswith("return self.balance"), "the filled text")
        assert any("… filling" in state and "░" in state for state in seen)
        nvim.type("<Tab>")
        nvim.wait_for(lambda: "return self.balance" in nvim.buffer(), "it is inserted")


def test_typing_on_a_draft_that_the_real_server_sends(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    set_up = init({"engine": {"url": drafting_url}})
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        begin(nvim)
        nvim.wait_for(lambda: ghost(nvim).startswith("self"), "a draft")
        nvim.type("self.bal")
        nvim.wait_for(lambda: ghost(nvim).startswith("ance -= amount"), "the rest of it")
        nvim.wait_for(lambda: "return self.balance" in ghost(nvim), "its end")
        nvim.type("<Tab>")
        nvim.wait_for(
            lambda: "        self.balance -= amount\n        return self.balance" in nvim.buffer(),
            "it is inserted",
        )


def test_what_is_accepted_is_in_the_statistics(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    set_up = init({"engine": {"url": drafting_url}})
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with editing(binary, home, tmp_path / "account.py", set_up, state) as nvim:
        begin(nvim)
        nvim.wait_for(lambda: "return self.balance" in ghost(nvim), "the whole suggestion")
        nvim.type("<M-w>")
        nvim.wait_for(lambda: ghost(nvim).startswith(".balance"), "the word was taken")
        nvim.type("<Tab>")
        nvim.wait_for(lambda: "return self.balance" in nvim.buffer(), "the rest, too")
        path = tmp_path / "state" / "dlm-lsp" / "statistics.sqlite3"
        nvim.wait_for(lambda: [1 for one in read(path) if one.fate == "accepted"], "it is written")
    (first,) = read(path)
    assert (first.fate, first.row.language) == ("accepted", "python")
    # A word that is taken of a draft, before the answer has come, is not reported.
    whole = len(TEXT.replace("\\n", "\n"))
    assert first.accepted in (whole, whole - len("self"))


def test_a_new_name_is_carried_on_with_the_real_server(
    binary: Path,  # noqa: F811
    home: Home,
    drafting_url: str,
    tmp_path: Path,
):
    options = {"engine": {"url": drafting_url}, "silence": {"automatic": False}}
    lines = ["def mean(values):", "    total = 0", "    for value in values:"]
    lines += ["        total += value", "    return total / len(values)"]
    with editing(binary, home, tmp_path / "account.py", init(options)) as nvim:
        nvim.lua("Notes = {}; vim.notify = function(message) table.insert(Notes, message) end")
        nvim.lua("vim.api.nvim_buf_set_lines(0, 0, -1, false, ...)", lines)
        nvim.api.current.window.cursor = (2, 4)
        nvim.type("ciwamount<Esc>")
        for line, shown in ((4, "totalamount +="), (5, "totalamount /")):
            nvim.type("<M-n>")
            nvim.wait_for(
                lambda line=line, shown=shown: shown in nvim.refresh().lines()[line - 1],
                "the next edit is shown",
                30,
            )
            assert nvim.api.current.window.cursor[0] == line
            nvim.type("<M-n>")
            nvim.wait_for(lambda line=line: "amount" in nvim.buffer().split("\n")[line - 1], "made")
        assert nvim.buffer().strip() == "\n".join(lines).replace("total", "amount")
        nvim.type("u")
        nvim.wait_for(lambda: "return total" in nvim.buffer(), "one undo takes one edit back")
        assert "amount += value" in nvim.buffer()


def test_health_of_the_real_server(binary: Path, home: Home, tmp_path: Path):  # noqa: F811
    with drafting("width * height") as url:
        set_up = init({"engine": {"url": url}})
        with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
            nvim.lua("vim.cmd('checkhealth dlm')")
            report = nvim.buffer()
    assert "dlm-lsp 0." in report
    assert "a completion took" in report
    assert "return width * height" in report
    assert "ERROR" not in report


def test_a_suggestion_of_the_bundled_model(binary: Path, home: Home, tmp_path: Path):  # noqa: F811
    set_up = init({} if home.is_bundled else NOISE)
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        begin(nvim)
        nvim.wait_for(lambda: ghost(nvim), "a suggestion", SECONDS_MAX)
        status = "return require('dlm').status()"
        nvim.wait_for(lambda: "tok/fwd" in nvim.lua(status), "the status")
        before = nvim.buffer()
        nvim.type("<Tab>")
        nvim.wait_for(lambda: nvim.buffer() != before, "it is inserted")


def test_a_suggestion_of_a_real_model_refines_and_is_inserted_as_shown(
    binary: Path,  # noqa: F811
    home: Home,
    real_model: Path,
    tmp_path: Path,
):
    set_up = init({"engine": {"checkpoint": str(real_model)}})
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        begin(nvim)
        nvim.type("self.")
        nvim.wait_for(lambda: "balance" in ghost(nvim), "a suggestion", SECONDS_MAX)
        shown = "return require('dlm.suggestion').shown().is_final"
        nvim.wait_for(lambda: nvim.lua(shown), "it is final", SECONDS_MAX)
        expected = "".join(ghost(nvim).split())
        before = "".join(nvim.buffer().split())
        nvim.type("<Tab>")
        nvim.wait_for(lambda: "".join(nvim.buffer().split()) != before, "it is inserted")
        assert expected in "".join(nvim.buffer().split())


def test_refining_with_a_real_model_is_shown_accepted_and_undone(
    binary: Path,  # noqa: F811
    home: Home,
    real_model: Path,
    tmp_path: Path,
):
    set_up = init({"engine": {"checkpoint": str(real_model)}})
    with editing(binary, home, tmp_path / "account.py", set_up) as nvim:
        nvim.lua(
            "Notes = {}; vim.notify = function(message) table.insert(Notes, message) end"
            " vim.api.nvim_buf_set_lines(0, 0, -1, false, {"
            " 'def area(width, height):', '    return widht * hieght' })"
        )
        before = nvim.buffer()
        nvim.api.command("2Dlm refine")
        nvim.wait_for(
            lambda: "accepts" in nvim.screen.lines()[1] or nvim.lua("return Notes[1]"),
            "the refinement ends",
            SECONDS_MAX,
        )
        notes = nvim.lua("return Notes")
        if notes:  # The model may find the line good enough.
            assert "Nothing is refined" in notes[0]
            assert nvim.buffer() == before
            return
        assert nvim.buffer() == before
        nvim.type("<CR>")
        nvim.wait_for(lambda: nvim.buffer() != before, "it is accepted")
        nvim.type("u")
        nvim.wait_for(lambda: nvim.buffer() == before, "one undo")
