"""Whether a model fits into this machine's memory, estimated before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from dlm_lsp.store.catalogue import Entry
from dlm_lsp.store.progress import sized

_MEMINFO = Path("/proc/meminfo")


def memory_problem(needed: Entry | int) -> str | None:
    """Why a model, or so many bytes, would not fit now, with the remedy; None where it would."""
    num_bytes = needed.memory_bytes if isinstance(needed, Entry) else needed
    free = available_bytes()
    if free is None or num_bytes <= free:
        return None
    name = needed.name if isinstance(needed, Entry) else "The model"
    return (
        f"{name} needs about {sized(num_bytes)} of memory, and {sized(free)} are free. "
        "Close other programs, or use a smaller model (`dlm-lsp model list`)."
    )


def available_bytes() -> int | None:
    """Memory that programs can still have; None where the system does not tell."""
    try:
        for line in _MEMINFO.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
