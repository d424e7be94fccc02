"""The statistics file: shared by processes, whole whoever is killed, bounded, and never trusted."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_lsp.statistics import file as file_module
from dlm_lsp.statistics.file import StatisticsError, StatisticsFile, read
from dlm_lsp.statistics.rows import OTHER, Change, Row, plain_word
from tests.dlm_lsp.statistics.made import row

SECONDS_MAX = 120

# Writes COUNT rows in transactions of one, each with a change of the row before; 0 never ends.
WRITER = """
import sys
from pathlib import Path
from dlm_lsp.statistics.file import StatisticsFile
from dlm_lsp.statistics.rows import Change
from tests.dlm_lsp.statistics.made import row
path, count = Path(sys.argv[1]), int(sys.argv[2])
file, number = StatisticsFile(path), 0
while count == 0 or number < count:
    one = row()
    file.write([one], [])
    file.write([], [Change(id=one.id, fate="accepted", accepted=10)])
    number += 1
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "statistics.sqlite3"


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(count)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def write(path: Path, *rows: Row) -> None:
    file = StatisticsFile(path)
    file.write(rows, [])
    file.close()


def test_a_row_comes_back_with_what_became_of_it(path: Path) -> None:
    one = row(probability=None, line_probability=0.25, automatic=False)
    file = StatisticsFile(path)
    file.write([one], [Change(id=one.id, fate="partly", fate_ms=12.5, accepted=3)])
    file.write([], [Change(id=one.id, kept=2), Change(id=one.id + 1, fate="accepted")])
    (found,) = read(path)
    assert found.row == replace(one, automatic=False)
    assert (found.fate, found.fate_ms, found.accepted, found.kept) == ("partly", 12.5, 3, 2)
    assert path.stat().st_mode & 0o077 == 0
    assert read(path, since=time.time() + 60) == []


def test_without_a_file_there_is_nothing_and_reading_makes_none(path: Path) -> None:
    assert read(path) == []
    assert not path.parent.exists()


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    count = 40
    writers = [writer(path, count) for _ in range(3)]
    for one in writers:
        one.communicate(timeout=SECONDS_MAX)
        assert one.returncode == 0
    found = read(path)
    assert len(found) == 3 * count
    assert {one.fate for one in found} == {"accepted"}


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(path: Path) -> None:
    written = 0
    for number in range(3):
        one = writer(path, 0)
        assert one.stdout is not None
        lines = [one.stdout.readline() for _ in range(3 + 2 * number)]
        one.send_signal(signal.SIGKILL)
        one.communicate(timeout=SECONDS_MAX)
        written += int(lines[-1])
    assert len(read(path)) >= written
    write(path, row())
    assert not list(path.parent.glob("*.damaged"))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("damage", ["text", "cut", "scribbled", "other"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_is_begun(path: Path, damage: str) -> None:
    write(path, *(row() for _ in range(200)))
    whole = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"this is no database\n" * 100)
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2 + 100])
    elif damage == "scribbled":
        path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    else:
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE suggestions (id INTEGER PRIMARY KEY, other TEXT)")
    before = path.read_bytes()
    file = StatisticsFile(path)
    one = row()
    file.write([one], [])
    assert file.moved_aside is not None
    assert file.moved_aside.read_bytes()[:4096] == before[:4096]
    assert [found.row.id for found in read(path)] == [one.id]


def test_a_damaged_file_cannot_be_read(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database\n" * 100)
    with pytest.raises(StatisticsError, match=r"statistics\.sqlite3 is damaged"):
        read(path)


def test_a_file_of_a_newer_program_is_left_alone(path: Path) -> None:
    write(path, row())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for use in (lambda: write(path, row()), lambda: read(path)):
        with pytest.raises(StatisticsError, match="newer dlm-lsp"):
            use()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StatisticsError, match="cannot be used"):
        write(tmp_path / "file" / "statistics.sqlite3", row())


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_an_error(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    with pytest.raises(StatisticsError, match="cannot be used"):
        write(path, row())


def test_a_full_disk_is_an_error_and_leaves_a_whole_file(path: Path) -> None:
    """A limit on the size of files is what a process meets as a full disk."""
    write(path, row())
    code = """
import resource, sys
from pathlib import Path
from dlm_lsp.statistics.file import StatisticsError, StatisticsFile
from tests.dlm_lsp.statistics.made import row
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size,) * 2)
try:
    StatisticsFile(path).write([row() for _ in range(5000)], [])
except StatisticsError as error:
    print(error)
"""
    root = Path(__file__).parents[3]
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    assert str(path) in told.stdout
    assert len(read(path)) == 1
    write(path, row())
    assert len(read(path)) == 2


def test_a_lock_that_is_held_is_an_error_and_not_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "BUSY_SECONDS", 0.0)
    write(path, row())
    file = StatisticsFile(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StatisticsError, match="locked"):
            file.write([row()], [])
        other.execute("ROLLBACK")
    file.write([row()], [])
    assert len(read(path)) == 2


def test_a_file_that_is_removed_while_it_is_open_is_begun_anew(path: Path) -> None:
    file = StatisticsFile(path)
    file.write([row()], [])
    path.unlink()
    one = row()
    file.write([one], [])
    assert [found.row.id for found in read(path)] == [one.id]


def test_what_is_old_and_what_is_too_much_goes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "ROWS_MAX", 10)
    now = time.time()
    old = [replace(row(), time=now - (file_module.DAYS_MAX + 1) * 86_400) for _ in range(5)]
    new = [replace(row(), time=now - number) for number in range(20)]
    write(path, *old, *new)
    assert {one.row.id for one in read(path)} == {one.id for one in new[:10]}


def test_the_latest_automatic_suggestions_of_a_model_are_found(path: Path) -> None:
    now = time.time()
    rows = [replace(row(model=name), time=now - at) for at in range(6) for name in ("one", "two")]
    file = StatisticsFile(path)
    file.write([*rows, row(model="one", automatic=False)], [])
    latest = file.latest("one", 4)
    assert [one.row.id for one in latest] == [one.id for one in rows if one.model == "one"][:4]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("python", "python"),
        ("c++", "c++"),
        ("objective-c", "objective-c"),
        ("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("", OTHER),
        ("/home/me/secret.py", OTHER),
        ("two words", OTHER),
        ("x" * 41, OTHER),
        ("line\n", OTHER),
    ],
)
def test_a_name_is_one_plain_word_or_other(text: str, word: str) -> None:
    assert plain_word(text) == word
