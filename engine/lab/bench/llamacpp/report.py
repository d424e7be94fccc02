"""The benchmark beside llama.cpp as JSON and a table, one section for each processor and model.

This module owns how figures are judged, shown and stored: a run replaces its own section and keeps
those of other processors and models.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.lab.bench.conditions import to_sentence
from engine.lab.bench.sections import read_sections
from engine.lab.tables import to_table

FORMAT = 1
JSON_FILE, TABLE_FILE = "llamacpp.json", "llamacpp.md"
_HEADER = """\
# This engine beside llama.cpp

Both engines compute the same GGUF file with the same threads and the same token ids, each in its
own process. They run in turn (ours, theirs, ours, theirs), and only the measured one works. A cell
is the median over the rounds, with the best round in brackets; `ratio` is the median of the rounds'
ratios ours / theirs, so that other load affects both. llama.cpp is xllamacpp's server with its
defaults. A time per token is that of the forwards after the prompt, since for both the first token
comes with the prompt. `auto` is what a host set to "auto" does (copied drafts where they pay), on
holes in files of Python's standard library; llama.cpp decodes plainly, and both decode the same
number of tokens. Memory is that of the real host process after requests; pages of mapped files can
be given back. Start is the time from starting the process until /health says ready, with the graph
built and the files in the page cache. "Beside a busy core" is the share of the idle rate that
remains while another process keeps a core busy. There is one section for each processor and model;
`python -m engine.lab.bench.llamacpp` replaces its own."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The limit of a row.

    Attributes:
        judged: "ratio", that of ours to theirs, or "ours".
        is_least: whether the value is the least or the most that is allowed.
    """

    judged: str
    value: float
    is_least: bool

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return f"{sign} {self.value:g}{' ×' * (self.judged == 'ratio')}"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One figure of both engines by round.

    Attributes:
        unit: "tokens/s", "ms", "s", "MB", or "" for a share or a multiple.
        more_is_better: whether the best round is the one with the largest value.
    """

    threads: int
    name: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    more_is_better: bool = True
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios; None if either engine was not measured."""
        pairs = zip(self.ours, self.theirs, strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs > 0]
        return statistics.median(ratios) if ratios else None

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None without a bar or without a measured value."""
        if self.bar is None:
            return None
        if self.bar.judged == "ratio":
            value = self.ratio
        else:
            value = statistics.median(self.ours) if self.ours else None
        if value is None:
            return None
        return value >= self.bar.value if self.bar.is_least else value <= self.bar.value


@dataclass(frozen=True, slots=True)
class MachineSection:
    """One run.

    Attributes:
        processor: the name by `engine.device.cpu_name`; with `model` the key of the section.
        conditions: by name, in the order of the report.
        steps: milliseconds of this engine's steps by rows, for each number of threads.
        products: what `engine.model.onnx.probe` found, for each number of threads.
    """

    processor: str
    model: str
    conditions: Mapping[str, str | int | float | None]
    rows: Sequence[ComparedRow]
    steps: Mapping[str, Mapping[str, Sequence[float]]]
    products: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def key(self) -> tuple[str, str]:
        return self.processor, self.model


def write(folder: Path, section: MachineSection) -> None:
    """Writes the section and those that the folder has into both files.

    Raises:
        ConfigError: The existing file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = merged(read(folder / JSON_FILE), section)
    content = {"format": FORMAT, "sections": [asdict(each) for each in sections]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    (folder / TABLE_FILE).write_text(to_text(sections), encoding="utf-8")


def read(file: Path) -> list[MachineSection]:
    """The sections of a file; none if there is no file.

    Raises:
        ConfigError: The file cannot be read, or has another format.
    """
    return read_sections(file, FORMAT, _section)


def merged(sections: Sequence[MachineSection], new: MachineSection) -> list[MachineSection]:
    """The sections with the new one in place of its predecessor, in the order of their keys."""
    others = [section for section in sections if section.key != new.key]
    return sorted((*others, new), key=lambda section: section.key)


def to_text(sections: Sequence[MachineSection]) -> str:
    """The whole report as Markdown."""
    lines = [_HEADER]
    for section in sections:
        lines += ["", f"## {section.model} on {section.processor}", ""]
        lines.append(to_sentence(section.conditions))
        for threads in dict.fromkeys(row.threads for row in section.rows):
            chosen = [row for row in section.rows if row.threads == threads]
            lines += ["", f"### {threads} thread{'s' * (threads > 1)}", "", *rows_table(chosen)]
        lines += ["", *_steps(section.steps), "", *_products(section.products)]
    return "\n".join(lines) + "\n"


def rows_table(rows: Sequence[ComparedRow]) -> list[str]:
    """The rows as a Markdown table."""
    cells = []
    for row in rows:
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = {None: "", True: "met", False: "**not met**"}[row.is_met]
        name = f"{row.name}, {row.unit}" if row.unit else row.name
        ours, theirs = (_cell(values, row) for values in (row.ours, row.theirs))
        cells.append((name, ours, theirs, ratio, row.bar or "", verdict))
    return to_table(("", "ours", "llama.cpp", "ratio", "bar", ""), cells)


def _cell(values: Sequence[float], row: ComparedRow) -> str:
    if not values:
        return "–"
    best = max(values) if row.more_is_better else min(values)
    median = _number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({_number(best)})"


def _number(value: float) -> str:
    """The value with three digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _steps(steps: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    if not steps:
        return []
    # The curve of a slow machine ends earlier.
    counts = max((curve["rows"] for curve in steps.values()), key=len)
    rows = []
    for threads, curve in steps.items():
        cells = [f"{time:.1f}" for time in curve["milliseconds"]]
        rows.append((threads, *cells, *("–" for _ in counts[len(cells) :])))
    title = "Milliseconds of our steps by rows, with every row read (the least of several):"
    return [title, "", *to_table(("threads", *(f"{count:g}" for count in counts)), rows)]


def _products(products: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the probe found; the graph is built with the first exact product."""
    lines: list[str] = []
    for threads, found in products.items():
        tried = [
            f"{one['product']} {' / '.join(f'{time:.1f}' for time in one['milliseconds'])} ms"
            + (" (inexact)" if not one["is_exact"] else "")
            for one in found
        ]
        chosen = next(one["product"] for one in found if one["is_exact"])
        lines.append(
            f"Probe, {threads} thread{'s' * (threads != '1')}: {chosen} chosen; "
            f"at 1 / 8 / 64 rows {', '.join(tried)}."
        )
    return [line for one in lines for line in (one, "")][:-1]


def _section(entry: Mapping[str, Any]) -> MachineSection:
    rows = []
    for row in entry["rows"]:
        bar = None if row["bar"] is None else Bar(**row["bar"])
        by_round = {"ours": tuple(row["ours"]), "theirs": tuple(row["theirs"])}
        rows.append(ComparedRow(**{**row, **by_round, "bar": bar}))
    return MachineSection(**{**entry, "rows": rows})
