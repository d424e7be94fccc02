"""Markdown tables of the lab's reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def to_table(names: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; `names` are its columns."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *rows)]
    return [lines[0], "|---" * len(names) + "|", *lines[1:]]
