"""The figures of a baseline as tables and a plot.

`python -m engine.lab.bench.baseline_report benchmarks` reads `baseline.json` there and writes
`baseline.md` and `baseline.svg` beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from engine.lab.bench.conditions import to_sentence
from engine.lab.tables import to_table

_LEGEND = """\
A step is a causal chain of rows after cached tokens, with all logits read, computed by the engine's
own runner and cache. `of reading` is the time of reading the weights once at the measured copy
bandwidth, divided by the time of the step: a step of 100 % does nothing else. A cycle is a forward
that emits, or two for linear speculation. Random weights reject nearly every draft, so that cycles
per second show costs and not speed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes both files; returns 0, or 1 if there are no figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    try:
        content = json.loads((folder / "baseline.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"engine.lab.bench.baseline_report: {error}", file=sys.stderr)
        return 1
    (folder / "baseline.md").write_text("\n".join(to_markdown(content)) + "\n", encoding="utf-8")
    plot(folder / "baseline.svg", content)
    return 0


def to_markdown(content: dict[str, Any]) -> list[str]:
    """The lines of `baseline.md`, without the parts that a run did not reach."""
    lines = ["# The baseline", "", to_sentence(content["conditions"]), "", _LEGEND]
    if "rates" in content:
        rates = content["rates"]
        lines += [
            "",
            f"Copy bandwidth {rates['copy'] / 1e9:,.0f} GB/s (read plus written), matrix rate "
            f"{rates['matrix'] / 1e12:,.1f} TFLOP/s in {rates['dtype']}.",
        ]
    for size in sizes(content):
        lines += ["", f"## {size}", "", *_steps(content[f"steps {size}"])]
        lines += ["", *_peers(content, size)]
        lines += ["", *_cycles(content.get(f"cycles {size}", []))]
        lines += ["", *_kernels(content.get(f"profile {size}", []))]
    return [*lines, *_bundled(content.get("bundled", []))]


def sizes(content: dict[str, Any]) -> list[str]:
    """The shapes whose steps were measured, in order."""
    return [name.removeprefix("steps ") for name in content if name.startswith("steps ")]


def plot(path: Path, content: dict[str, Any]) -> None:
    """Plots milliseconds per step over rows: a line for each context, a panel for each shape."""
    names = sizes(content)
    figure = Figure(figsize=(2 + 3.6 * max(1, len(names)), 3.6))
    panels = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=False):
        steps = content[f"steps {name}"]
        for context in dict.fromkeys(step["context"] for step in steps):
            chosen = [step for step in steps if step["context"] == context]
            rows = [step["rows"] for step in chosen]
            times = [step["milliseconds"] for step in chosen]
            panel.plot(rows, times, marker="o", markersize=3, label=f"{context} cached")
        floor = steps[0]["milliseconds"] * steps[0]["weights_share"]
        panel.axhline(floor, color="black", linewidth=0.8, linestyle=":", label="reading weights")
        panel.set_title(name)
        panel.set_xlabel("rows")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("ms per step")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _steps(steps: list[dict[str, Any]]) -> list[str]:
    contexts = dict.fromkeys(step["context"] for step in steps)
    names = ["rows", *(f"{context} cached: ms (of reading)" for context in contexts)]
    cells: dict[int, list[str]] = {}
    for step in steps:
        cell = f"{step['milliseconds']:.2f} ({step['weights_share']:.0%})"
        cells.setdefault(step["rows"], []).append(cell)
    return to_table(names, [(rows, *found) for rows, found in cells.items()])


def _peers(content: dict[str, Any], size: str) -> list[str]:
    said = []
    for rows in (1, 32):
        if f"compiled {size} {rows} rows" in content:
            value = content[f"compiled {size} {rows} rows"]
            said.append(f"torch.compile, {rows} row{'s' * (rows > 1)}: {value:.2f} ms")
    if f"transformers {size}" in content:
        value = content[f"transformers {size}"]["ms_per_token"]
        said.append(f"transformers, static cache: {value:.2f} ms per token")
    if f"memory {size}" in content:
        said.append(f"most memory allocated: {content[f'memory {size}'] / 2**30:.1f} GiB")
    return ["; ".join(said) + "."] if said else []


def _cycles(cycles: list[dict[str, Any]]) -> list[str]:
    rows = [
        (one["mode"], f"{one['cycles_per_second']:.1f}", f"{one['forwards_per_second']:.1f}")
        for one in cycles
    ]
    return to_table(("mode", "cycles/s", "forwards/s"), rows) if rows else []


def _kernels(kernels: list[dict[str, Any]]) -> list[str]:
    rows = [(f"`{one['name']}`", f"{one['milliseconds']:.3f}", one["calls"]) for one in kernels]
    return to_table(("kernel, 32 rows", "ms", "calls"), rows) if rows else []


def _bundled(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        (
            row["variant"],
            f"{row['tokens_per_second']:.0f}",
            f"{row['against_ar']:.2f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['same_as_ar']:.0%}",
        )
        for row in rows
    ]
    names = ("mode", "tokens/s", "against ar", "tokens per forward", "same text")
    title = ["", "## The bundled model on held-out holes", ""]
    return [*title, *to_table(names, cells)] if cells else []


if __name__ == "__main__":
    sys.exit(main())
