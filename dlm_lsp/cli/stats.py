"""`dlm-lsp stats`: what became of the suggestions on this machine, and what was tuned by that.

Reads the statistics file, which the language server writes, and can remove it. Shows figures alone,
since nothing else is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm_lsp.session.sureness import AUTO
from dlm_lsp.settings.files import user_file
from dlm_lsp.settings.schema import Settings, load_settings
from dlm_lsp.statistics.file import StatisticsError, read
from dlm_lsp.statistics.recorder import default_path
from dlm_lsp.statistics.report import Figures, figures, grouped
from dlm_lsp.statistics.rows import Known
from dlm_lsp.statistics.tuning import LATEST, Tuned, tuned
from dlm_lsp.store.catalogue import BUNDLED
from engine.errors import ConfigError

_TITLES = ("shown", "accepted", "partly", "kept", "typed", "dismissed", "first text", "answer")
_LEGEND = (
    "kept: characters of accepted text that were still there 30 s later. typed: written out by hand"
    " to the end.\nfirst text, answer: milliseconds, median and 95th percentile, where the engine"
    " was asked."
)


def run(days: int | None, as_json: bool, deletes: bool, is_sure: bool) -> int:
    """Prints the figures, or removes the file; returns the exit code.

    Args:
        days: how many of the last days count; None means all that is recorded.
        is_sure: whether to remove the file without asking.

    Raises: ConfigError if the file cannot be read or removed, or nobody can be asked.
    """
    path = default_path()
    if deletes:
        return _delete(path, as_json, is_sure)
    settings = load_settings(None, (), user_file()).settings
    try:
        rows = read(path)
    except StatisticsError as error:
        raise ConfigError(
            str(error), remedy="`dlm-lsp stats --delete` removes it.", param="file"
        ) from None
    found = tunings(rows)
    since = 0.0 if days is None else time.time() - days * 86_400
    rows = [one for one in rows if one.row.time >= since]
    if as_json:
        print(json.dumps(_to_object(path, days, rows, found, settings), indent=2))
    else:
        _print(path, days, rows, found, settings)
    return 0


def tunings(rows: Sequence[Known]) -> dict[str, Tuned]:
    """Returns what "auto" means by these rows, the oldest first, for each model."""
    automatic: dict[str, list[Known]] = {}
    for one in reversed(rows):
        if one.row.automatic and one.row.model != BUNDLED:  # It always shows everything.
            automatic.setdefault(one.row.model, []).append(one)
    return {model: tuned(latest[:LATEST], AUTO) for model, latest in sorted(automatic.items())}


def sentences(found: Tuned) -> tuple[str, str]:
    """Returns what the least confidence and the delay are by local evidence, and why."""
    stretch = f"{found.stretch:g} times" if found.stretch > 1 else "as the keys come"
    return (
        f"silence.confidence auto is {found.confidence:g}: {found.why}",
        f"delay auto is {stretch}: {found.stretch_why}",
    )


def _delete(path: Path, as_json: bool, is_sure: bool) -> int:
    is_there = os.path.exists(path)
    if is_there and not is_sure:
        if not sys.stdin.isatty():
            raise ConfigError("Nobody can be asked here.", remedy="Add --yes.", param="delete")
        try:
            answer = input(f"Remove all statistics in {path}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 1
    try:
        for suffix in ("-journal", "", ".damaged", ".lock"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be removed: {error.strerror}.",
            remedy="Remove it by hand.",
            param="file",
        ) from None
    if as_json:
        print(json.dumps({"file": str(path), "deleted": is_there}))
    else:
        print(f"{path} is removed." if is_there else f"There is no {path}.")
    return 0


def _to_object(
    path: Path,
    days: int | None,
    rows: Sequence[Known],
    found: Mapping[str, Tuned],
    settings: Settings,
) -> dict[str, object]:
    return {
        "file": str(path),
        "days": days,
        "recorded": settings.statistics.enabled,
        "tunes": settings.statistics.tune,
        "all": figures(rows).to_object(),
        **{
            key: {name: one.to_object() for name, one in groups.items()}
            for key, groups in _groups(rows).items()
        },
        "tuned": {
            model: {
                "shown": one.shown,
                "confidence": one.confidence,
                "why": one.why,
                "stretch": one.stretch,
                "stretchWhy": one.stretch_why,
            }
            for model, one in found.items()
        },
    }


def _groups(rows: Sequence[Known]) -> dict[str, dict[str, Figures]]:
    return {
        "languages": grouped(rows, lambda one: one.row.language),
        "models": grouped(rows, lambda one: f"{one.row.model}, {one.row.mode}"),
        "kinds": grouped(rows, lambda one: "while typing" if one.row.automatic else "on request"),
    }


def _print(
    path: Path,
    days: int | None,
    rows: Sequence[Known],
    found: Mapping[str, Tuned],
    settings: Settings,
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    when = "" if days is None else f" in the last {days} days"
    if rows:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("")
        for title in _TITLES:
            table.add_column(title, justify="right")
        _add(table, "all", figures(rows))
        for groups in _groups(rows).values():
            table.add_section()
            for name, one in groups.items():
                _add(table, name, one)
        # At full width where another program reads it.
        (console if console.is_terminal else Console(highlight=False, width=200)).print(table)
        console.print(Text(f"\n{_LEGEND}\n", "bright_black"))
    else:
        console.print(f"Nothing was shown{when}, or nothing was recorded.")
    for model, one in found.items():
        for sentence in sentences(one):
            console.print(f"{model}: {sentence}", markup=False)
    if found and not settings.statistics.tune:
        console.print("These are not used: statistics.tune is false in your settings.")
    state = "" if settings.statistics.enabled else " (statistics.enabled is false: it stays as is)"
    there = str(path) if os.path.exists(path) else f"{path}, which is not there yet"
    console.print(f"The figures, without any text or file name, are in {there}{state}.")


def _add(table: Table, name: str, one: Figures) -> None:
    kept = "" if one.kept_share is None else f"{one.kept_share:.0%}"
    table.add_row(
        Text(name),
        str(one.shown),
        _with_share(one.accepted, one.shown),
        _with_share(one.partly, one.shown),
        kept,
        _with_share(one.typed, one.shown),
        _with_share(one.dismissed, one.shown),
        _spread(one.first_ms),
        _spread(one.answer_ms),
    )


def _with_share(count: int, whole: int) -> str:
    return f"{count} ({count / whole:.0%})" if count else "0"


def _spread(values: tuple[float, float] | None) -> str:
    return "" if values is None else f"{values[0]:.0f}, {values[1]:.0f}"
