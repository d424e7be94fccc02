"""The sections of a run: each in its time, each in the file as soon as there is something of it.

A run that is interrupted, or a section that fails or takes too long, leaves what was measured.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = 1
Entries = Callable[[], Iterable[Mapping[str, Any]]]


class OutOfTime(BaseException):
    """A section has used up its time. No `Exception`, since libraries swallow those: compilers try
    something else when a part of theirs fails."""


class Sections:
    """The figures so far, and the file that holds them."""

    def __init__(self, path: Path, conditions: Mapping[str, Any], seconds: float) -> None:
        """
        Args:
            seconds: of the whole run, from now on.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._began = time.monotonic()
        self._seconds = seconds
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "conditions": {**conditions, "seconds": seconds},
            "sections": [],
        }

    @property
    def left(self) -> float:
        """Seconds of the run that are left."""
        return self._seconds - (time.monotonic() - self._began)

    def entries(self, name: str) -> list[dict[str, Any]]:
        """What a section has measured; empty if there is none of this name."""
        found = (each["entries"] for each in self.content["sections"] if each["name"] == name)
        return next(found, [])

    def measure(self, name: str, entries: Entries, *, share: float = 1.0) -> None:
        """Runs a section and keeps its entries, one by one.

        Args:
            share: of the run's seconds that the section may take; never more than are left.
        """
        record: dict[str, Any] = {"name": name, "state": "cut short", "why": "", "entries": []}
        self.content["sections"].append(record)
        began = time.monotonic()
        limit = min(self.left, share * self._seconds)
        try:
            if limit <= 0:
                raise OutOfTime
            with _alarm(limit):
                for entry in entries():
                    record["entries"].append(dict(entry))
                    self._write()
            record["state"] = "done"
        except OutOfTime:
            record["why"] = f"its time was up after {max(limit, 0):.0f} s"
        except Exception as error:  # one fault on a card must not cost all other figures
            record.update(state="failed", why=f"{type(error).__name__}: {error}"[:500])
        record["seconds"] = round(time.monotonic() - began, 1)
        self._write()
        said = f"{name}: {record['state']}" + (f" ({record['why']})" if record["why"] else "")
        print(f"{time.monotonic() - self._began:6.1f} s  {said}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises OutOfTime after so many seconds, where signals can be had: elsewhere a section ends by
    itself."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    # Again every second: what is raised while an object is being deleted is ignored.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
