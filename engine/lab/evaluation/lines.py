"""Lines of a solution as holes, which turn whole programs into an infilling suite.

The single-line and multi-line suites of HumanEval-Infilling (Bavarian et al., arXiv 2207.14255) are
made of HumanEval in this way: 1,033 and 5,815 holes of its 164 problems, with the same names. One
difference: if a hole begins with line L0, the prompt of the published files ends with one more line
break. Here the three pieces always join to the program. Whole bodies, which are written after a
signature and a docstring with nothing after them, are the suite of long completions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Infilling = Literal["single-line", "multi-line", "body"]
INFILLINGS: tuple[Infilling, ...] = get_args(Infilling)
# The first part of the names of tasks, as in the published files.
KINDS: dict[Infilling, str] = {
    "single-line": "SingleLineInfilling",
    "multi-line": "MultiLineInfilling",
    "body": "FunctionBody",
}

_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True)
class LineHole:
    """Whole lines of a solution, with the line break of the last one.

    Attributes:
        name: "L3" is the line with index 3, "L3_L5" the lines 3 to 5; blank lines count.
        before, hole, after: the three pieces of the solution.
    """

    name: str
    before: str
    hole: str
    after: str


def cut_lines(solution: str, infilling: Infilling) -> list[LineHole]:
    """Every line that is not blank as a hole, or every run of lines between two such lines, in the
    solution's order; or all lines between the first and the last such line as one."""
    lines = _LINE.findall(solution)
    chosen = [index for index, line in enumerate(lines) if line.strip()]
    if infilling == "single-line":
        return [_hole(lines, index, index, f"L{index}") for index in chosen]
    if infilling == "body":
        return [
            _hole(lines, first, last, f"L{first}_L{last}")
            for first, last in zip(chosen[:1], chosen[-1:], strict=True)
        ]
    return [
        _hole(lines, first, last, f"L{first}_L{last}")
        for first in chosen
        for last in chosen
        if first <= last
    ]


def _hole(lines: list[str], first: int, last: int, name: str) -> LineHole:
    pieces = lines[:first], lines[first : last + 1], lines[last + 1 :]
    before, hole, after = ("".join(piece) for piece in pieces)
    return LineHole(name, before, hole, after)
