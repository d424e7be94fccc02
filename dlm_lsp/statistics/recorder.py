"""Writes the statistics of one session on a thread of its own.

Owns the queue between the event loop and the thread. Nothing here waits on the event loop, and no
trouble with the file reaches it: what cannot be written is lost, and a line in the log says so
once. Knows no documents and no requests.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from dlm_lsp.statistics.rows import Change, Row
from dlm_lsp.statistics.tuning import LATEST, Tuned, tuned

if TYPE_CHECKING:
    from dlm_lsp.statistics.file import StatisticsFile

logger = logging.getLogger(__name__)

QUEUE_MAX = 1000  # What waits for a slow disk; more is lost.
GROUP_SECONDS = 1.0  # What comes within this time is written at once.
PAUSE_SECONDS = 300.0  # The rest after a failure, for example of a full disk.
_CLOSE_SECONDS = 1.0


def default_path() -> Path:
    """Returns the path of this user's file, in the folder of the user's state."""
    return platformdirs.user_state_path("dlm-lsp", appauthor=False) / "statistics.sqlite3"


@dataclass(frozen=True, slots=True)
class _Tune:
    """The wish to know what the file says of a model."""

    model: str
    default: float


class Recorder:
    """The writer of one session. The methods are called by one thread and return at once.

    Args:
        path: the file, which is made with its folder at the first row.
        tell: what is told of trouble, one sentence each time; called on the writing thread.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[str], None] = logger.warning,
        group_seconds: float = GROUP_SECONDS,
    ) -> None:
        self._path = path
        self._tell = tell
        self._group_seconds = group_seconds
        self._queue: queue.Queue[Row | Change | _Tune | None] = queue.Queue(QUEUE_MAX)
        self._thread: threading.Thread | None = None
        self._tuned: dict[str, Tuned] = {}
        self._told = ""
        self._resumes = 0.0
        self.num_lost = 0

    def put(self, item: Row | Change) -> None:
        """Records a row, or a change of an earlier one."""
        self._put(item)

    def tuned(self, model: str) -> Tuned | None:
        """Returns what was last found out for a model; None before, or without evidence."""
        return self._tuned.get(model)

    def tune(self, model: str, default: float) -> None:
        """Lets the thread find out what the file says of a model.

        Args:
            default: the confidence that holds without evidence.
        """
        self._put(_Tune(model, default))

    def close(self) -> None:
        """Writes what waits, for a short time at most. Blocks."""
        if self._thread is not None and self._thread.is_alive():
            self._put(None)
            self._thread.join(_CLOSE_SECONDS)

    def _put(self, item: Row | Change | _Tune | None) -> None:
        if self._thread is None:
            # A daemon, so that a hanging disk never keeps a process from ending.
            self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.num_lost += 1

    def _run(self) -> None:
        try:
            # Late: the import takes time, and some builds of Python have no sqlite3.
            from dlm_lsp.statistics.file import StatisticsFile
        except ImportError as error:
            self._complain(f"There are no statistics: {error}.")
            return
        file = StatisticsFile(self._path)
        is_open = True
        while is_open:
            batch = self._batch()
            is_open = None not in batch
            if time.monotonic() >= self._resumes:
                self._write(file, batch)
        file.close()

    def _batch(self) -> list[Row | Change | _Tune | None]:
        """Returns what comes within a short time, up to the end."""
        batch = [self._queue.get()]
        ends = time.monotonic() + self._group_seconds
        while batch[-1] is not None and len(batch) < QUEUE_MAX:
            try:
                batch.append(self._queue.get(timeout=max(0.0, ends - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _write(self, file: StatisticsFile, batch: list[Row | Change | _Tune | None]) -> None:
        rows = [item for item in batch if isinstance(item, Row)]
        changes = [item for item in batch if isinstance(item, Change)]
        try:
            if rows or changes:
                file.write(rows, changes)
            for item in batch:
                # Without a file there is no evidence, and none is made for the question alone.
                if isinstance(item, _Tune) and self._path.exists():
                    found = file.latest(item.model, LATEST)
                    self._tuned[item.model] = tuned(found, item.default)
        except Exception as error:  # The boundary of this thread: statistics are never worth more.
            file.close()
            self.num_lost += len(rows)
            self._resumes = time.monotonic() + PAUSE_SECONDS
            self._complain(f"Statistics are not recorded for a while: {error}")
        else:
            if file.moved_aside is not None:
                where, file.moved_aside = file.moved_aside, None
                self._complain(f"The statistics file was damaged; it is now {where}.")

    def _complain(self, sentence: str) -> None:
        if sentence != self._told:
            self._told = sentence
            self._tell(sentence)
