"""Where git keeps the rules of a repository that are in no `.gitignore`.

Reads git's configuration files, as far as they say where the user's own exclude file lies
(`core.excludesFile`, in the system's, the user's and the repository's file, with `include.path`),
and finds the folder of a repository that is a linked worktree or a submodule. Runs no git. Files
are small or are not read; conditional includes (`includeIf`) are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from dlm_lsp.settings.files import cannot_exist

CONFIG_BYTES_MAX = 1 << 18
_INCLUDES_MAX = 4  # One within another.
_SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"(?:[^"\\]|\\.)*")?\s*\]')
_KEY = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=\s*(.*))?\Z")


class UnreadableError(Exception):
    """A file of git's is there and cannot be read; `path` names it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def shared_folder(root: Path) -> Path:
    """Returns the folder with `info/exclude` and `config` of the repository at a folder.

    Raises: UnreadableError.
    """
    folder = root / ".git"
    link = _read(folder) if folder.is_file() else None
    if link is not None and link.startswith("gitdir:"):  # a linked worktree or a submodule
        folder = root / link.removeprefix("gitdir:").strip()
    common = _read(folder / "commondir")
    return folder if common is None else folder / common.strip()


def excludes_file(shared: Path, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Returns the user's own exclude file for a repository, which may be missing.

    Args:
        shared: the repository's folder with its `config`.

    Raises: UnreadableError.
    """
    user = _user_folder(environment)
    named = environment.get("GIT_CONFIG_GLOBAL")
    own = [Path(named)] if named else [user / "config", Path("~/.gitconfig")]
    found: str | None = None
    for path in (Path("/etc/gitconfig"), *own, shared / "config"):
        for value in _values(path, _INCLUDES_MAX):
            found = value
    if found is None:
        return user / "ignore"
    return shared.parent / _expanded(found) if found else None


def _user_folder(environment: Mapping[str, str]) -> Path:
    named = environment.get("XDG_CONFIG_HOME")
    return Path(named or os.path.expanduser("~/.config")) / "git"


def _values(path: Path, depth: int) -> Iterator[str]:
    """Yields each value of `core.excludesFile`, the last of which counts."""
    path = Path(_expanded(str(path)))
    text = _read(path)
    for name, value in _settings(text or ""):
        if name == "core.excludesfile":
            yield value
        elif name == "include.path" and depth and value:
            yield from _values(path.parent / _expanded(value), depth - 1)


def _settings(text: str) -> Iterator[tuple[str, str]]:
    """Yields names in lower case and values; those of subsections are left out."""
    section = ""
    for line in text.replace("\r\n", "\n").replace("\\\n", "").split("\n"):
        if header := _SECTION.match(line):
            section = "" if '"' in header.group() else header.group(1).lower()
            line = line[header.end() :]
        if (key := _KEY.match(line)) and section:
            yield f"{section}.{key.group(1).lower()}", _unquoted(key.group(2) or "")


def _unquoted(value: str) -> str:
    """Returns a value without quotes, escapes and a comment."""
    plain, is_quoted, kept = "", False, 0
    characters = iter(value)
    for character in characters:
        if character == '"':
            is_quoted = not is_quoted
        elif character in "#;" and not is_quoted:
            break
        elif character == "\\":
            escaped = next(characters, "")
            plain += {"n": "\n", "t": "\t"}.get(escaped, escaped)
        else:
            plain += character
        if is_quoted or not character.isspace():
            kept = len(plain)
    return plain[:kept]


def _expanded(path: str) -> str:
    return os.path.expanduser(path)


def _read(path: Path) -> str | None:
    """Returns a small file's text, or None if there is no file. Raises UnreadableError."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        if cannot_exist(error):
            return None
        raise UnreadableError(path) from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise UnreadableError(path)
    return raw.decode("utf-8-sig", "surrogateescape")
