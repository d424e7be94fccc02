"""The command line: accepted and refused arguments, and error messages. Starts no engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dlm_lsp.cli.main import build_parser, main
from dlm_lsp.client.options import ServeOptions
from dlm_lsp.version import VERSION
from engine.config import EngineSettings

COMMANDS = ("complete", "model", "doctor", "verify", "eval", "serve", "demo")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to name places in; no settings file of the user's is read."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    file = tmp_path / "app.py"
    file.write_text("def f(x):\n    return x\n")
    return file


def exit_code(*arguments: str) -> int:
    """Returns the exit code that the process would have."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_version_and_help_end_well(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"dlm-lsp {VERSION}\n"
    assert exit_code("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples_that_parse(
    command: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(command, "--help") == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    calls = [line.split("dlm-lsp ", 1)[1].split("  ")[0] for line in examples if "dlm-lsp " in line]
    assert calls
    for call in calls:
        words = call.split(">")[0].split()
        assert words[0] == command
        build_parser().parse_args(words)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["complete"],
        ["complete", "app.py"],
        ["complete", "--mode", "fast", "app.py:1:1"],
        ["complete", "--temperature", "3", "app.py:1:1"],
        ["complete", "--top-p", "0", "app.py:1:1"],
        ["complete", "--seed", "-1", "app.py:1:1"],
        ["complete", "--max-tokens", "0", "app.py:1:1"],
        ["complete", "--block-length", "1", "app.py:1:1"],
        ["complete", "--threshold", "7", "app.py:1:1"],
        ["complete", "--threads", "0", "app.py:1:1"],
        ["complete", "--url", "ftp://x", "app.py:1:1"],
        ["complete", "--checkpoint", "qwen2.5-coder-0.5b", "app.py:1:1"],
        ["serve", "--checkpoint", "qwen2.5-coder-0.5b"],
        ["verify", "qwen2.5-coder-0.5"],
        ["model"],
        ["model", "pull", "qwen2.5-coder-0.6b"],
        ["complete", "--stop", "", "app.py:1:1"],
        ["complete", *["--stop", "x"] * 17, "app.py:1:1"],
        ["complete", "app.py:9:1"],
        ["complete", "app.py:1:99"],
        ["complete", "nowhere.py:1:1"],
        ["complete", ".:1:1"],
        ["serve", "--host", "127.0.0.1"],
        ["serve", "--port", "99999"],
        ["serve", "--threads", "0"],
        ["serve", "--idle-seconds", "-1"],
        ["--tcp", "nonsense"],
        ["--stdio", "--tcp", "127.0.0.1:0"],
        ["repair"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_named_and_ends_with_2(
    arguments: list[str], source: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err.strip().splitlines()[-1]
    assert message.startswith("dlm-lsp")
    assert len(message) > 20
    named = [word for word in arguments if word.startswith("--") and word != "--stdio"]
    key = {"--max-tokens": "tokensMax", "--block-length": "block.length", "--idle-seconds": "idle"}
    key["--checkpoint"] = "model pull"
    for word in named:
        assert key.get(word, word.strip("-").replace("-", "_")) in message.replace("-", "_")


def test_a_silenced_file_is_refused_with_the_reason(
    source: Path, capsys: pytest.CaptureFixture[str]
):
    (source.parent / ".env").write_text("KEY=1\n")
    assert exit_code("complete", ".env:1:5") == 2
    assert "silence.secretFiles" in capsys.readouterr().err
    (source.parent / "dlm-lsp.toml").write_text('[silence]\nlanguages = ["python"]\n')
    assert exit_code("complete", "app.py:1:1") == 2
    assert "silence.languages" in capsys.readouterr().err


def test_a_project_cannot_choose_the_engine(source: Path, capsys: pytest.CaptureFixture[str]):
    (source.parent / "dlm-lsp.toml").write_text('[engine]\nurl = "http://evil.example"\n')
    assert exit_code("complete", "--url", "http://127.0.0.1:1", "app.py:1:1") == 1
    error = capsys.readouterr().err
    assert "engine.url may not be set by a project" in error
    assert "127.0.0.1:1" in error.splitlines()[-1]
    assert "evil" not in error


def test_serve_understands_what_a_client_spells_out(monkeypatch: pytest.MonkeyPatch):
    asked = ServeOptions(
        engine=EngineSettings(Path("/models/nano"), "cpu", "float32", 2),
        idle_seconds=7.0,
        host="127.0.0.1",
        port=0,
        token_file=Path("/secret"),
        log_file=Path("/log"),
    )
    served: list[ServeOptions] = []

    def serve(options: ServeOptions) -> int:
        served.append(options)
        return 0

    monkeypatch.setattr("dlm_lsp.cli.serve.serve", serve)
    assert exit_code(*asked.arguments()) == 0
    assert served == [asked]
    assert exit_code("serve", "--port", "0") == 0
    assert (served[1].host, served[1].port) == ("127.0.0.1", 0)


def test_editors_may_add_their_own_flags(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("dlm_lsp.lsp.transport.run", lambda options: seen.append(options) or 0)
    assert exit_code("--stdio", "--clientProcessId", "12", "--log-level", "debug") == 0
    assert (seen[0].tcp, seen[0].client_process_id, seen[0].log_level) == (None, 12, "debug")
    assert exit_code("--tcp", "127.0.0.1:0") == 0
    assert seen[1].tcp == "127.0.0.1:0"


def test_the_command_line_needs_neither_torch_nor_pygls():
    code = (
        "import sys; from dlm_lsp.cli.main import main;"
        "import dlm_lsp.cli.complete, dlm_lsp.cli.doctor;"
        "heavy = {'torch', 'pygls', 'aiohttp'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
