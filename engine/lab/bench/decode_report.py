"""The results of the decoding benchmark as JSON, tables and plots, with their conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from engine.auto.step_times import StepTimes
from engine.lab.bench.conditions import to_sentence
from engine.lab.bench.decode_rows import VariantRow
from engine.lab.bench.parity import Parity
from engine.lab.tables import to_table

_LEGEND = """\
Each hole is filled by all modes in turn, greedily, one request at a time. No figure includes the
prefill: tokens per second count the tokens that the forwards after the prompt decided. `against ar`
is the ratio of tokens per second, with the middle 95 % over resampled holes. A cycle is a forward
that emits; for speculative modes its tokens are the accepted drafts plus one. `same text` is the
share of holes filled exactly as `ar` fills them. Speculation may differ from `ar` at near-ties in
bf16; block diffusion decodes differently. `exact` is the share filled as the file had it."""


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """The results of a run; `curves` are step times by condition."""

    conditions: Mapping[str, str | int | None]
    rows: Sequence[VariantRow]
    curves: Mapping[str, StepTimes]
    parity: Sequence[Parity]


def write(folder: Path, report: DecodeReport) -> None:
    """Writes `decode.json`, `decode.md`, `decode.svg` and `steps.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "conditions": dict(report.conditions),
        "rows": [asdict(row) for row in report.rows],
        "step_times": {label: asdict(curve) for label, curve in report.curves.items()},
        "parity": [asdict(parity) for parity in report.parity],
    }
    (folder / "decode.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = to_sentence(report.conditions)
    lines = ["# Decoding modes, measured side by side", "", facts, "", _LEGEND]
    lines += ["", "![tokens per second over that of ar](decode.svg)"]
    for condition in dict.fromkeys(row.condition for row in report.rows):
        chosen = [row for row in report.rows if row.condition == condition]
        lines += ["", f"## {condition}, {chosen[0].holes} holes", "", *rows_table(chosen)]
        lines += ["", *_auto(chosen)]
    lines += ["", *_parity(report.parity), "", *_curves(report.curves)]
    (folder / "decode.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot_speeds(folder / "decode.svg", report.rows)
    plot_curves(folder / "steps.svg", report.curves)


def rows_table(rows: Sequence[VariantRow]) -> list[str]:
    """The figures of one condition as a Markdown table."""
    names = ["mode", "tokens/s", "against ar", "tokens per forward", "per cycle"]
    names += ["rows per forward", "forwards", "same text", "exact"]
    cells = [
        (
            row.variant,
            f"{row.tokens_per_second:.0f}",
            f"{row.against_ar:.2f} ({row.against_ar_range[0]:.2f}–{row.against_ar_range[1]:.2f})",
            f"{row.tokens_per_forward:.2f}",
            f"{row.accepted_per_cycle:.2f}",
            f"{row.rows_per_forward:.1f}",
            f"{row.forwards:.1f}",
            f"{row.same_as_ar:.0%}",
            f"{row.exact:.0%}",
        )
        for row in rows
    ]
    return to_table(names, cells)


def plot_speeds(path: Path, rows: Sequence[VariantRow]) -> None:
    """Plots every variant's speed against ar with its range, a panel for each condition."""
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
    """Plots milliseconds per step over rows, with a line for each condition."""
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
    """The modes that "auto" chose."""
    took = {row.variant: row.modes for row in rows}.get("auto", {})
    said = ", ".join(f"{mode} on {count}" for mode, count in took.items())
    return [f"`auto` took {said} holes."] if said else []


def _parity(parity: Sequence[Parity]) -> list[str]:
    """How often fast speculation differed from ar, and at which gaps."""
    if not parity:
        return []
    rows = []
    for one in parity:
        gap = max((difference.gap for difference in one.differences), default=0.0)
        verdict = "yes" if one.is_rounding else "no"
        rows.append((one.mode, len(one.differences), f"{one.share:.1%}", f"{gap:.3f}", verdict))
    names = ("mode", "prompts that differ", "share", "largest gap", "all near-ties")
    return [
        "## Fast mode beside ar, token for token",
        "",
        f"{parity[0].requests} prompts of up to 64 tokens without a stop token. The logits of the "
        f"same tokens in steps of one row and of 32 rows differ by up to "
        f"{max(one.noise for one in parity):.3f}; a first difference at a gap of at most twice "
        "that is a near-tie.",
        "",
        *to_table(names, rows),
    ]


def _curves(curves: Mapping[str, StepTimes]) -> list[str]:
    """Step times by rows."""
    if not curves:
        return []
    rows = next(iter(curves.values())).rows
    cells = [
        (label, *(f"{curve.at(count):.2f}" for count in rows)) for label, curve in curves.items()
    ]
    title = ["## Step times, ms by rows", "", "![ms per step over its rows](steps.svg)", ""]
    return [*title, *to_table(("condition", *rows), cells)]
