"""A plot of quality against speed, if matplotlib is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from engine.errors import ConfigError
from engine.lab.evaluation.baselines import BASELINES
from engine.lab.evaluation.figures import Figures

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:  # an extra
    rc_context = Axes = Figure = None

_THRESHOLD = re.compile(r"block at (?P<threshold>[\d.]+)")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return Figure is not None


def draw(figures: Sequence[Figures], path: Path) -> None:
    """Writes an SVG with a panel for each suite, a point for each mode, and a line through the
    thresholds of "block".

    Args:
        figures: one for each suite and mode, over all its tasks.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if Figure is None or rc_context is None:
        raise ConfigError(
            "A plot needs matplotlib.", remedy="pip install 'dlm-lsp[eval]'.", param="out"
        )
    suites = list(dict.fromkeys(each.suite for each in figures))
    # With text as text and fixed ids the file is small, and the same for the same figures.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dlm-lsp", "font.size": 9}):
        figure = Figure(figsize=(5.2 * len(suites), 3.8), layout="constrained")
        panels = figure.subplots(1, len(suites), squeeze=False)[0]
        for suite, panel in zip(suites, panels, strict=True):
            _panel(panel, suite, [each for each in figures if each.suite == suite])
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: Axes, suite: str, figures: Sequence[Figures]) -> None:  # type: ignore[valid-type]
    is_run = any(each.passed is not None for each in figures)
    curve: list[tuple[float, float, float]] = []
    # Modes often overlap: marks and a legend tell them apart better than words beside them.
    marks = cycle("osD^vP*X<>")
    for each in figures:
        quality = each.exact if each.passed is None else each.passed
        if each.mode in BASELINES:
            panel.axhline(quality * 100, linestyle=":", color="grey", linewidth=1)
            panel.annotate(
                each.mode,
                (0.99, quality * 100),
                ha="right",
                va="bottom",
                xycoords=("axes fraction", "data"),
                color="grey",
                fontsize=7,
            )
        elif each.ms_p50 is not None:
            panel.plot(
                each.ms_p50, quality * 100, next(marks), markersize=6, alpha=0.7, label=each.mode
            )
            match = _THRESHOLD.fullmatch(each.mode)
            if match:
                curve.append((float(match["threshold"]), each.ms_p50, quality * 100))
    curve.sort()
    panel.plot([ms for _, ms, _ in curve], [quality for _, _, quality in curve], "-", linewidth=1)
    panel.legend(fontsize=7, loc="lower left")
    panel.margins(0.15)
    panel.set(
        title=suite,
        xlabel="ms per completion, median (prompt in the cache)",
        ylabel="pass@1, %" if is_run else "exact, %",
        ylim=(0, None),
        xlim=(0, None),
    )
