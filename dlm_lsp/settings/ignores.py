"""Which files `.gitignore` and `.dlmignore` exclude from suggestions and from context.

`.gitignore` counts within a git repository, together with `.git/info/exclude` and the user's own
exclude file (`settings/git.py`); `.dlmignore` has the same form and counts everywhere below its
folder. The library `pathspec` matches the patterns. An ignore file that cannot be read excludes
everything below it. Files are looked at once in CHECK_SECONDS at most, and anew after `expire`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from dlm_lsp.settings.files import cannot_exist, folders_above
from dlm_lsp.settings.git import UnreadableError, excludes_file, shared_folder

CHECK_SECONDS = 1.0
OWN, GIT, EXCLUDE = ".dlmignore", ".gitignore", Path("info", "exclude")
_BYTES_MAX = 1 << 20
_PATTERNS_MAX = 4_000  # Compiling one takes 0.2 ms, and a repository may be a stranger's.
# A pattern becomes a regular expression, whose time grows with a power of this. A pattern with more
# stars is widened, so that it excludes more.
_STARS_MAX = 3
_ANSWERS_MAX = 256
_SPECS_MAX = 256


@dataclass(frozen=True, slots=True)
class _Rules:
    """The patterns of one ignore file for what lies below `folder`; None if it cannot be read."""

    path: Path
    folder: Path
    spec: GitIgnoreSpec | None


class IgnoreFiles:
    """Answers whether a file is ignored, and remembers the answers and the patterns."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: dict[Path, tuple[float, Path | None]] = {}
        self._specs: dict[Path, tuple[tuple[int, int], GitIgnoreSpec | None]] = {}

    def expire(self) -> None:
        """Lets every file be looked at when it is next asked about."""
        self._answers.clear()

    def ignoring(self, file: Path) -> Path | None:
        """Returns the ignore file that excludes a file, or None if none does."""
        checked, answer = self._answers.get(file, (float("-inf"), None))
        if self._clock() - checked < CHECK_SECONDS:
            return answer
        if len(self._answers) >= _ANSWERS_MAX:
            self._answers.clear()
        answer = self._look(file)
        self._answers[file] = (self._clock(), answer)
        return answer

    def _look(self, file: Path) -> Path | None:
        folders = [folder for folder in reversed(folders_above(file)) if folder != Path()]
        own = [self._rules(folder / OWN, folder) for folder in folders]
        root = next((at for at in reversed(range(len(folders))) if _has_git(folders[at])), None)
        git: list[_Rules | None] = []
        if root is not None:
            git += self._shared_rules(folders[root])
            git += [self._rules(folder / GIT, folder) for folder in folders[root:]]
        places = [*folders, file]
        return _verdict(own, places) or _verdict(git, places)

    def _shared_rules(self, root: Path) -> list[_Rules | None]:
        """Returns the rules of the exclude files of a repository, the weakest first."""
        try:
            shared = shared_folder(root)
            user = excludes_file(shared)
        except UnreadableError as error:
            return [_Rules(error.path, root, None)]
        files = [shared / EXCLUDE] if user is None else [user, shared / EXCLUDE]
        return [self._rules(path, root) for path in files]

    def _rules(self, path: Path, folder: Path) -> _Rules | None:
        """Returns the rules of an ignore file, or None if it does not exist."""
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            return None if cannot_exist(error) else _Rules(path, folder, None)
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._specs.get(path)
        if known is None or known[0] != stamp:
            if len(self._specs) >= _SPECS_MAX:
                self._specs.clear()
            known = self._specs[path] = (stamp, _read(path))
        return _Rules(path, folder, known[1])


def _verdict(found: Iterable[_Rules | None], places: Sequence[Path]) -> Path | None:
    """Returns the file whose pattern excludes the last place or a folder above it.

    As in git, the last pattern that matches counts, and nothing below an excluded folder can be
    included again.
    """
    rules = [each for each in found if each is not None]
    for number, place in enumerate(places):
        decided: Path | None = None
        for each in rules:
            if each.folder not in place.parents:
                continue
            if each.spec is None:
                return each.path
            name = place.relative_to(each.folder).as_posix()
            include = each.spec.check_file(
                name if number == len(places) - 1 else f"{name}/"
            ).include
            if include is not None:
                decided = each.path if include else None
        if decided is not None:
            return decided
    return None


def _has_git(folder: Path) -> bool:
    try:
        return (folder / ".git").exists()
    except OSError as error:
        return not cannot_exist(error)


def _read(path: Path) -> GitIgnoreSpec | None:
    """Returns the patterns of a file; lines that are no patterns are left out, as git does."""
    try:
        if not path.is_file():
            return GitIgnoreSpec(())
        with path.open("rb") as file:
            raw = file.read(_BYTES_MAX + 1)
    except OSError:
        return None
    if len(raw) > _BYTES_MAX:
        return None
    lines = [
        _widened(line)
        for line in re.split(r"\r?\n", raw.decode("utf-8-sig", "surrogateescape"))
        if line.strip() and not line.startswith("#")
    ]
    if len(lines) > _PATTERNS_MAX:
        return None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        return GitIgnoreSpec.from_lines(line for line in lines if _is_pattern(line))


def _widened(line: str) -> str:
    """Returns a pattern that matches what this one does, and has few stars."""
    if line.count("*") <= _STARS_MAX:
        return line
    is_negated, pattern = line.startswith("!"), line.removeprefix("!")
    names = re.sub(r"(?<![^/])(?:\*\*/)+", "**/", pattern).split("/")
    short = [_with_few_stars(name) for name in names]
    deep = [at for at, name in enumerate(short) if name == "**"]
    if len(deep) > _STARS_MAX:
        short[deep[0] : deep[-1] + 1] = ["**"]
    if "/".join(short) == "/".join(names):
        return line
    # A wider pattern would include more than this one does.
    return "" if is_negated else "/".join(short)


def _with_few_stars(name: str) -> str:
    runs = list(re.finditer(r"\*+", name))
    if len(runs) <= _STARS_MAX:
        return re.sub(r"\*{3,}", "*", name)
    if "[" in name or "\\" in name:
        return "*"
    return f"{name[: runs[0].start()]}*{name[runs[-1].end() :]}"


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
