"""The keys that both engines are asked after: a simulated typist in files of Python's library.

A visit is one place of one file, and the keys that are typed there. All suggestions are typed
through and none is accepted, so that the keys depend on nobody's answers. Knows no engine.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from dlm_lsp.evaluation.typist import Manuscript, Splice, open_manuscript, press
from engine.errors import ConfigError

_FILES = (
    "argparse.py",
    "configparser.py",
    "csv.py",
    "fractions.py",
    "gzip.py",
    "mailbox.py",
    "shelve.py",
    "subprocess.py",
    "tarfile.py",
    "textwrap.py",
)


@dataclass(frozen=True, slots=True)
class Key:
    """What one key did: the edit, the whole text after it, and the cursor's offset in that."""

    splice: Splice
    text: str
    cursor: int


@dataclass(frozen=True, slots=True)
class Visit:
    """A place in a file where somebody begins to type.

    Attributes:
        name: the file's name, different for each opening of the file.
        text, cursor: the text before the first key, and the offset where it is typed.
        keys: the keys that change the text.
    """

    name: str
    text: str
    cursor: int
    keys: tuple[Key, ...]


def visits(keys_per_visit: int, seed: int = 0) -> Iterator[Visit]:
    """Yields visits without end: of each file its missing parts in turn.

    Raises: ConfigError if the sources of the standard library are missing.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    texts = {
        name: (folder / name).read_text("utf-8") for name in _FILES if (folder / name).is_file()
    }
    if not texts:
        raise ConfigError(
            "The sources of Python's standard library are missing.",
            remedy="Use a Python that has them.",
            param="keys",
        )
    for opening in count(seed):
        for number, (name, text) in enumerate(texts.items()):
            rng = np.random.default_rng([opening, number])
            manuscript = open_manuscript(text, rng)
            if manuscript is None:
                continue
            for part in range(len(manuscript.parts)):
                manuscript.at = part
                yield _visit(f"{opening}_{part}_{name}", manuscript, rng, keys_per_visit)


def _visit(name: str, manuscript: Manuscript, rng: np.random.Generator, limit: int) -> Visit:
    text, cursor, keys = manuscript.text, manuscript.cursor, list[Key]()
    while len(keys) < limit and not manuscript.part.is_complete:
        _, splice = press(manuscript, rng)
        if splice is not None:
            keys.append(Key(splice, manuscript.text, manuscript.cursor))
    return Visit(name, text, cursor, tuple(keys))
