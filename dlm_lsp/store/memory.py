"""Estimates whether a model fits into this machine's memory, before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from dlm_lsp.store.catalogue import BUNDLED, Entry
from dlm_lsp.store.folder import Store
from dlm_lsp.store.further import entries as all_entries
from dlm_lsp.store.progress import sized

_MEMINFO = Path("/proc/meminfo")


def memory_problem(needed: Entry) -> str | None:
    """Returns why a model does not fit now, with the remedy, or None if it fits."""
    free = available_bytes()
    if free is None or needed.memory_bytes <= free:
        return None
    return (
        f"{needed.name} needs about {sized(needed.memory_bytes)} of memory, and {sized(free)} are "
        f"free. {smaller_model(needed.memory_bytes, free)}"
    )


def smaller_model(needed: int, free: int) -> str:
    """Returns the remedy for a model that needs more bytes than are free."""
    smaller = [entry for entry in all_entries() if entry.proposed and entry.memory_bytes < needed]
    fitting = [entry for entry in smaller if entry.memory_bytes <= free]
    if not fitting:
        return f'Close other programs, or set engine.checkpoint = "{BUNDLED}".'
    best = max(fitting, key=lambda entry: entry.memory_bytes)
    remedy = f'Close other programs, or set engine.checkpoint = "{best.name}"'
    if Store().find(best) is not None:
        return f"{remedy}."
    return f"{remedy} after `dlm-lsp model pull {best.name}`."


def available_bytes() -> int | None:
    """Returns the memory that is available to programs, or None if it is unknown."""
    try:
        for line in _MEMINFO.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # Not Linux.
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
