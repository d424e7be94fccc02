"""Indentation: its width, the document's unit of it, and what a language prescribes.

Works on lines without their ends. Knows no positions and no requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TAB_WIDTH = 4

_BLOCK_OPENERS = (":", "{", "(", "[", ",", "=", "\\")
_RULE = re.compile(r"[^\s#=][^=]*?:(?![=:]*=)")
_DIRECTIVE = re.compile(r"\s*(?:if|ifn?eq|ifn?def|else|endif)\b")


def indentation(line: str) -> str:
    """Returns the spaces and tabs at the start of a line."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width(whitespace: str) -> int:
    """Returns the number of columns of an indentation."""
    return len(whitespace.expandtabs(TAB_WIDTH))


def reindented(line: str, unit: str) -> str:
    """Returns the line with its indentation in the document's unit."""
    lead = indentation(line)
    if unit == "\t":
        tabs = "\t" if lead == "  " else lead.replace(" " * TAB_WIDTH, "\t")
        return tabs + line[len(lead) :]
    return lead.replace("\t", unit) + line[len(lead) :] if unit else line


def indent_unit(lines: list[str]) -> str:
    """Returns the unit of indentation, a tab or the fewest spaces; empty without indented lines."""
    leads = [lead for lead in map(indentation, lines) if lead]
    if not leads:
        return ""
    if leads[0][0] == "\t":
        return "\t"
    widths = [len(lead) for lead in leads if "\t" not in lead and len(lead) > 1]
    return " " * min(widths, default=TAB_WIDTH)


def drops_lead(line_before: str, lines_above: list[str], indent: str) -> bool:
    """Returns whether a completion's first spaces repeat those before the cursor."""
    if line_before.strip():
        return line_before[-1].isspace()
    if not line_before:
        return False
    above = lines_above[0].rstrip() if lines_above else ""
    expected = width(indentation(reindented(above, indent)))
    if above.endswith(_BLOCK_OPENERS):
        expected += width(indent)
    return width(line_before) >= expected


def is_recipe(above: Sequence[str], line: str) -> bool:
    """Returns whether a line of a makefile belongs to a recipe, which must begin with a tab.

    Args:
        above: the lines above, from top to bottom.
        line: the line as the model wrote it; it is indented if it belongs to anything.
    """
    if not line[:1].isspace() or not line.strip():
        return False
    last = next((one for one in reversed(above) if one.strip()), "")
    return last.startswith("\t") or (_RULE.match(last) is not None and not _DIRECTIVE.match(last))
