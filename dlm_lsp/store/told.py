"""That the user has been told, once, how to get a real model: a file in the user's state folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_NAME = "model-hint-shown"


def tell_now() -> bool:
    """Whether the user is to be told now: True once per user and machine, then never again.

    Where that cannot be noted, it is never: better no message than one at every start.
    """
    folder = Path(platformdirs.user_state_path("dlm-lsp", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / _NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True
