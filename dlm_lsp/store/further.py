"""Further catalogue entries from a JSON file that an environment variable names.

They are for the user's own models and for tests. Such an entry must state every file's SHA-256
and cannot have the name of a built-in entry, so that known hashes cannot be replaced. Owns the
file's format and its errors.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from dlm_lsp.store.catalogue import BUNDLED, CATALOGUE, Entry, File, Hub, Source, Wheels
from dlm_lsp.store.errors import StoreError

CATALOGUE_VARIABLE = "DLM_LSP_CATALOGUE"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = ("adapters", "graphs", BUNDLED)  # Names that the store uses itself.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")  # This cannot match a pip option.
_BYTES_MAX = 1 << 20


def entries() -> tuple[Entry, ...]:
    """Returns the catalogue with the further entries. Raises StoreError for an invalid entry."""
    named = os.environ.get(CATALOGUE_VARIABLE)
    if not named:
        return CATALOGUE
    path = Path(os.path.expanduser(named))  # Never raises, unlike Path's.
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_BYTES_MAX))
        further = tuple(_entry(item) for item in found)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _wrong(path, f"is not a list of entries: {error!r}") from None
    names = [entry.name for entry in (*CATALOGUE, *further)]
    for entry in further:
        if names.count(entry.name) > 1 or entry.name in RESERVED:
            raise _wrong(path, f"has an entry {entry.name!r}, a name that is taken")
    return (*CATALOGUE, *further)


def _entry(item: dict[str, Any]) -> Entry:
    files = tuple(File(file["name"], int(file["bytes"]), file["sha256"]) for file in item["files"])
    for file in files:
        if not re.fullmatch("[0-9a-f]{64}", file.sha256) or not _FILE_NAME.fullmatch(file.name):
            raise ValueError(f"file {file.name!r}: a plain name and a SHA-256 are needed")
    if not files or not NAME.fullmatch(item["name"]) or item["name"].endswith(".partial"):
        raise ValueError(f"entry {item['name']!r}: a plain name and files are needed")
    sources = tuple(_source(source) for source in item["sources"])
    if len(files) != 1 and any(isinstance(source, Wheels) for source in sources):
        raise ValueError(f"entry {item['name']!r}: wheels hold one file")
    num_bytes = sum(file.bytes for file in files)
    return Entry(
        name=item["name"],
        title=item.get("title", item["name"]),
        licence=item.get("licence", "unknown"),
        parameters=int(item.get("parameters", num_bytes)),
        bytes=num_bytes,
        memory_bytes=int(item.get("memory", num_bytes)),
        sources=sources,
        files=files,
        rank=item.get("rank"),
        proposed=bool(item.get("proposed", False)),
    )


def _source(item: dict[str, Any]) -> Source:
    if "repo" in item:
        return Hub(item["repo"], item["revision"])
    if not _DISTRIBUTION.fullmatch(item["prefix"]) or not _DISTRIBUTION.fullmatch(item["version"]):
        raise ValueError(f"wheels {item['prefix']!r}: a distribution's name and version are needed")
    return Wheels(item["prefix"], item["version"], int(item["count"]), int(item["partBytes"]))


def _wrong(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"{CATALOGUE_VARIABLE}: {path} {problem}.",
        remedy=f"Correct the file, or unset {CATALOGUE_VARIABLE}.",
        code="catalogue",
    )
