"""Completions without a model, which a model has to surpass.

`previous_line` repeats what stands above, `FrequentLines` writes the most frequent line. Both write
one line; if holes are whole lines, with the indentation of the line above and a line break.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from engine.lab.evaluation.suites import Task

PREVIOUS_LINE, FREQUENT_LINE = "previous line", "frequent line"
BASELINES = (PREVIOUS_LINE, FREQUENT_LINE)


def previous_line(task: Task) -> str:
    """What follows the cursor's words on the nearest line above that begins with them, or else the
    nearest line above."""
    *above, current = task.prefix.split("\n")
    start = current.lstrip()
    contents = [line.strip() for line in reversed(above) if line.strip()]
    for content in contents:
        if content.startswith(start) and content != start.rstrip():
            return _as_line(task, content[len(start) :])
    return _as_line(task, contents[0]) if contents else ""


class FrequentLines:
    """The lines of all files of the tasks by frequency, without indentation.

    A task's own file does not count for it, because it contains the text of the hole.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        counts = Counter(line for text in set(map(_file, tasks)) for line in _lines(text))
        self._by_count = counts.most_common()
        self._by_name = sorted(counts.items())

    def complete(self, task: Task) -> str:
        """The rest of the most frequent line that begins with the cursor's words, or ""."""
        start = task.prefix.rpartition("\n")[2].lstrip()
        own = Counter(_lines(_file(task)))
        best, most = "", 0
        for line, count in self._starting(start):
            if count <= most and not start:
                break  # they are sorted by count
            if count - own[line] > most and line != start.rstrip():
                best, most = line, count - own[line]
        return _as_line(task, best[len(start) :])

    def _starting(self, start: str) -> Iterator[tuple[str, int]]:
        """The lines with this start and their counts."""
        if not start:
            yield from self._by_count
            return
        for index in range(bisect_left(self._by_name, (start, 0)), len(self._by_name)):
            if not self._by_name[index][0].startswith(start):
                return
            yield self._by_name[index]


def _as_line(task: Task, content: str) -> str:
    """The content as the kind of hole needs it."""
    if not task.ends_line or not content:
        return content
    *above, current = task.prefix.split("\n")
    nearest = next((line for line in reversed(above) if line.strip()), "")
    margin = "" if current else nearest[: len(nearest) - len(nearest.lstrip())]
    return f"{margin}{content}\n"


def _file(task: Task) -> str:
    return task.prefix + task.reference + task.suffix


def _lines(text: str) -> list[str]:
    return [content for line in text.split("\n") if (content := line.strip())]
