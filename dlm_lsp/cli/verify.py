"""`dlm-lsp verify`: checks that a checkpoint is complete, computes correctly and fills holes.

Owns the output (a table in a terminal, plain lines in a pipe, JSON for programs) and the exit code.
The engine does the checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.settings.files import project_file, user_file
from dlm_lsp.settings.schema import load_settings
from engine.config import EngineSettings
from engine.device import needs_torch, torch_unusable
from engine.errors import ConfigError
from engine.lab.verify.report import Check, Section

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
_NAME_COLUMNS = 17


def run(client_settings: Mapping[str, object], holes_max: int | None, as_json: bool) -> int:
    """Checks a checkpoint and prints the results; returns 0 if nothing failed, otherwise 1.

    Args:
        holes_max: the largest number of built-in holes to fill; None means all.

    Raises:
        ConfigError: the requested device is missing.
    """
    found = project_file(Path.cwd() / "file")
    loaded = load_settings(client_settings, (found,) if found else (), user_file())
    host = to_host_settings(loaded.settings)
    if host.problem is not None:
        raise ConfigError(host.problem.message, remedy=host.problem.remedy)
    settings = host.engine
    checkpoint = str(settings.checkpoint_path())
    found = _sections(settings, holes_max)
    if as_json:
        made = list(found)
        ok = all(section.is_ok for section in made)
        parts = [section.to_object() for section in made]
        print(json.dumps({"ok": ok, "checkpoint": checkpoint, "sections": parts}, indent=2))
        return 0 if ok else 1
    console = Console(highlight=False, soft_wrap=True)
    return 0 if show(checkpoint, found, console) else 1


def _sections(settings: EngineSettings, holes_max: int | None) -> Iterator[Section]:
    """Yields each section when it is finished.

    Args:
        holes_max: the largest number of built-in holes to fill; None means all.

    Raises:
        ConfigError: torch is not installed, or the requested device is missing.
    """
    needs_torch("dlm-lsp verify")
    # Imported late because of torch.
    try:
        from engine.lab.verify.examination import HOLES_MAX, examine
    except (ImportError, OSError) as error:
        raise torch_unusable(error) from None

    yield from examine(settings, HOLES_MAX if holes_max is None else holes_max)


def show(checkpoint: str, found: Iterator[Section], console: Console) -> bool:
    """Prints sections as they come; returns whether nothing failed."""
    console.print(Text(_visible(checkpoint), "bold"))
    wrong, left_out = 0, 0
    while True:
        # Shown only in a terminal, and seldom redrawn, because modes are timed meanwhile.
        with console.status("examining", refresh_per_second=2):
            section = next(found, None)
        if section is None:
            break
        console.print()
        console.print(Text(section.title, "bold"))
        if console.is_terminal:
            console.print(_table(section), soft_wrap=False)
        else:
            for check in section.checks:
                console.print(_line(check))
        wrong += sum(check.state == "failed" for check in section.checks)
        left_out += sum(check.state == "skipped" for check in section.checks)
    console.print()
    console.print(_summary(wrong, left_out))
    return not wrong


def _table(section: Section) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=9)
    table.add_column(min_width=_NAME_COLUMNS)
    table.add_column(overflow="fold")
    for check in section.checks:
        found = Text(_visible(check.found))
        if check.remedy:
            found.append(f"\n{_visible(check.remedy)}", "bright_black")
        table.add_row(Text(f"  {check.state}", _STYLES[check.state]), check.name, found)
    return table


def _line(check: Check) -> Text:
    remedy = f" {check.remedy}" if check.remedy else ""
    text = f"  {check.state:<7}  {check.name:<{_NAME_COLUMNS}}  {check.found}{remedy}"
    return Text(_visible(text))


def _summary(wrong: int, left_out: int) -> Text:
    skipped = f" {left_out} skipped." if left_out else ""
    if wrong:
        return Text(f"{wrong} failed.{skipped}", "bold red")
    return Text(f"All that ran passed.{skipped}", "bold green")


def _visible(text: str) -> str:
    """Replaces terminal control codes, which a checkpoint's names and texts may contain."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
