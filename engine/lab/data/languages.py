"""Which languages a corpus holds: how their files are told apart, and how often each is trained on.

Owns the shares. Knows nothing of packages or licences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

PYTHON = "python"

# Of the examples drawn. A language that a corpus lacks gives its share to the others, in
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
    """The language of a file by its name's ending; None for one that is not trained on."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix)


def shares_of(languages: Sequence[str]) -> dict[str, float]:
    """The share of each language that is there; they sum to 1."""
    present = {language: SHARES[language] for language in languages}
    total = sum(present.values())
    return {language: share / total for language, share in present.items()}
