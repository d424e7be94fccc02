"""`dlm-lsp adapt`, `convert` and `train-drafter`: replace this process with the training program.

Training needs torch, which this program does not import. The training program takes over the
terminal, the signals and the exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.device import needs_torch

MODULE = "engine.lab.training.commands"


def run(arguments: Sequence[str]) -> int:
    """Runs the command of these arguments, the command's name first; does not return.

    Raises:
        ConfigError: torch is not installed.
    """
    needs_torch(f"dlm-lsp {arguments[0]}")
    sys.stdout.flush()
    # -P ignores a folder named `engine` in the current folder.
    os.execv(sys.executable, [sys.executable, "-P", "-m", MODULE, *arguments])
