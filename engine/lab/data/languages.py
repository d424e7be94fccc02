"""The languages of a corpus: the suffixes of their files, and their shares of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

PYTHON = "python"

# Shares of the examples. The share of a language that a corpus lacks goes to the others, in
# proportion.
SHARES: Mapping[str, float] = {
    PYTHON: 0.73,
    "javascript": 0.08,
    "typescript": 0.07,
    "c": 0.03,
    "cpp": 0.03,
    "lua": 0.01,
    "shell": 0.01,
    "markdown": 0.015,
    "json": 0.01,
    "yaml": 0.005,
    "toml": 0.005,
    "css": 0.005,
}

_BY_SUFFIX: Mapping[str, str] = {
    suffix: language
    for language, suffixes in {
        PYTHON: ".py",
        "javascript": ".js .mjs .cjs .jsx",
        "typescript": ".ts .tsx .mts .cts",
        "c": ".c .h",
        "cpp": ".cc .cpp .cxx .hh .hpp .cuh",
        "lua": ".lua",
        "shell": ".sh .bash",
        "markdown": ".md",
        "json": ".json",
        "yaml": ".yaml .yml",
        "toml": ".toml",
        "css": ".css",
    }.items()
    for suffix in suffixes.split()
}


def language_of(path: str) -> str | None:
    """The language of a file by its suffix; None if files with that suffix are not used."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix)


def shares_of(languages: Sequence[str]) -> dict[str, float]:
    """The shares of these languages, which sum to 1."""
    present = {language: SHARES[language] for language in languages}
    total = sum(present.values())
    return {language: share / total for language, share in present.items()}
