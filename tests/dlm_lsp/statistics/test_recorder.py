"""The recorder's thread: nothing waits for it, and no trouble with the file leaves it."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from dlm_lsp.session.sureness import AUTO
from dlm_lsp.statistics import recorder as recorder_module
from dlm_lsp.statistics.file import read
from dlm_lsp.statistics.recorder import QUEUE_MAX, Recorder
from dlm_lsp.statistics.rows import Change
from tests.dlm_lsp.statistics.made import row

SECONDS_MAX = 60.0


@pytest.fixture
def told() -> list[str]:
    """What the recorder says."""
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "statistics.sqlite3"


def recorder(path: Path, told: list[str]) -> Recorder:
    return Recorder(path, told.append, group_seconds=0.0)


def ended(one: Recorder) -> None:
    """Closes a recorder and waits for its thread."""
    one.close()
    if one._thread is not None:
        one._thread.join(SECONDS_MAX)
        assert not one._thread.is_alive()


def test_what_is_put_is_written_in_order(path: Path, told: list[str]) -> None:
    one, rows = recorder(path, told), [row() for _ in range(20)]
    for each in rows:
        one.put(each)
        one.put(Change(id=each.id, fate="dismissed", fate_ms=5.0))
        one.put(Change(id=each.id, fate="accepted", accepted=4))
    ended(one)
    assert {(each.row.id, each.fate, each.accepted) for each in read(path)} == {
        (each.id, "accepted", 4) for each in rows
    }
    assert told == []


def test_without_anything_to_record_there_is_no_thread_and_no_file(
    path: Path, told: list[str]
) -> None:
    one = recorder(path, told)
    one.close()
    assert one._thread is None
    one.tune("real-1b", AUTO)
    ended(one)
    assert not path.exists()
    assert one.tuned("real-1b") is None


def test_a_file_that_cannot_be_used_is_told_once_and_nothing_else_happens(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSE_SECONDS", 0.0)
    (tmp_path / "file").write_text("")
    one = recorder(tmp_path / "file" / "statistics.sqlite3", told)
    for _ in range(5):
        one.put(row())
    one.tune("real-1b", AUTO)
    ended(one)
    assert len(told) == 1
    assert "not recorded for a while" in told[0]
    assert one.num_lost == 5


def test_after_a_failure_there_is_a_pause(path: Path, told: list[str]) -> None:
    path.parent.write_text("")
    one = recorder(path, told)
    one.put(row())
    one.put(row())
    ended(one)
    path.parent.unlink()
    assert one._resumes > 0
    assert not path.exists()


def test_a_damaged_file_is_told_and_replaced(path: Path, told: list[str]) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)
    one = recorder(path, told)
    one.put(row())
    ended(one)
    assert len(read(path)) == 1
    assert len(told) == 1
    assert str(path.with_name("statistics.sqlite3.damaged")) in told[0]


def test_a_slow_disk_holds_up_nobody_and_what_does_not_fit_is_lost(
    path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()
    write = Recorder._write
    monkeypatch.setattr(
        Recorder, "_write", lambda *given: going.wait(SECONDS_MAX) and write(*given)
    )
    one = recorder(path, told)
    for _ in range(3 * QUEUE_MAX):
        one.put(row())
    assert one.num_lost >= QUEUE_MAX
    going.set()
    assert one._thread is not None
    while not one._queue.empty():
        one._thread.join(0.01)
    ended(one)
    assert len(read(path)) == 3 * QUEUE_MAX - one.num_lost


def test_a_python_without_sqlite_records_nothing_and_says_so(
    path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlm_lsp.statistics.file", None)
    one = recorder(path, told)
    one.put(row())
    ended(one)
    assert len(told) == 1
    assert not path.exists()


def test_what_the_file_says_of_a_model_is_found_out(path: Path, told: list[str]) -> None:
    one = recorder(path, told)
    for _ in range(250):
        each = row(line_probability=0.41)
        one.put(each)
        one.put(Change(id=each.id, fate="accepted", fate_ms=900.0, accepted=10))
    one.tune("real-1b", AUTO)
    ended(one)
    found = one.tuned("real-1b")
    assert found is not None
    assert (found.shown, found.confidence) == (250, 0.35)
    assert one.tuned("another") is None


def test_a_lock_held_by_another_program_is_no_trouble_of_the_editors(
    path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm_lsp.statistics.file.BUSY_SECONDS", 0.0)
    first = recorder(path, told)
    first.put(row())
    ended(first)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        one = recorder(path, told)
        one.put(row())
        ended(one)
        other.execute("ROLLBACK")
    assert len(told) == 1
    assert "locked" in told[0]
