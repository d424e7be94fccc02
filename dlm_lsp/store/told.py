"""Records in the user's state folder that the user was told how to get a real model."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_NAME = "model-hint-shown"


def tell_now() -> bool:
    """Returns whether to tell the user now: True once per user and machine.

    Returns False if that cannot be recorded, because no message is better than one at every start.
    """
    folder = Path(platformdirs.user_state_path("dlm-lsp", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / _NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True
