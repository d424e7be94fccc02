"""The prompts and holes that both engines get, from Python's standard library, as token ids.

They are the same for every run with the same Python, tokenizer and plan.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, EngineFailure
from engine.lab.data.corpus import Source
from engine.lab.data.holes import (
    block,
    draw_holes,
    kinds_in_turn,
    line_tail,
    several_lines,
    whole_line,
)
from engine.model.tokenizer import Tokenizer

_FILES = (
    "argparse.py",
    "configparser.py",
    "csv.py",
    "dataclasses.py",
    "fractions.py",
    "gzip.py",
    "mailbox.py",
    "shelve.py",
    "subprocess.py",
    "tarfile.py",
    "textwrap.py",
    "zipfile/__init__.py",
)
_KINDS = {
    "whole_line": whole_line,
    "line_tail": line_tail,
    "multi_line": several_lines(4),
    "block": block,
}
_PREFIX_TOKENS, _SUFFIX_TOKENS = 192, 64
_CHARS_PER_TOKEN = 6  # more than code has, so that a slice of text has enough tokens


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts as token ids of one tokenizer."""

    sources: tuple[Source, ...]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Prompts:
        """Raises ConfigError if the sources of the standard library are missing."""
        folder = Path(sysconfig.get_path("stdlib"))
        sources = tuple(
            Source(name, name, (folder / name).read_text("utf-8"))
            for name in _FILES
            if (folder / name).is_file()
        )
        if len(sources) < 3:
            raise ConfigError(
                "The sources of Python's standard library are missing.",
                remedy="Use a Python that has them.",
                param="prompts",
            )
        return cls(sources, tokenizer)

    def code(self, tokens: int) -> Iterator[list[int]]:
        """Pieces of code of so many tokens. Hundreds of them begin differently, so that none finds
        a part of an earlier one in a cache."""
        length = tokens * _CHARS_PER_TOKEN
        for number in range(10_000):
            text = self.sources[number % len(self.sources)].text
            room = max(len(text) - length, 1)
            start = text.find("\n", (number * 4_919) % room) + 1
            ids = self.tokenizer.encode(text[start : start + length])
            if len(ids) >= tokens:
                yield ids[:tokens]

    def holes(self, count: int) -> list[tuple[list[int], int]]:
        """Infilling prompts of different kinds of holes, and how many tokens stood in each hole,
        its end included; tokens after that are not measured.

        Raises:
            EngineFailure: The tokenizer has no infilling markers.
        """
        infill = self.tokenizer.infill
        if infill is None:
            raise EngineFailure("The checkpoint's tokenizer has no infilling markers.")
        per_kind = -(-count // len(_KINDS))
        mixed = kinds_in_turn(draw_holes(self.sources, per_kind, kinds=_KINDS), per_kind)
        prompts: list[tuple[list[int], int]] = []
        for hole in mixed[:count]:
            pieces = hole.pieces
            prefix = self.tokenizer.encode(pieces.prefix)[-_PREFIX_TOKENS:]
            near = self.tokenizer.encode(pieces.near)
            far = self.tokenizer.encode(pieces.far)[: max(_SUFFIX_TOKENS - len(near), 0)]
            tokens = len(self.tokenizer.encode(pieces.middle)) + 1
            prompts.append((list(infill.prompt(far, prefix, near)), tokens))
        return prompts
