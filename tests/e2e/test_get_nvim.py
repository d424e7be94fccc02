"""Fetching a private Neovim: the installed one is preferred, and failures are explained."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.test_nvim import binary as binary

SCRIPT = ROOT / "tests" / "e2e" / "get_nvim.sh"


def get_nvim(folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a PATH without programs that download."""
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(SCRIPT), str(folder), "no-patchelf"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with only basic tools, without apt and Neovim."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("realpath", "mkdir", "ln", "sed"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return folder


def test_an_installed_neovim_that_is_new_enough_is_taken(binary: Path, tools: Path, tmp_path: Path):
    (tools / "nvim").symlink_to(binary)
    done = get_nvim(tmp_path / "nvim", f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "nvim" / "bin" / "nvim").resolve() == binary.resolve()
    assert not (tmp_path / "nvim" / "root").exists()


def test_an_installed_neovim_that_is_too_old_is_passed_over(tools: Path, tmp_path: Path):
    old = tools / "nvim"
    old.write_text("#!/bin/sh\necho 'NVIM v0.7.2'; echo false\n")
    old.chmod(0o755)
    done = get_nvim(tmp_path / "nvim", str(tools))
    assert done.returncode == 1
    assert not (tmp_path / "nvim" / "bin" / "nvim").exists()


def test_without_apt_it_says_what_to_install(tools: Path, tmp_path: Path):
    done = get_nvim(tmp_path / "nvim", str(tools))
    assert done.returncode == 1
    assert "'apt-get' is missing" in done.stderr
    assert "install Neovim 0.12 or newer" in done.stderr
