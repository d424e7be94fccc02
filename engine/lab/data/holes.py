"""Holes in source files: text that a user would have typed, cut out at its place.

This module owns the kinds of holes and how they are drawn with a fixed seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError
from engine.lab.data.corpus import Source
from engine.lab.data.examples import LineIndex, Pieces

SEED = 7
BLOCK_LINES_MAX = 20
MIDDLE_CHARS_MAX = 700  # as in training; about 220 tokens of Python

_LINES_BELOW = 2
_PREFIX_LINES_MIN = 5
_CONTENT_CHARS_MIN = 8
_TRIES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Hole:
    """A hole with its surrounding text; `source` is its "package/path:line"."""

    kind: str
    pieces: Pieces
    source: str = ""


# The offsets [start, end) of a hole on a line; None if the line has no such hole.
Cut = Callable[[LineIndex, int, np.random.Generator], tuple[int, int] | None]


def whole_line(lines: LineIndex, line: int, rng: np.random.Generator) -> tuple[int, int]:
    """From the end of the indentation to the line's end."""
    del rng
    return lines.start(line) + lines.indentation(line), lines.end(line)


def line_tail(lines: LineIndex, line: int, rng: np.random.Generator) -> tuple[int, int]:
    """From the end of a random word or sign to the line's end."""
    first, end = lines.start(line) + lines.indentation(line), lines.end(line)
    places = [match.end() for match in re.finditer(r"\w+|[^\w\s]", lines.text[first : end - 1])]
    return first + places[rng.integers(len(places))], end


def mid_word(lines: LineIndex, line: int, rng: np.random.Generator) -> tuple[int, int]:
    """From inside a random word of at least two characters to the line's end."""
    start, end = lines.start(line), lines.end(line)
    words = [match.span() for match in re.finditer(r"\w{2,}", lines.text[start:end])]
    low, high = words[rng.integers(len(words))]
    return start + int(rng.integers(low + 1, high)), end


def several_lines(most: int) -> Cut:
    """A cut from the end of the indentation to the end of one of the next lines, at most `most`."""

    def cut(lines: LineIndex, line: int, rng: np.random.Generator) -> tuple[int, int] | None:
        last = min(line + int(rng.integers(1, most)), len(lines) - 1)
        while lines.indentation(last) < 0:
            last -= 1
        return _bounded(lines.start(line) + lines.indentation(line), lines.end(last))

    return cut


def block(lines: LineIndex, line: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """All of at least two lines around this one that are indented at least as far."""
    del rng
    depth = lines.indentation(line)
    first = last = line
    while first > 0 and not 0 <= lines.indentation(first - 1) < depth:
        first -= 1
    while last + 1 < len(lines) and not 0 <= lines.indentation(last + 1) < depth:
        last += 1
    while lines.indentation(first) < 0:
        first += 1
    while lines.indentation(last) < 0:
        last -= 1
    if depth == 0 or not 1 <= last - first < BLOCK_LINES_MAX:
        return None
    return _bounded(lines.start(first) + lines.indentation(first), lines.end(last))


KINDS: Mapping[str, Cut] = {
    "whole_line": whole_line,
    "line_tail": line_tail,
    "mid_word": mid_word,
    "multi_line": several_lines(10),
    "block": block,
}


def draw_holes(
    sources: Sequence[Source], per_kind: int, seed: int = SEED, kinds: Mapping[str, Cut] = KINDS
) -> list[Hole]:
    """`per_kind` holes of each kind, spread evenly over the packages that have such holes.

    Raises:
        ConfigError: No package has holes of some kind.
    """
    packages: dict[str, list[Source]] = {}
    for source in sources:
        packages.setdefault(source.package, []).append(source)
    holes: list[Hole] = []
    for kind, cut in kinds.items():
        rng = np.random.default_rng([seed, len(holes)])
        groups = [packages[name] for name in sorted(packages)]
        count = 0
        while count < per_kind:
            if not groups:
                raise ConfigError(
                    f"The held-out files have no holes of the kind {kind}.",
                    remedy="Give a larger corpus.",
                    param="corpus",
                )
            index = count % len(groups)
            hole = _draw(groups[index], kind, cut, rng)
            if hole is None:
                del groups[index]
            else:
                holes.append(hole)
                count += 1
    return holes


def kinds_in_turn(holes: Sequence[Hole], per_kind: int) -> list[Hole]:
    """The holes that `draw_holes` returned, one of each kind after the other."""
    kinds = len(holes) // per_kind
    return [holes[kind * per_kind + index] for index in range(per_kind) for kind in range(kinds)]


def _draw(sources: Sequence[Source], kind: str, cut: Cut, rng: np.random.Generator) -> Hole | None:
    """A hole on a random line with content and some lines above it, in a random file; None if many
    tries found none."""
    sizes = np.cumsum([len(source.text) for source in sources])
    for _ in range(_TRIES_MAX):
        place = rng.integers(sizes[-1])
        source = sources[int(np.searchsorted(sizes, place, side="right"))]
        lines = LineIndex(source.text)
        line = int(rng.integers(len(lines)))
        content = lines.text[lines.start(line) : lines.end(line)].strip()
        if line < _PREFIX_LINES_MIN or len(content) < _CONTENT_CHARS_MIN:
            continue
        if not re.search(r"\w{2,}", content):
            continue
        span = cut(lines, line, rng)
        if span is not None:
            return Hole(kind, _pieces(lines, *span), f"{source.package}/{source.path}:{line + 1}")
    return None


def _pieces(lines: LineIndex, start: int, end: int) -> Pieces:
    far = lines.start(lines.line_of(end) + _LINES_BELOW)
    text = lines.text
    return Pieces(far=text[far:], prefix=text[:start], near=text[end:far], middle=text[start:end])


def _bounded(start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if end - start <= MIDDLE_CHARS_MAX else None
