"""The paths of the settings files: the user's own file and the project's file of a document.

`settings/schema.py` reads the files, and `settings/book.py` keeps what they say.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import platformdirs

from dlm_lsp.settings.schema import PROJECT_FILE

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def user_file() -> Path:
    """Returns the path of the user's settings file, which may be missing."""
    return platformdirs.user_config_path("dlm-lsp", appauthor=False) / PROJECT_FILE


def project_file(file: Path) -> Path | None:
    """Returns the project's settings file of a document: the nearest one above it.

    The same rule holds in the server, on the command line and in the report of the doctor.
    """
    for folder in folders_above(file.absolute()):
        found = folder / PROJECT_FILE
        if os.path.isfile(found) or is_blocked(found):
            return found
    return None


def folders_above(file: Path) -> list[Path]:
    """Returns the folders above a file that exist or may exist, the nearest first.

    A name comes from a client and may have thousands of folders: below one that is not there, none
    is looked for.
    """
    found: list[Path] = []
    for folder in reversed(file.parents):
        try:
            folder.stat()
        except (OSError, ValueError) as error:
            if cannot_exist(error):
                break
        found.append(folder)
    return found[::-1]


def is_blocked(path: Path) -> bool:
    """Returns whether it cannot be known if a file is there."""
    try:
        path.lstat()
    except (OSError, ValueError) as error:
        return not cannot_exist(error)
    return False


def cannot_exist(error: OSError | ValueError) -> bool:
    """Returns whether an error means that no file of the name exists or can exist."""
    return isinstance(error, ValueError) or error.errno in _NO_FILE
