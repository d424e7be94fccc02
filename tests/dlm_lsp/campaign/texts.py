"""Texts of the campaigns: real files of twelve languages, and positions as an editor counts them.

The files are those that any machine has which can run the tests: the environment's packages and the
system's documentation, headers and scripts. Nothing here uses the program's own documents.
"""

from __future__ import annotations

import os
import random
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PLACES = (ROOT / "fixtures", Path(sys.prefix), Path("/usr/share"), Path("/usr/include"))
# The endings of each language; the first one names the documents of a campaign.
LANGUAGES: dict[str, tuple[str, ...]] = {
    "python": (".py", ".py.txt"),
    "javascript": (".js", ".mjs", ".js.txt"),
    "c": (".c", ".h", ".c.txt"),
    "cpp": (".cpp", ".hpp", ".cc"),
    "lua": (".lua",),
    "shellscript": (".sh",),
    "perl": (".pl", ".pm"),
    "php": (".php",),
    "sql": (".sql",),
    "css": (".css", ".scss"),
    "html": (".html", ".html.txt"),
    "makefile": (".mk", "Makefile"),
}
FILES_MAX = 40  # Of each language.
_FILE_BYTES_MAX = 100_000
_ENTRIES_MAX = 400_000

PIECES = [
    *("(", ")", "[", "]", "{", "}", '"', "'", "`", "\n", "\n", "\r\n", "\t", "    ", "x", "語"),
    *(
        "😀",
        "é",
        "${",
        "#",
        "//",
        "/*",
        "*/",
        '"""',
        "return x",
        ", ",
        ":",
        ";",
        "<",
        ">",
        "\u2028",
    ),
    *("<<EOF\n", "EOF\n", "%w(", "</p>", "$$", "[[", "]]", "\\", "--", "\u0301", "\r"),
]


@cache
def real_texts(language: str) -> tuple[str, ...]:
    """Texts of real files of a language; of the repository's fixtures if there are none."""
    found = tuple(text for path in _files()[language] if (text := _read(path)))
    return found or tuple(map(_read, sorted((ROOT / "fixtures/documents").iterdir())))


@cache
def _files() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {language: [] for language in LANGUAGES}
    num_seen = 0
    for place in PLACES:
        for folder, folders, names in os.walk(place):
            folders.sort()
            num_seen += len(names)
            for name in sorted(names):
                _note(found, Path(folder, name))
            if num_seen > _ENTRIES_MAX or all(len(one) >= FILES_MAX for one in found.values()):
                break
    return found


def _note(found: dict[str, list[Path]], path: Path) -> None:
    for language, endings in LANGUAGES.items():
        if path.name.endswith(endings) and len(found[language]) < FILES_MAX:
            # Three of one folder, so that one package does not give all of a language.
            if sum(other.parent == path.parent for other in found[language][-3:]) < 3:
                found[language].append(path)
            return


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX).decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""


def random_text(rng: random.Random, language: str, chars_max: int = 3000) -> str:
    """A part of a real file, cut anywhere, often with other line ends, tabs or wide characters."""
    text = rng.choice(real_texts(language))
    start = rng.randrange(len(text))
    text = text[start : start + rng.randrange(chars_max)]
    for old, new in (("\n", "\r\n"), ("    ", "\t"), ("e", "é"), ("a", "😀"), ("o", "語")):
        if rng.random() < 0.2:
            text = text.replace(old, new)
    return text.rstrip("\r\n") if rng.random() < 0.3 else text


def random_pieces(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(PIECES, k=count))


def place(text: str, offset: int, encoding: str = "utf-16") -> tuple[int, int]:
    """Line and character of an offset in an encoding's units, counted in the plainest way."""
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    line = before.rsplit("\n", 1)[-1]
    return before.count("\n"), units(line, encoding)


def units(line: str, encoding: str) -> int:
    """The length of a line in an encoding's units."""
    if encoding == "utf-32":
        return len(line)
    return len(line.encode("utf-8" if encoding == "utf-8" else "utf-16-le")) // (
        1 if encoding == "utf-8" else 2
    )


def offset_of(text: str, line: int, character: int, encoding: str = "utf-16") -> int | None:
    """The offset of a position, or None if there is no such place in the text."""
    at = 0
    for _ in range(line):
        ends = [end for mark in ("\n", "\r") if (end := text.find(mark, at)) >= 0]
        if not ends:
            return None
        at = min(ends)
        at += 2 if text.startswith("\r\n", at) else 1
    count = 0
    while count < character:
        if at >= len(text) or text[at] in "\r\n":
            return None
        count += units(text[at], encoding)
        at += 1
    return at if count == character else None


def outside_line_end(text: str, offset: int) -> int:
    """The offset, or the one before it inside \\r\\n, where no editor puts a cursor."""
    return offset - 1 if text[max(offset - 1, 0) : offset + 1] == "\r\n" else offset
