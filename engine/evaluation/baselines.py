"""Completions that need no model: what a figure has to be beaten by to mean something.

`previous_line` repeats what stands above; `frequent_line` writes the most frequent line. Both know
where the reference ends only in that they write one line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from engine.evaluation.suites import Task

PREVIOUS_LINE, FREQUENT_LINE = "previous line", "frequent line"
BASELINES = (PREVIOUS_LINE, FREQUENT_LINE)


def previous_line(task: Task) -> str:
    """What follows the cursor's words on the nearest line above that begins with them; where none
    does, the nearest line above."""
    *above, current = task.prefix.split("\n")
    start = current.lstrip()
    contents = [line.strip() for line in reversed(above) if line.strip()]
    for content in contents:
        if content.startswith(start) and content != start.rstrip():
            return content[len(start) :]
    return contents[0] if contents else ""


class FrequentLines:
    """The lines of a set of texts, by frequency; indentation aside."""

    def __init__(self, texts: Iterable[str]) -> None:
        counts = Counter(line.strip() for text in texts for line in text.split("\n"))
        del counts[""]
        self._counts = counts
        self._sorted = sorted(counts)
        self._first = counts.most_common(1)[0][0] if counts else ""

    def complete(self, task: Task) -> str:
        """The rest of the most frequent line that begins with the cursor's words; "" of none."""
        start = task.prefix.rpartition("\n")[2].lstrip()
        if not start:
            return self._first
        best, most = "", 0
        for index in range(bisect_left(self._sorted, start), len(self._sorted)):
            line = self._sorted[index]
            if not line.startswith(start):
                break
            if line != start.rstrip() and self._counts[line] > most:
                best, most = line, self._counts[line]
        return best[len(start) :]


def frequent_lines(tasks: Iterable[Task]) -> FrequentLines:
    """The lines around the holes of these tasks; what stands in a hole is not among them."""
    return FrequentLines({text for task in tasks for text in (task.prefix, task.suffix)})
