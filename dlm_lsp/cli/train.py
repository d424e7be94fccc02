"""`dlm-lsp adapt`, `convert` and `train-drafter`: hands the command over to the training program.

Training needs torch, which this program does without; so it becomes the other one, which has the
same terminal, the same signals and the same exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.device import needs_torch

MODULE = "engine.lab.training.commands"


def run(arguments: Sequence[str]) -> int:
    """Runs the command of these words, the command's name first; does not come back.

    Raises:
        ConfigError: torch is not installed.
    """
    needs_torch(f"dlm-lsp {arguments[0]}")
    sys.stdout.flush()
    # -P: a folder named `engine` where the user stands must not take our place.
    os.execv(sys.executable, [sys.executable, "-P", "-m", MODULE, *arguments])
