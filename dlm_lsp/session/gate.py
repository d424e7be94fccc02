"""Decides whether a request may reach the engine, and by which settings.

Owns the settings of each document, the ignore files, and what the user has switched off: all
suggestions for a while (snooze) or those of one document (toggle). It fails closed: while the
settings of a document are broken, nothing of it is sent. Knows no engine and no answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlm_lsp.session.document import Document
from dlm_lsp.session.silence import why_silent
from dlm_lsp.session.uris import file_of, has_identity, paths_in
from dlm_lsp.settings.book import SettingsBook
from dlm_lsp.settings.ignores import IgnoreFiles
from dlm_lsp.settings.schema import LoadedSettings, Settings
from engine.api import AskedMode


@dataclass(frozen=True, slots=True)
class Switches:
    """What the user has switched off: everything until a time (of `time.time`), and documents."""

    snoozed_until: float | None = None
    documents_off: tuple[str, ...] = ()


class Gate:
    """The gate of one editor's session.

    Args:
        report: writes a sentence into the editor's log; each problem of the settings once.
        on_change: called after a settings file has changed.
    """

    def __init__(
        self,
        client: object,
        user_file: Path | None,
        report: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._book = SettingsBook(client, user_file, on_change)
        self._ignores = IgnoreFiles()
        self._report = report
        self._reported: set[str] = set()
        self._mode: AskedMode | None = None
        self.switches = Switches()

    def use_client(self, options: object) -> None:
        """Uses the editor's new settings; a mode that a command has set gives way to them."""
        self._mode = None
        self._book.use_client(options)

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Uses these workspace folders."""
        self._book.use_folders(folders)

    def use_mode(self, mode: AskedMode) -> None:
        """Uses this mode for all documents from now on."""
        self._mode = mode

    def expire(self) -> None:
        """Lets all settings and ignore files be looked at again."""
        self._book.expire()
        self._ignores.expire()

    @property
    def general(self) -> Settings:
        """The settings that hold for no document in particular, such as the engine's."""
        return self._settings(self._loaded(None))

    def settings_of(self, uri: str) -> Settings:
        """Returns the settings of a document."""
        return self._settings(self._loaded(file_of(uri)))

    def reason(self, document: Document, offset: int, automatic: bool) -> str | None:
        """Returns why nothing is suggested at an offset as one sentence, or None."""
        uri = document.uri
        if uri in self.switches.documents_off:
            return "Suggestions are switched off for this document (dlm.toggle)."
        if automatic and self.snoozed_seconds() > 0:
            return "Suggestions are snoozed (dlm.snooze)."
        return why_not(document, offset, self._loaded(file_of(uri)), automatic, self._ignores)

    def snooze(self, minutes: float) -> None:
        """Silences suggestions while typing for so long; 0 ends that at once."""
        until = time.time() + minutes * 60 if minutes else None
        self.switches = Switches(until, self.switches.documents_off)

    def snoozed_seconds(self) -> float:
        """Returns how long suggestions stay snoozed; 0 if they are not."""
        until = self.switches.snoozed_until
        return 0.0 if until is None else max(0.0, until - time.time())

    def toggle(self, uri: str, on: bool | None) -> bool:
        """Switches a document's suggestions on or off, or over if `on` is None; returns the new
        state."""
        off = self.switches.documents_off
        is_on = uri in off if on is None else on
        others = tuple(other for other in off if other != uri)
        off = others if is_on else (*others, uri)
        self.switches = Switches(self.switches.snoozed_until, off)
        return is_on

    def _loaded(self, file: Path | None) -> LoadedSettings:
        loaded = self._book.settings_of(file)
        for problem in loaded.problems:
            if problem not in self._reported:
                self._reported.add(problem)
                self._report(problem)
        return loaded

    def _settings(self, loaded: LoadedSettings) -> Settings:
        if self._mode is None:
            return loaded.settings
        return loaded.settings.model_copy(update={"mode": self._mode})


def why_not(
    document: Document,
    offset: int,
    loaded: LoadedSettings,
    automatic: bool,
    ignores: IgnoreFiles | None = None,
) -> str | None:
    """Returns why nothing is suggested at a place by its settings and ignore files, or None.

    The server, the command line and the doctor ask this one function.
    """
    if not has_identity(document.uri):
        return "The document has no name, so that it could be confused with another: save it."
    if loaded.blocked is not None:
        return loaded.blocked
    reason = why_silent(document, offset, loaded.settings, automatic)
    if reason is None and loaded.settings.silence.ignored_files:
        reason = _why_ignored(document.uri, ignores or IgnoreFiles())
    return reason


def _why_ignored(uri: str, ignores: IgnoreFiles) -> str | None:
    """Returns why a document is excluded by an ignore file as one sentence, or None."""
    if file_of(uri) is None:
        return None
    for path in paths_in(uri):
        if path.startswith("/") and "\0" not in path:
            found = ignores.ignoring(Path(path))
            if found is not None:
                return f"The file is ignored by {found} (silence.ignoredFiles)."
    return None
