"""A private home for the whole program: settings, sockets and logs separate from the user's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config import BUNDLED_CHECKPOINT

ROOT = Path(__file__).parent.parent.parent
SOURCE = '''\
"""What a shop has on its shelves."""


class Item:
    """One kind of thing that is for sale."""

    def __init__(self, name: str, price: float, count: int) -> None:
        self.name = name
        self.price = price
        self.count = count

    def total(self) -> float:
        """What all of them together are worth."""
        return self.price * self.count
'''


@dataclass(frozen=True, slots=True)
class Home:
    """Where the program runs in these tests.

    Attributes:
        folder: may be written to; holds `shop.py` with SOURCE.
        environment: for every process that is started.
        is_bundled: whether the bundled model is served, so that suggestions make sense.
    """

    folder: Path
    environment: dict[str, str]
    is_bundled: bool

    def host_pid(self) -> int:
        """The process of the engine host, as `dlm-lsp doctor` reports it."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dlm_lsp", "doctor", "--json"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return int(json.loads(done.stdout)["sections"]["engine host"]["pid"]["value"])


@pytest.fixture(scope="session")
def home(tiny_checkpoint: Path) -> Iterator[Home]:
    """A home with its own engine host, of the bundled model or else of a tiny one."""
    # Not pytest's folder: the path of a unix socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="dlm-"))
    is_bundled = (BUNDLED_CHECKPOINT / "config.json").is_file()
    checkpoint = BUNDLED_CHECKPOINT if is_bundled else tiny_checkpoint
    environment = {
        **os.environ,
        "HOME": str(folder),
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("CONFIG", "STATE", "DATA", "CACHE", "RUNTIME"):
        path = folder / name.lower()
        path.mkdir(mode=0o700)
        environment[f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}"] = str(path)
    settings = folder / "config" / "dlm-lsp" / "dlm-lsp.toml"
    settings.parent.mkdir()
    settings.write_text(f"[engine]\ncheckpoint = {json.dumps(str(checkpoint))}\n")
    (folder / "shop.py").write_text(SOURCE)
    yield Home(folder, environment, is_bundled)
    shutil.rmtree(folder)  # A host ends when its socket is removed.
