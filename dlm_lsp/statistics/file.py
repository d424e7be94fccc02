"""The statistics file: one SQLite table, which all windows of a user write.

Owns the schema, the limits of the file's size, and what is done with a damaged file, which is moved
aside. Transactions are short and wait for each other, by SQLite's own locks and rollback journal,
which leave a whole file whoever is killed. Calls may wait for a disk or a lock: no event loop calls
this.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from dlm_lsp.statistics.rows import Change, Known, Row

DAYS_MAX, ROWS_MAX = 180, 100_000
BUSY_SECONDS = 5.0
VERSION = 1

_PRUNE_EVERY = 500  # Rows that are added between two looks at the limits.
_COLUMNS = (
    ("id", "INTEGER PRIMARY KEY"),
    ("time", "REAL NOT NULL"),
    ("language", "TEXT NOT NULL"),
    ("model", "TEXT NOT NULL"),
    ("mode", "TEXT NOT NULL"),
    ("automatic", "INTEGER NOT NULL"),
    ("lines", "INTEGER NOT NULL"),
    ("characters", "INTEGER NOT NULL"),
    ("probability", "REAL"),
    ("line_probability", "REAL"),
    ("first_ms", "REAL NOT NULL"),
    ("answer_ms", "REAL NOT NULL"),
    ("source", "TEXT NOT NULL"),
    ("fate", "TEXT NOT NULL DEFAULT 'unknown'"),
    ("fate_ms", "REAL"),
    ("accepted", "INTEGER NOT NULL DEFAULT 0"),
    ("kept", "INTEGER"),
)
_ROW = tuple(name for name, _ in _COLUMNS[:13])
_CREATE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS suggestions ({", ".join(" ".join(pair) for pair in _COLUMNS)});
CREATE INDEX IF NOT EXISTS suggestions_time ON suggestions (time);
PRAGMA user_version = {VERSION};
COMMIT;
"""
_INSERT = f"INSERT OR IGNORE INTO suggestions ({', '.join(_ROW)}) VALUES ({', '.join('?' * 13)})"
_UPDATE = """
UPDATE suggestions SET fate = coalesce(?, fate), fate_ms = coalesce(?, fate_ms),
    accepted = coalesce(?, accepted), kept = coalesce(?, kept) WHERE id = ?
"""
_SELECT = f"SELECT {', '.join(name for name, _ in _COLUMNS)} FROM suggestions"
# A table of another shape is as useless as broken pages.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class StatisticsError(Exception):
    """The file cannot be used; the message says why, for the user."""


class StatisticsFile:
    """The file at a path, open for writing.

    Raises: StatisticsError from every method, if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.moved_aside: Path | None = None
        self._connection: sqlite3.Connection | None = None
        self._stamp: tuple[int, int] | None = None
        self._num_added = 0

    def write(self, rows: Sequence[Row], changes: Sequence[Change]) -> None:
        """Adds rows and changes of earlier ones, all or none of them."""
        for is_last in (False, True):
            try:
                with _told(self.path):
                    self._write(rows, changes)
                    return
            except _Damage as error:
                self.close()
                if is_last:
                    raise StatisticsError(str(error)) from None
                self._move_aside()

    def latest(self, model: str, count: int) -> list[Known]:
        """Returns a model's latest automatic suggestions, the latest first."""
        try:
            with _told(self.path):
                query = f"{_SELECT} WHERE model = ? AND automatic ORDER BY time DESC LIMIT ?"
                found = self._opened().execute(query, (model, count))
                return [_known(values) for values in found]
        except _Damage as error:
            raise StatisticsError(str(error)) from None

    def close(self) -> None:
        """Closes the file; the next call opens it again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _write(self, rows: Sequence[Row], changes: Sequence[Change]) -> None:
        connection = self._opened()
        with connection:  # One transaction.
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, [tuple(getattr(row, n) for n in _ROW) for row in rows])
            values = [(c.fate, c.fate_ms, c.accepted, c.kept, c.id) for c in changes]
            connection.executemany(_UPDATE, values)
            if self._num_added == 0 or self._num_added + len(rows) > _PRUNE_EVERY:
                _prune(connection)
                self._num_added = 1
        self._num_added += len(rows)

    def _opened(self) -> sqlite3.Connection:
        """Returns the open file, opened anew where it was removed or replaced meanwhile."""
        if self._connection is not None and _stamp(self.path) == self._stamp:
            return self._connection
        self.close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It is of nobody else's concern, whatever the umask says.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        self._connection, self._stamp, self._num_added = connection, _stamp(self.path), 0
        _check_version(connection, self.path)
        connection.executescript(_CREATE)
        return connection

    def _move_aside(self) -> None:
        """Moves the damaged file aside, unless another window has done so just now."""
        try:
            with FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS):
                if not _is_damaged(self.path):
                    return
                aside = self.path.with_name(f"{self.path.name}.damaged")
                # A journal that is left would be played back into the new file.
                Path(f"{self.path}-journal").unlink(missing_ok=True)
                os.replace(self.path, aside)
                self.moved_aside = aside
        except (OSError, TimeoutError) as error:
            raise StatisticsError(f"{self.path} is damaged and stays so: {error}.") from None


def read(path: Path, since: float = 0.0) -> list[Known]:
    """Returns what was shown since a time of `time.time`, the oldest first; [] without a file.

    Nothing is recorded, but a transaction that a killed process has left is undone.

    Raises: StatisticsError if it cannot be read.
    """
    if not os.path.exists(path):
        return []
    try:
        with _told(path), closing(_existing(path)) as connection:
            _check_version(connection, path)
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return []
            found = connection.execute(f"{_SELECT} WHERE time >= ? ORDER BY time", (since,))
            return [_known(values) for values in found]
    except _Damage as error:
        raise StatisticsError(str(error)) from None


class _Damage(Exception):
    """The file is no statistics file, or a broken one."""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and of the system into the module's own."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise _Damage(f"{path} is damaged: {error}.") from None
        raise StatisticsError(f"{path}: {error}.") from None
    except (OSError, OverflowError) as error:
        raise StatisticsError(f"{path} cannot be used: {error}.") from None


def _existing(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)


def _is_damaged(path: Path) -> bool:
    try:
        with _told(path), closing(_existing(path)) as connection:
            is_whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            connection.execute(f"{_SELECT} LIMIT 1")
            return not is_whole
    except _Damage:
        return True
    except StatisticsError:
        return False


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StatisticsError if a newer program has written the file, whose rows mean otherwise."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StatisticsError(f"{path} is of a newer dlm-lsp (version {version}).")


def _prune(connection: sqlite3.Connection) -> None:
    """Removes what is too old, and what is too much."""
    connection.execute("DELETE FROM suggestions WHERE time < ?", (time.time() - DAYS_MAX * 86_400,))
    connection.execute(
        "DELETE FROM suggestions WHERE id IN"
        " (SELECT id FROM suggestions ORDER BY time DESC LIMIT -1 OFFSET ?)",
        (ROWS_MAX,),
    )


def _known(values: tuple) -> Known:
    row = Row(*values[:13])
    fate, fate_ms, accepted, kept = values[13:]
    return Known(row, fate, fate_ms, accepted, kept)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
