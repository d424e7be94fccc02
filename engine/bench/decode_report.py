"""The decoding benchmark's results as JSON, a table and a plot, with the conditions beside them.

Owns how figures are shown; knows nothing of how they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

_LEGEND = """\
Every mode fills each hole in turn, greedily, one request at a time; the prefill is left out. Tokens
per second count the tokens behind the first. `against ar` is the ratio of tokens per second, with
the middle 95 % over resampled holes. A cycle is a forward that emits: for the speculative modes its
tokens are the accepted drafts plus one. `same text` is the share of holes filled exactly as `ar`
fills them; speculation may part from it at near-ties in bf16, block diffusion decodes otherwise."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant under one condition, over all holes.

    Attributes:
        condition: CPU threads, and whether another process keeps one core busy.
        tokens_per_second: tokens behind the first over the seconds behind the prefill, all holes
            summed.
        against_ar, against_ar_range: that over the figure of "ar" in the same condition.
        tokens_per_forward: tokens behind the first over forwards behind the prefill.
        accepted_per_cycle: the same tokens over the forwards that emitted.
        forwards: mean over the holes.
        same_as_ar: share of holes with exactly the text of "ar".
    """

    condition: str
    variant: str
    holes: int
    tokens_per_second: float
    against_ar: float
    against_ar_range: tuple[float, float]
    tokens_per_forward: float
    accepted_per_cycle: float
    forwards: float
    same_as_ar: float


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a run and what they were measured on."""

    conditions: Mapping[str, str | int | None]
    rows: Sequence[Row]


def write(folder: Path, report: Report) -> None:
    """`decode.json`, `decode.md` and `decode.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"conditions": dict(report.conditions), "rows": [asdict(row) for row in report.rows]}
    (folder / "decode.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = ", ".join(f"{name} {value}" for name, value in report.conditions.items())
    lines = ["# Decoding modes, measured side by side", "", f"{facts}.", "", _LEGEND]
    lines += ["", "![tokens per second over that of ar](decode.svg)"]
    for condition in dict.fromkeys(row.condition for row in report.rows):
        chosen = [row for row in report.rows if row.condition == condition]
        lines += ["", f"## {condition}, {chosen[0].holes} holes", "", *to_table(chosen)]
    (folder / "decode.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot(folder / "decode.svg", report.rows)


def to_table(rows: Sequence[Row]) -> list[str]:
    """Markdown lines."""
    return [
        "| mode | tokens/s | against ar | tokens per forward | per cycle | forwards | same text |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.variant} | {row.tokens_per_second:.0f} | {row.against_ar:.2f} "
            f"({row.against_ar_range[0]:.2f}–{row.against_ar_range[1]:.2f}) "
            f"| {row.tokens_per_forward:.2f} | {row.accepted_per_cycle:.2f} "
            f"| {row.forwards:.1f} | {row.same_as_ar:.0%} |"
            for row in rows
        ),
    ]


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Speed against ar of every variant, one panel per condition, with the ranges."""
    conditions = list(dict.fromkeys(row.condition for row in rows))
    figure = Figure(figsize=(4 + 3.2 * len(conditions), 0.28 * len(rows) / len(conditions) + 1.6))
    panels = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for panel, condition in zip(panels, conditions, strict=True):
        chosen = [row for row in rows if row.condition == condition]
        values = [row.against_ar for row in chosen]
        errors = [
            [max(row.against_ar - row.against_ar_range[0], 0) for row in chosen],
            [max(row.against_ar_range[1] - row.against_ar, 0) for row in chosen],
        ]
        panel.barh([row.variant for row in chosen], values, xerr=errors, color="#6a8caf")
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set_title(condition, fontsize=9)
        panel.set_xlabel("tokens/s over that of ar")
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
