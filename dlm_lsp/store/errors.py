"""The error of the model store, which names what is wrong and the remedy.

Also converts the operating system's errors about files.
"""

from __future__ import annotations

import errno
from pathlib import Path

# The codes of errors after which another source may still have the files.
OF_A_SOURCE = ("no_network", "offline", "refused", "wrong_hash", "bad_content", "pip_missing")


class StoreError(Exception):
    """A model cannot be found, downloaded, kept or removed.

    Attributes:
        message: what is wrong, with the model, file or folder.
        remedy: what the user can do about it; may be empty.
        code: the code for programs: "no_network", "offline", "refused", "wrong_hash",
            "bad_content", "pip_missing" (of one or all sources); "disk_full", "memory",
            "unknown_name", "not_pulled", "permission", "busy", "cancelled", "catalogue", "file".
    """

    def __init__(self, message: str, *, remedy: str = "", code: str) -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy
        self.code = code

    def to_object(self) -> dict[str, str]:
        """Returns the object that `--json` prints."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def of_system(error: OSError, path: Path) -> StoreError:
    """Converts the system's error about a file or folder of the store, and adds a remedy."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"The disk is full: {path} cannot grow.",
            remedy="Make room, or set DLM_LSP_MODELS to a folder on a larger disk; the pull goes "
            "on where it ended.",
            code="disk_full",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"{path} cannot be written or read: {reason}.",
            remedy="Give yourself the right to it, or set DLM_LSP_MODELS to a folder of yours.",
            code="permission",
        )
    return StoreError(f"{path} cannot be used: {reason}.", code="file")
