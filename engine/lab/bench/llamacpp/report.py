"""The benchmark beside llama.cpp as JSON and a table, one section for each processor and model.

Owns how figures are judged, shown and kept: a run replaces its own section and leaves those of
other processors and models alone. Knows nothing of how they were measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError

FORMAT = 1
JSON_FILE, TABLE_FILE = "llamacpp.json", "llamacpp.md"
_HEADER = """\
# This engine beside llama.cpp

Both compute the same GGUF file with the same threads and the same token ids, in processes of their
own, in turn (ours, theirs, ours, theirs), and only the one that is measured works. Each cell is the
median over the rounds and, in brackets, the best round; `ratio` is the median of each round's ratio
ours / theirs, so that what else the machine did falls on both. llama.cpp is xllamacpp's server with
its defaults. A time per token is that of the forwards behind the prompt: the first token comes with
the prompt, for both. `auto` is what a host set to "auto" does (copied drafts where they pay), on
holes in files of Python's standard library; llama.cpp decodes plainly, and both decode the same
number of tokens. Memory is that of the real host process after requests, of which pages of mapped
files ("file") can be given back; start is from starting the process until /health says ready, the
graph built and the files in the page cache. "Beside a busy core" is the share of the idle rate that
is left while another process computes without end. One section for each processor and model; made
by `python -m engine.lab.bench.llamacpp`, which replaces its own."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row is held against.

    Attributes:
        judged: "ratio", of ours to theirs, or "ours".
        is_least: the value may be no less; else no more.
    """

    judged: str
    value: float
    is_least: bool

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return f"{sign} {self.value:g}{' ×' * (self.judged == 'ratio')}"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One figure of both engines, by round.

    Attributes:
        unit: "tokens/s", "ms", "s", "MB", or "" for a share or a multiple.
        more_is_better: whether the best round is the largest one.
    """

    threads: int
    name: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    more_is_better: bool
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios; None where either was not measured."""
        pairs = zip(self.ours, self.theirs, strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs > 0]
        return statistics.median(ratios) if ratios else None

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is; None without one, or where what it judges was not measured."""
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
        processor: as `engine.device.cpu_name` has it; with `model` the section's key.
        conditions: by name, in the order they are shown in.
        steps: milliseconds of this engine's steps by rows, for each number of threads.
        products: what `engine.model.onnx.probe` found, likewise.
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
    """Puts the section in its place among those that are there, in both files.

    Raises:
        ConfigError: the file that is there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = merged(read(folder / JSON_FILE), section)
    content = {"format": FORMAT, "sections": [asdict(each) for each in sections]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    (folder / TABLE_FILE).write_text(to_text(sections), encoding="utf-8")


def read(file: Path) -> list[MachineSection]:
    """The sections of a file; none where there is no file.

    Raises:
        ConfigError: it cannot be read, or is of another format.
    """
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError("another format")
        return [_section(entry) for entry in content["sections"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}.",
            remedy="Delete it, or give another --out.",
            param="out",
        ) from None


def merged(sections: Sequence[MachineSection], new: MachineSection) -> list[MachineSection]:
    """The sections with the new one instead of its predecessor, in the order of their keys."""
    others = [section for section in sections if section.key != new.key]
    return sorted((*others, new), key=lambda section: section.key)


def to_text(sections: Sequence[MachineSection]) -> str:
    """The whole report as Markdown."""
    lines = [_HEADER]
    for section in sections:
        lines += ["", f"## {section.model} on {section.processor}", ""]
        lines += [", ".join(f"{name} {value}" for name, value in section.conditions.items()) + "."]
        for threads in dict.fromkeys(row.threads for row in section.rows):
            chosen = [row for row in section.rows if row.threads == threads]
            lines += ["", f"### {threads} thread{'s' * (threads > 1)}", "", *to_table(chosen)]
        lines += ["", *_steps(section.steps), "", *_products(section.products)]
    return "\n".join(lines) + "\n"


def to_table(rows: Sequence[ComparedRow]) -> list[str]:
    """Markdown lines."""
    lines = ["| | ours | llama.cpp | ratio | bar | |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = {None: "", True: "met", False: "**not met**"}[row.is_met]
        name = f"{row.name}, {row.unit}" if row.unit else row.name
        ours, theirs = (_cell(values, row) for values in (row.ours, row.theirs))
        lines.append(f"| {name} | {ours} | {theirs} | {ratio} | {row.bar or ''} | {verdict} |")
    return lines


def _cell(values: Sequence[float], row: ComparedRow) -> str:
    if not values:
        return "–"
    best = max(values) if row.more_is_better else min(values)
    median = _number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({_number(best)})"


def _number(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _steps(steps: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    if not steps:
        return []
    # A slow machine's curve ends earlier.
    counts = max((curve["rows"] for curve in steps.values()), key=len)
    lines = [
        "Milliseconds of our steps by rows, every row read (the least of several):",
        "",
        "| threads | " + " | ".join(f"{count:g}" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for threads, curve in steps.items():
        cells = [f"{time:.1f}" for time in curve["milliseconds"]]
        cells += ["–"] * (len(counts) - len(cells))
        lines.append(f"| {threads} | " + " | ".join(cells) + " |")
    return lines


def _products(products: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the probe found; the first exact one is what the graph is built with."""
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
    rows = [
        ComparedRow(
            threads=row["threads"],
            name=row["name"],
            unit=row["unit"],
            ours=tuple(row["ours"]),
            theirs=tuple(row["theirs"]),
            more_is_better=row["more_is_better"],
            bar=None if row["bar"] is None else Bar(**row["bar"]),
        )
        for row in entry["rows"]
    ]
    return MachineSection(
        processor=entry["processor"],
        model=entry["model"],
        conditions=entry["conditions"],
        rows=rows,
        steps=entry["steps"],
        products=entry["products"],
    )
