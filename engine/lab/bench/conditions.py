"""The conditions of a measurement: the date, the commit, the machine, and a core that is kept busy.
No path and no host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.device import cpu_name


@contextmanager
def busy_core() -> Iterator[None]:
    """Keeps a core busy with a second process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def machine() -> dict[str, str | int | None]:
    """The conditions of a run, for its results file."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "torch": installed("torch"),
    }


def commit() -> str:
    """The commit, marked if the tree has changes; "unknown" outside a repository."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"


def installed(package: str) -> str | None:
    """A package's version, without importing it; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def to_sentence(conditions: Mapping[str, object]) -> str:
    """The conditions as a line of a report."""
    return ", ".join(f"{name} {value}" for name, value in conditions.items()) + "."
