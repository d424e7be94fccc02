"""The decoding benchmark's results as JSON, a table and plots, with the conditions beside them.

Owns how figures are shown; knows nothing of how they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from engine.auto.step_times import StepTimes
from engine.lab.bench.decode_rows import VariantRow
from engine.lab.bench.parity import Parity

_LEGEND = """\
Every mode fills each hole in turn, greedily, one request at a time; the prefill is left out. Tokens
per second count what the forwards behind the prompt decided. `against ar` is the ratio of tokens
per second, with the middle 95 % over resampled holes. A cycle is a forward that emits: for the
speculative modes its tokens are the accepted drafts plus one. `same text` is the share of holes
filled exactly as `ar` fills them; speculation may part from it at near-ties in bf16, block
diffusion decodes otherwise. `exact` is the share filled as the file had it."""


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """All of a run and what it was measured on. `curves` are step times by condition."""

    conditions: Mapping[str, str | int | None]
    rows: Sequence[VariantRow]
    curves: Mapping[str, StepTimes]
    parity: Sequence[Parity]


def write(folder: Path, report: DecodeReport) -> None:
    """`decode.json`, `decode.md`, `decode.svg` and `steps.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "conditions": dict(report.conditions),
        "rows": [asdict(row) for row in report.rows],
        "step_times": {label: asdict(curve) for label, curve in report.curves.items()},
        "parity": [asdict(parity) for parity in report.parity],
    }
    (folder / "decode.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = ", ".join(f"{name} {value}" for name, value in report.conditions.items())
    lines = ["# Decoding modes, measured side by side", "", f"{facts}.", "", _LEGEND]
    lines += ["", "![tokens per second over that of ar](decode.svg)"]
    for condition in dict.fromkeys(row.condition for row in report.rows):
        chosen = [row for row in report.rows if row.condition == condition]
        lines += ["", f"## {condition}, {chosen[0].holes} holes", "", *to_table(chosen)]
        lines += ["", *_auto(chosen)]
    lines += ["", *_parity(report.parity), "", *_curves(report.curves)]
    (folder / "decode.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot_speeds(folder / "decode.svg", report.rows)
    plot_curves(folder / "steps.svg", report.curves)


def to_table(rows: Sequence[VariantRow]) -> list[str]:
    """Markdown lines."""
    return [
        "| mode | tokens/s | against ar | tokens per forward | per cycle | rows per forward "
        "| forwards | same text | exact |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.variant} | {row.tokens_per_second:.0f} | {row.against_ar:.2f} "
            f"({row.against_ar_range[0]:.2f}–{row.against_ar_range[1]:.2f}) "
            f"| {row.tokens_per_forward:.2f} | {row.accepted_per_cycle:.2f} "
            f"| {row.rows_per_forward:.1f} | {row.forwards:.1f} | {row.same_as_ar:.0%} "
            f"| {row.exact:.0%} |"
            for row in rows
        ),
    ]


def plot_speeds(path: Path, rows: Sequence[VariantRow]) -> None:
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


def plot_curves(path: Path, curves: Mapping[str, StepTimes]) -> None:
    """Milliseconds per step over its rows, a line per condition."""
    figure = Figure(figsize=(5, 3.4))
    panel = figure.subplots()
    for label, curve in curves.items():
        panel.plot(curve.rows, curve.milliseconds, marker="o", markersize=3, label=label)
    panel.set_xlabel("rows")
    panel.set_ylabel("ms per step")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _auto(rows: Sequence[VariantRow]) -> list[str]:
    """What "auto" took."""
    took = {row.variant: row.modes for row in rows}.get("auto", {})
    said = ", ".join(f"{mode} on {count}" for mode, count in took.items())
    return [f"`auto` took {said} holes."] if said else []


def _parity(parity: Sequence[Parity]) -> list[str]:
    """How often fast speculation left ar's tokens, and at which gaps."""
    if not parity:
        return []
    noise = max(one.noise for one in parity)
    lines = [
        "## Fast mode beside ar, token for token",
        "",
        f"Without a stop token, {parity[0].requests} prompts of up to 64 tokens. One-row and "
        f"32-row logits of the same tokens differ by up to {noise:.3f}; a first difference at a "
        "gap of at most twice that is a near-tie.",
        "",
        "| mode | prompts that differ | share | largest gap | all near-ties |",
        "|---|---|---|---|---|",
    ]
    for one in parity:
        gap = max((difference.gap for difference in one.differences), default=0.0)
        verdict = "yes" if one.is_rounding else "no"
        lines.append(
            f"| {one.mode} | {len(one.differences)} | {one.share:.1%} | {gap:.3f} | {verdict} |"
        )
    return lines


def _curves(curves: Mapping[str, StepTimes]) -> list[str]:
    """Step times by rows."""
    if not curves:
        return []
    rows = next(iter(curves.values())).rows
    lines = [
        "## Step times, ms by rows",
        "",
        "![ms per step over its rows](steps.svg)",
        "",
        "| condition | " + " | ".join(map(str, rows)) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for label, curve in curves.items():
        cells = [f"{curve.at(count):.2f}" for count in rows]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines
