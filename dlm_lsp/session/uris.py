"""The file that a document's URI means, for rules about its name and its folder.

A rule that silences must not be evaded by the way a name is written, so it is asked about every
reading of a URI: with and without a query and a fragment, and the file that a link leads to. Reads
no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

# An ending for languages whose documents may not have a name yet.
_ENDINGS = {
    "c": ".c",
    "cpp": ".cpp",
    "csharp": ".cs",
    "css": ".css",
    "dart": ".dart",
    "go": ".go",
    "haskell": ".hs",
    "html": ".html",
    "java": ".java",
    "javascript": ".js",
    "json": ".json",
    "javascriptreact": ".jsx",
    "julia": ".jl",
    "kotlin": ".kt",
    "lua": ".lua",
    "perl": ".pl",
    "markdown": ".md",
    "php": ".php",
    "python": ".py",
    "r": ".r",
    "ruby": ".rb",
    "rust": ".rs",
    "scala": ".scala",
    "shellscript": ".sh",
    "sh": ".sh",
    "sql": ".sql",
    "swift": ".swift",
    "toml": ".toml",
    "typescript": ".ts",
    "typescriptreact": ".tsx",
    "yaml": ".yaml",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def paths_in(uri: str) -> tuple[str, ...]:
    """Returns the paths that a URI of any scheme may mean, with forward slashes, the likeliest
    first. Accepts any text."""
    scheme, colon, rest = uri.partition(":")
    whole = rest if colon else scheme
    stripped = re.split(r"[?#]", whole, maxsplit=1)[0] if colon else whole
    plain = _decoded(stripped)
    found = dict.fromkeys((plain, _decoded(whole)))
    if plain.startswith("/"):
        found.setdefault(_resolved(plain))
    return tuple(found)


def file_of(uri: str) -> Path | None:
    """Returns the file on this machine that a document may be, or None if it has no absolute path.

    Notebook cells and versions of a file count as the file, since the same rules are meant.
    """
    if not _SCHEME.match(uri):
        return None
    path = paths_in(uri)[0]
    return Path(path) if path.startswith("/") and path.strip("/") and "\0" not in path else None


def has_identity(uri: str) -> bool:
    """Returns whether a URI names one document and no other.

    Neovim calls every buffer without a name `file://`.
    """
    return bool(paths_in(uri)[0].strip("/"))


def name_of(uri: str, language_id: str) -> str:
    """Returns the name of a document's file, with an ending of its language if it has none."""
    name = paths_in(uri)[0].rstrip("/").rpartition("/")[2].replace("\n", " ").strip()
    ending = _ENDINGS.get(language_id.lower())
    return name if "." in name or ending is None else f"{name or 'untitled'}{ending}"


def shared_folder(uris: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the name of the innermost folder that holds all of these files, and their paths in
    it; without a folder but the root, an empty name and the files' own names."""
    paths = [paths_in(uri)[0].strip("/").split("/") for uri in uris]
    folders = zip(*(path[:-1] for path in paths), strict=False)
    shared = [same[0] for same in takewhile(lambda parts: len(set(parts)) == 1, folders)]
    names = ["/".join(path[len(shared) :] if shared else path[-1:]) for path in paths]
    return (shared[-1] if shared else ""), names


def _decoded(path: str) -> str:
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return unquote(path).replace("\\", "/")


def _resolved(path: str) -> str:
    """Returns the path with links resolved, or unchanged if it cannot be."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return path
