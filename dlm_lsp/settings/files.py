"""The paths of the settings files: the user's own file and that of a file's project.

`settings/schema.py` reads the files.
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

from dlm_lsp.settings.schema import PROJECT_FILE

_ROOT_MARKS = (PROJECT_FILE, ".git")  # The same as in editors/nvim.


def user_file() -> Path:
    """Returns the path of the user's settings file, which may be missing."""
    return platformdirs.user_config_path("dlm-lsp", appauthor=False) / PROJECT_FILE


def project_dir(file: Path) -> Path | None:
    """Returns the nearest folder above the file that an editor takes as the project's root."""
    for folder in file.absolute().parents:
        if any((folder / mark).exists() for mark in _ROOT_MARKS):
            return folder
    return None
