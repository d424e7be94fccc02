"""Where settings files lie: the user's own, and the one of the project that a file belongs to.

Owns the two places alone; what stands in the files is for `settings/schema.py`.
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

from dlm_lsp.settings.schema import PROJECT_FILE

_ROOT_MARKS = (PROJECT_FILE, ".git")  # as editors/nvim has them


def user_file() -> Path:
    """The user's own settings file, whether or not it is there."""
    return platformdirs.user_config_path("dlm-lsp", appauthor=False) / PROJECT_FILE


def project_dir(file: Path) -> Path | None:
    """The nearest folder above the file that an editor would take for its project's root."""
    for folder in file.absolute().parents:
        if any((folder / mark).exists() for mark in _ROOT_MARKS):
            return folder
    return None
