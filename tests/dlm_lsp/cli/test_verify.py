"""`dlm-lsp verify`: plain in a pipe, a table in a terminal, JSON for programs, the exit code."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from dlm_lsp.cli.main import main
from dlm_lsp.cli.verify import show
from engine.lab.verify.report import Check, Section


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file of the user's is read."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def verify(folder: Path, *options: str) -> int:
    return main(["verify", str(folder), "--device", "cpu", "--dtype", "float32", *options])


def test_a_whole_checkpoint_passes_in_plain_lines(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(tiny_checkpoint, "--holes", "0") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(str(tiny_checkpoint))
    assert "\n  ok       missing            none of 21\n" in shown
    assert "All that ran passed." in shown
    assert "\x1b" not in shown


def test_json_is_one_object(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tiny_checkpoint, "--holes", "0", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["checkpoint"] == str(tiny_checkpoint)
    modes = next(part for part in report["sections"] if part["title"] == "modes")
    assert modes["checks"][0]["name"] == "ar"
    assert all(check["figures"]["tokens_per_second"] > 0 for check in modes["checks"])


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_broken_checkpoint_ends_with_1_and_the_file_s_name(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    (folder / "tokenizer.json").write_text("{")
    assert verify(folder, *options) == 1
    output = capsys.readouterr()
    assert "tokenizer.json cannot be read" in output.out
    assert "Copy the checkpoint again." in output.out
    assert "Traceback" not in output.out + output.err


def test_a_folder_that_is_not_there_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(tmp_path / "none") == 1
    assert "none is not a folder." in capsys.readouterr().out


def test_the_configured_checkpoint_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "config" / "dlm-lsp"
    folder.mkdir(parents=True)
    (folder / "dlm-lsp.toml").write_text('[engine]\ncheckpoint = "/nowhere/at/all"\n')
    assert main(["verify"]) == 1
    assert "/nowhere/at/all is not a folder." in capsys.readouterr().out


@pytest.mark.parametrize("holes", ["-1", "many"])
def test_a_wrong_number_of_holes_is_refused(holes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["verify", f"--holes={holes}"])
    assert end.value.code == 2
    assert "use 0 or a larger number" in capsys.readouterr().err


def test_a_terminal_gets_a_table_and_no_control_codes_of_the_checkpoint_s() -> None:
    hostile = Check("missing", "failed", "1 of 9: \x1b[2Jencoder\x07.", "Copy\x1b]0;it again.")
    found: Iterator[Section] = iter([Section("tensors", (hostile,))])
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=60, color_system="truecolor")
    assert not show("/a/\x1b[31mcheckpoint", found, console)
    shown = output.getvalue()
    assert "failed" in shown
    assert "\ufffd[2Jencoder\ufffd." in shown
    assert "\ufffd]0;it again." in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "1 failed." in shown


@pytest.mark.parametrize(
    "arguments",
    [("verify",), ("verify", "--json"), ("adapt", "A", "--data", "B", "--out", "C")],
    ids=" ".join,
)
def test_without_torch_it_is_said_how_to_get_it(arguments: tuple[str, ...]) -> None:
    """In a process that cannot import torch at all."""
    code = (
        "import sys; sys.modules['torch'] = None; from dlm_lsp.cli.main import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-P", "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert f"dlm-lsp {arguments[0]} computes with torch, which is not installed." in ended.stderr
    assert "pip install 'dlm-lsp[train]'" in ended.stderr
    assert "Traceback" not in ended.stderr
