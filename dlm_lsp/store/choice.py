"""Resolves the setting `engine.checkpoint` to a checkpoint.

The setting is a name of the catalogue, a folder or a GGUF file; without it, the checkpoint is the
best pulled model or the bundled one. The language server, the command line, the doctor and every
program that starts a host use this module, so that all mean the same files.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlm_lsp.store.catalogue import BUNDLED, Entry
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.folder import RECORD, Store
from dlm_lsp.store.further import entries as all_entries

PULL_HINT = (
    "The small bundled model is used, whose suggestions are mostly wrong. Run `dlm-lsp model "
    "pull`, or the command dlm.pullModel in the editor, to get a real one."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint to load.

    Attributes:
        path: the path; None for the bundled model.
        name: the catalogue's name, if the checkpoint is from the store or bundled.
        is_open: whether the setting left the choice open.
        memory_bytes: the estimated memory, if the catalogue knows it.
    """

    path: Path | None
    name: str | None = None
    is_open: bool = False
    memory_bytes: int | None = None

    @property
    def hint(self) -> str | None:
        """How to get a real model; None if one is chosen or pulled."""
        return PULL_HINT if self.is_open and self.path is None else None


def choose(
    checkpoint: str | None, store: Store | None = None, entries: Sequence[Entry] | None = None
) -> Choice:
    """Returns the checkpoint that a setting currently means.

    A name of the catalogue takes precedence over a folder of the same name, which "./NAME" means.

    Raises:
        StoreError: the setting names a model that is not pulled or does not exist.
    """
    store = Store() if store is None else store
    entries = all_entries() if entries is None else entries
    if checkpoint is None:
        return _best(store, entries)
    if checkpoint == BUNDLED:
        return Choice(None, BUNDLED)
    for entry in entries:
        if entry.name == checkpoint:
            return _pulled(entry, store)
    if "\0" in checkpoint:
        raise StoreError(
            f"engine.checkpoint is {checkpoint!r}, which no file can be called.",
            remedy="Give a model's name, a folder or a GGUF file.",
            code="file",
        )
    path = _path(checkpoint)
    if str(path).startswith("~"):
        user = checkpoint.partition("/")[0]
        raise StoreError(
            f"engine.checkpoint is {checkpoint!r}, but there is no user or home folder {user!r}.",
            remedy="Write the path from the root on, or ./~… for a folder of that name.",
            code="file",
        )
    known = [entry.name for entry in entries]
    if _is_like_a_name(checkpoint) and not os.path.exists(path):
        close = difflib.get_close_matches(checkpoint.lower(), known, n=1, cutoff=0.8)
        if close:
            raise StoreError(
                f"engine.checkpoint is {checkpoint!r}: neither a file or folder nor a model.",
                remedy=f"Did you mean {close[0]}?",
                code="unknown_name",
            )
    return Choice(path)


def name_of(path: Path | None, store: Store | None = None) -> str:
    """Returns a checkpoint's name for users.

    This is the catalogue's name if the checkpoint is in the store or bundled (None), otherwise its
    path.
    """
    if path is None:
        return BUNDLED
    root = (Store() if store is None else store).root
    for place in (path, path.parent):  # The path is a folder or a GGUF file in it.
        if place.parent == root and (place / RECORD).is_file():
            return place.name
    return str(path)


def as_given(argument: str) -> str:
    """Converts a command line's checkpoint for the settings: names stay, paths become absolute."""
    names = [BUNDLED, *(entry.name for entry in all_entries())]
    if argument in names:
        return argument
    path = _path(argument)
    if not os.path.exists(path) and difflib.get_close_matches(argument, names, n=1, cutoff=0.8):
        return argument  # `choose` suggests similar names.
    return str(path.absolute())


def _best(store: Store, entries: Sequence[Entry]) -> Choice:
    ranked = [entry for entry in entries if entry.rank is not None]
    for entry in sorted(ranked, key=lambda each: each.rank or 0, reverse=True):
        if (kept := store.find(entry)) is not None:
            return Choice(kept.path, entry.name, True, entry.memory_bytes)
    return Choice(None, BUNDLED, True)


def _pulled(entry: Entry, store: Store) -> Choice:
    kept = store.find(entry)
    if kept is None:
        raise StoreError(
            f"The model {entry.name} is not pulled yet.",
            remedy=f"Run `dlm-lsp model pull {entry.name}`.",
            code="not_pulled",
        )
    return Choice(kept.path, entry.name, False, entry.memory_bytes)


def _path(text: str) -> Path:
    """Returns the path with "~" expanded.

    This uses `os.path`, which unlike `Path` does not raise for an unknown user: a setting must not
    stop a server.
    """
    return Path(os.path.expanduser(text))


def _is_like_a_name(text: str) -> bool:
    return not text.startswith((".", "~")) and os.sep not in text and "/" not in text
