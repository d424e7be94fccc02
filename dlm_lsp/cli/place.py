"""A place in a file, given as FILE:LINE:COL on the command line.

Parses the place, reads the file and raises errors with remedies. Lines and columns count from 1,
and columns count characters, as in editors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlm_lsp.session.document import Document, Encoding, Position

FILE_BYTES_MAX = 64 << 20
# Language ids of editors for file endings that differ from the id.
_LANGUAGES = {
    "bash": "shellscript",
    "c": "c",
    "cc": "cpp",
    "cs": "csharp",
    "h": "c",
    "hpp": "cpp",
    "htm": "html",
    "js": "javascript",
    "jsx": "javascriptreact",
    "kt": "kotlin",
    "md": "markdown",
    "mjs": "javascript",
    "py": "python",
    "pyi": "python",
    "rb": "ruby",
    "rs": "rust",
    "sh": "shellscript",
    "tex": "latex",
    "ts": "typescript",
    "tsx": "typescriptreact",
    "txt": "plaintext",
    "yml": "yaml",
}


class PlaceError(Exception):
    """A place is invalid or does not exist; the message names the place and the remedy."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A valid place; `open_place` checks whether it exists.

    Attributes:
        path: the path as the user gave it.
        line, column: the numbers from 1; column 1 is before a line's first character.
    """

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


def to_place(argument: str) -> FilePlace:
    """Parses FILE:LINE:COL from the right, so that the file's name may contain colons.

    Raises:
        PlaceError: the argument has another form.
    """
    path, *numbers = argument.rsplit(":", 2)
    if not path or len(numbers) != 2 or not all(map(_is_number, numbers)):
        raise PlaceError(f"{argument!r} is not a place. Write FILE:LINE:COL, such as app.py:12:5.")
    line, column = map(int, numbers)
    if line < 1 or column < 1:
        raise PlaceError(f"{argument!r}: lines and columns count from 1.")
    return FilePlace(Path(path), line, column)


def open_place(place: FilePlace) -> tuple[Document, int]:
    """Returns the file as a document, and the place's offset in it.

    Raises:
        PlaceError: the file cannot be read as text, or the place does not exist.
    """
    path = place.path.absolute()
    document = Document(path.as_uri(), language_of(path), 0, _read(place.path))
    if place.line > document.line_count:
        raise PlaceError(
            f"{place}: {place.path} has {document.line_count} lines. Name one of them."
        )
    offset = document.offset_at(Position(place.line - 1, place.column - 1), Encoding.UTF32)
    column_max = document.position_at(offset, Encoding.UTF32).character + 1
    if place.column > column_max:
        raise PlaceError(
            f"{place}: line {place.line} ends before column {place.column}. "
            f"Use a column from 1 to {column_max}."
        )
    return document, offset


def language_of(path: Path) -> str:
    """Returns the language id that an editor would send for this file."""
    ending = path.suffix.lower().removeprefix(".")
    return _LANGUAGES.get(ending, ending or "plaintext")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise PlaceError(f"{path} is a folder. Name a file in it.")
        if path.exists() and not path.is_file():
            raise PlaceError(f"{path} is no ordinary file. Name one that is.")
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise PlaceError(
            f"{path} cannot be read: {error.strerror}. Check its name and your rights."
        ) from None
    if len(raw) > FILE_BYTES_MAX:
        raise PlaceError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB. Use a smaller file.")
    try:
        return raw.decode("utf-8-sig")  # Editors also hide a byte order mark.
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PlaceError(
            f"{path} is not UTF-8 text (line {line}). Convert it, or name a text file."
        ) from None
