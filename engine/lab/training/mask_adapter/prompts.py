"""Infilling prompts of a few exact lengths, cut out of source files.

Prompts of one length form a dense array, so that a batch of them is written and trained on without
padding. Three kinds: a hole with text on both sides, a hole at the end of what is known (an empty
suffix), and plain code without sentinels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.lab.data.examples import LineIndex, place_cursor, place_end
from engine.prompt import Infill

LENGTHS = (160, 288, 448)
_LENGTH_SHARES = (0.25, 0.35, 0.4)
_KINDS = ("line", "lines", "block", "open", "plain")
_KIND_SHARES = (0.35, 0.15, 0.2, 0.18, 0.12)
_CHARS_PER_TOKEN = 6  # more than code has: what is left over is cut off in tokens
_BLOCK_LINES_MAX = 24
_SUFFIX_SHARE = (0.15, 0.5)

Tokens = NDArray[np.int32]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Hole:
    """Text before and after a hole; `after` is None for plain code without sentinels."""

    before: str
    after: str | None


def draw_hole(text: str, reach: int, rng: np.random.Generator) -> Hole:
    """A random hole of one file, with up to `reach` characters on either side."""
    lines = LineIndex(text)
    kind = _KINDS[rng.choice(len(_KINDS), p=_KIND_SHARES)]
    line = int(rng.integers(len(lines)))
    cursor_kind = "line_tail" if rng.random() < 0.6 else "line_start"
    start = place_cursor(lines, line, cursor_kind, rng)
    before = text[max(0, start - reach) : start]
    if kind == "plain":
        return Hole(before, None)
    if kind == "open":
        return Hole(before, "")
    if kind == "line":
        end = place_end(lines, start, "line", rng)
    elif kind == "lines":
        end = lines.end(min(line + int(rng.integers(1, 6)), len(lines) - 1))
    else:
        end = lines.end(_block_end(lines, line))
    return Hole(before, text[end : end + reach])


def build_prompts(
    texts: Iterable[str], encode: Encode, infill: Infill, rng: np.random.Generator, holes: int
) -> dict[int, Tokens]:
    """Prompts by their length, each (N, length) int32.

    Args:
        texts: whole files.
        encode: text to token ids, no special tokens read or added.
        holes: drawn per file.
    """
    found: dict[int, list[list[int]]] = {length: [] for length in LENGTHS}
    for text in texts:
        for _ in range(holes):
            length = LENGTHS[rng.choice(len(LENGTHS), p=_LENGTH_SHARES)]
            prompt = _fitted(
                draw_hole(text, length * _CHARS_PER_TOKEN, rng), length, encode, infill, rng
            )
            if prompt is not None:
                found[length].append(prompt)
    return {
        length: np.asarray(rows, dtype=np.int32).reshape(-1, length)
        for length, rows in found.items()
    }


def _fitted(
    hole: Hole, length: int, encode: Encode, infill: Infill, rng: np.random.Generator
) -> list[int] | None:
    """The hole's prompt with exactly `length` tokens, or None where the text is too short."""
    if hole.after is None:
        tokens = list(encode(hole.before))[-length:]
        return tokens if len(tokens) == length else None
    marks = len(infill.prompt((), (), ()))
    room = length - marks
    after = list(encode(hole.after))[: int(room * rng.uniform(*_SUFFIX_SHARE))]
    before = list(encode(hole.before))[len(after) - room :]
    prompt = list(infill.prompt((), before, after))
    return prompt if len(prompt) == length else None


def _block_end(lines: LineIndex, line: int) -> int:
    """The last line of the block that `line` opens or is part of."""
    depth = max(lines.indentation(line), 0)
    last = line
    for following in range(line + 1, min(line + _BLOCK_LINES_MAX, len(lines))):
        indentation = lines.indentation(following)
        if 0 <= indentation < depth or (indentation == depth and following > line + 1):
            break
        if indentation >= 0:
            last = following
    return last
