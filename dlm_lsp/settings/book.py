"""What the settings say for each document, read again when a file changes.

The project's file of a document is the nearest one above it (`settings/files.py`). Files are looked
at once in CHECK_SECONDS at most, and anew after `expire`, which an editor that watches them causes.
Owns the latest settings of each folder. Knows no requests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlm_lsp.settings.files import project_file
from dlm_lsp.settings.schema import LoadedSettings, load_settings

CHECK_SECONDS = 1.0
_FOLDERS_MAX = 256  # Folders whose settings are remembered.

Stamp = tuple[int, int, int] | None


@dataclass(slots=True)
class _Page:
    """The settings of one folder's documents, and the files that they were read from."""

    files: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    loaded: LoadedSettings
    checked: float


class SettingsBook:
    """The settings of one editor's documents.

    Args:
        user_file: the user's own file, which may be missing.
        on_change: called after settings that were given out have changed.
    """

    def __init__(
        self,
        client: object = None,
        user_file: Path | None = None,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._user_file = user_file
        self._on_change = on_change
        self._clock = clock
        self._pages: dict[Path | None, _Page] = {}
        self.folders: tuple[Path, ...] = ()

    def use_client(self, options: object) -> None:
        """Uses the editor's new settings, and reads all files again."""
        self._client = options
        self._pages.clear()

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Uses these workspace folders, which count for documents without a file."""
        self.folders = tuple(folders)
        self._pages.clear()

    def expire(self) -> None:
        """Lets every file be looked at when it is next asked about."""
        for page in self._pages.values():
            page.checked = float("-inf")

    def settings_of(self, file: Path | None) -> LoadedSettings:
        """Returns the settings of a document; None stands for one without a file, for which the
        files of all workspace folders count, so that each of them can silence it."""
        key = None if file is None else file.parent
        page = self._pages.get(key)
        if page is not None and self._clock() - page.checked < CHECK_SECONDS:
            return page.loaded
        return self._looked_at(key, page).loaded

    def _looked_at(self, key: Path | None, page: _Page | None) -> _Page:
        """Returns the page of a folder, read again if a file has changed."""
        wanted = [folder / "file" for folder in self.folders] if key is None else [key / "file"]
        files = tuple(dict.fromkeys(found for one in wanted if (found := project_file(one))))
        all_files = files if self._user_file is None else (*files, self._user_file)
        stamps = tuple(map(_stamp, all_files))
        if page is not None and (page.files, page.stamps) == (files, stamps):
            page.checked = self._clock()
            return page
        loaded = load_settings(self._client, files, self._user_file)
        is_changed = page is not None and page.loaded != loaded
        if len(self._pages) >= _FOLDERS_MAX:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = page = _Page(files, stamps, loaded, self._clock())
        if is_changed:
            self._on_change()
        return page


def _stamp(path: Path) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
