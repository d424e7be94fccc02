"""A file that is hashed while it is downloaded.

Owns the descriptor, the running hash and the check. The bytes of an interrupted pull are hashed
first, and the rest is appended. Never writes through a link.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from dlm_lsp.store.catalogue import File
from dlm_lsp.store.errors import StoreError, of_system

CHUNK_BYTES = 1 << 20


class Sink:
    """One file that is being downloaded. Use it as a context manager; `finish` checks the file.

    Args:
        checking: called after each piece of existing bytes that is hashed.

    Attributes:
        size: the number of bytes so far.
        was_resumed: whether there were bytes of an earlier pull.
    """

    def __init__(self, path: Path, file: File, checking: Callable[[], None]) -> None:
        self._path = path
        self._file = file
        self._hash = _new_hash(file)
        self.size = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open(path)
            if os.fstat(self._descriptor).st_size > file.bytes:
                os.ftruncate(self._descriptor, 0)
            while piece := os.read(self._descriptor, CHUNK_BYTES):
                self._hash.update(piece)
                self.size += len(piece)
                checking()
        except OSError as error:
            raise of_system(error, path) from None
        self.was_resumed = self.size > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Appends bytes. Raises StoreError if the file gets too long or the disk is full."""
        if self.size + len(data) > self._file.bytes:
            self.restart()
            raise StoreError(
                f"{self._file.name} is longer than its {self._file.bytes} bytes.",
                code="wrong_hash",
            )
        try:
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                self._hash.update(view[:written])
                self.size += written
                view = view[written:]
        except OSError as error:
            raise of_system(error, self._path) from None

    def restart(self) -> None:
        """Deletes all bytes so far."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash, self.size = _new_hash(self._file), 0

    def finish(self) -> None:
        """Checks length and hash, and flushes the file to disk. A wrong file is deleted.

        Raises: StoreError.
        """
        expected = self._file.sha256 or self._file.git_oid
        found = self._hash.hexdigest()
        if self.size != self._file.bytes or found != expected:
            size = self.size
            self._path.unlink(missing_ok=True)
            name = "SHA-256" if self._file.sha256 else "git object id"
            raise StoreError(
                f"{self._file.name} is not the right file: {name} {found} of {size} bytes, "
                f"expected {expected} of {self._file.bytes}. It was thrown away.",
                code="wrong_hash",
            )
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise of_system(error, self._path) from None


def is_right(path: Path, file: File, checking: Callable[[], None]) -> bool:
    """Returns whether a file has the right length and hash; False if it cannot be read."""
    try:
        if path.stat().st_size != file.bytes:
            return False
        found = _new_hash(file)
        with path.open("rb") as source:
            while piece := source.read(CHUNK_BYTES):
                found.update(piece)
                checking()
    except OSError:
        return False
    return found.hexdigest() == (file.sha256 or file.git_oid)


def _new_hash(file: File) -> hashlib._Hash:
    if file.sha256:
        return hashlib.sha256()
    # Git's hash of a blob, which the hub states for small text files.
    return hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)


def _open(path: Path) -> int:
    """Opens a regular file without further hard links; anything else is replaced."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_BINARY", 0)
    if os.path.lexists(path):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            path.unlink()
    return os.open(path, flags, 0o644)
