"""`dlm-lsp adapt`, `convert` and `train-drafter`: replace this process with the training program.

Training needs torch, which this program does not import. The training program takes over the
terminal, the signals and the exit code. It knows no store, so it is told here where a model lies,
and where engines look for adapters and graphs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dlm_lsp.client.paths import adapters_folder, graphs_folder
from dlm_lsp.store.choice import choose, name_of
from engine.config import BUNDLED_CHECKPOINT
from engine.device import needs_torch

MODULE = "engine.lab.training.commands"
_NICENESS = 10


def run(arguments: Sequence[str], checkpoint: str) -> int:
    """Runs the command of these arguments, the command's name first; does not return.

    Args:
        checkpoint: a model's name, a folder or a GGUF file, as the arguments have it.

    Raises:
        ConfigError: torch is not installed.
        StoreError: the name is that of no model, or of one that is not pulled.
    """
    needs_torch(f"dlm-lsp {arguments[0]}")
    sys.stdout.flush()
    if arguments[0] == "train-drafter":
        _be_nice()
    # -P ignores a folder named `engine` in the current folder.
    program = [sys.executable, "-P", "-m", MODULE, *arguments]
    os.execv(sys.executable, [*program, *found_out(checkpoint)])


def _be_nice() -> None:
    """Gives way to everything else on this machine: a drafter is trained for hours. Windows has no
    such call."""
    if hasattr(os, "setpriority"):
        now = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(now, _NICENESS))


def found_out(checkpoint: str) -> list[str]:
    """The options by which the training program is told what a model's name stands for."""
    path = choose(checkpoint).path
    name = name_of(path)
    # A checkpoint from elsewhere has its path for a name, and is named after its file by training.
    named = [] if path is not None and name == str(path) else ["--name", name]
    return [
        *("--at", str(path or BUNDLED_CHECKPOINT), *named),
        *("--adapters", str(adapters_folder()), "--graphs", str(graphs_folder())),
    ]
