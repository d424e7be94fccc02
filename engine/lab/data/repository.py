"""The user's own source trees as training data: which files are read, and which are held out.

git lists a tree, so that files that `.gitignore` names are not read. Files whose name or content
looks like secrets are left out, and so are generated ones. The path of a file alone decides whether
it is held out, so that a later run holds out the same files.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.lab.data.corpus import HELD, TRAIN, Source, clean, read_sources
from engine.lab.data.languages import language_of
from engine.secrets import is_secret

HELD_OUT_PART = 10  # one file in so many is held out

_BYTES_MIN, _BYTES_MAX = 100, 200_000
_LINE_MAX, _LINE_MEAN_MAX = 1_000, 120
# Keys in a file of any name: well-known prefixes that are long enough to be no accident.
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(?:gh[pousr]_\w{36}|github_pat_\w{40}|glpat-[\w-]{20}|xox[abprs]-[\w-]{20})"
    r"|\b(?:sk|rk)_live_\w{20}|\bsk-(?:ant-|proj-)?[\w-]{40}|\bAIza[\w-]{35}\b"
)
_GENERATED = re.compile(r"@generated|automatically generated|do not edit", re.IGNORECASE)
# A repository's own configuration may name any command as fsmonitor.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")


@dataclass(frozen=True, slots=True)
class Data:
    """Files to train and to measure on; `dropped` counts the others by reason."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    dropped: dict[str, int]


def read_data(folders: Sequence[Path]) -> Data:
    """Reads repositories, and folders that `build_corpus` wrote.

    Raises:
        ConfigError: One is not a folder, git is missing, or too few files are left.
    """
    train: list[Source] = []
    held_out: list[Source] = []
    dropped: Counter[str] = Counter()
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not a folder.",
                remedy="Give a repository's folder with --data.",
                param="data",
            )
        if (folder / f"{TRAIN}.jsonl").is_file() and (folder / f"{HELD}.jsonl").is_file():
            train += read_sources(folder, TRAIN)
            held_out += read_sources(folder, HELD)
            continue
        for source in read_repository(folder, dropped):
            (held_out if is_held_out(source.path) else train).append(source)
    if not held_out and len(train) > 1:
        # With too few files for one in ten, the one with the smallest hash.
        held_out.append(train.pop(min(range(len(train)), key=lambda i: _hash(train[i].path))))
    if not train or not held_out:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: {len(train)} files to train on and {len(held_out)} "
            f"to measure on are left; dropped: {dict(dropped)}.",
            remedy="Give a folder with at least two source files.",
            param="data",
        )
    return Data(tuple(train), tuple(held_out), dict(dropped))


def read_repository(folder: Path, dropped: Counter[str]) -> Iterator[Source]:
    """The files of one tree that can be used; the others are counted in `dropped`.

    Raises:
        ConfigError: git is missing or cannot list the folder.
    """
    root = folder.resolve()
    for path in list_files(root):
        language = language_of(path)
        if language is None:
            dropped["kind of file"] += 1
            continue
        file = root / path
        # A link may lead out of the tree.
        if file.is_symlink() or not file.is_file() or not file.resolve().is_relative_to(root):
            dropped["link or missing"] += 1
            continue
        if is_secret(path):
            dropped["secret"] += 1
            continue
        if not _BYTES_MIN <= file.stat().st_size <= _BYTES_MAX:
            dropped["size"] += 1
            continue
        data = file.read_bytes()
        reason = refusal(data)
        if reason is not None:
            dropped[reason] += 1
            continue
        yield Source(root.name, path, clean(data.decode("utf-8")), language)


def list_files(root: Path) -> list[str]:
    """The paths of all files that git does not ignore, relative to the tree, with forward slashes.

    A folder that is no repository is read as if it were one, with its `.gitignore` files.

    Raises:
        ConfigError: git is missing or fails.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [*_GIT, *words], cwd=root, env=environment, capture_output=True, check=False
            )
        except FileNotFoundError:
            raise ConfigError(
                "git is not installed; it decides which files of a folder are ignored.",
                remedy="Install git.",
                param="data",
            ) from None

    listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    if git("rev-parse", "--is-inside-work-tree").returncode == 0:
        done = git(*listing)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            git("init", "--quiet", "--bare", scratch)
            done = git(f"--git-dir={scratch}", f"--work-tree={root}", *listing)
    if done.returncode != 0:
        raise ConfigError(
            f"git cannot list {root}: {done.stderr.decode('utf-8', 'replace').strip()}",
            remedy="Give a folder that git can read.",
            param="data",
        )
    return sorted(os.fsdecode(name) for name in done.stdout.split(b"\0") if name)


def refusal(data: bytes) -> str | None:
    """Why a file is not used for its content, or None."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    lines = text.splitlines()
    if "\0" in text or _GENERATED.search(text[:1500]):
        return "generated or binary"
    if not lines or max(map(len, lines)) > _LINE_MAX or len(text) > _LINE_MEAN_MAX * len(lines):
        return "minified or data"
    return "secret" if _SECRET_TEXT.search(text) else None


def is_held_out(path: str) -> bool:
    """Whether a file is held out, by its path alone."""
    return _hash(path) % HELD_OUT_PART == 0


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8])
