"""FILE:LINE:COL: all forms, all places of a file, and the errors' remedies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.cli.place import (
    FILE_BYTES_MAX,
    FilePlace,
    PlaceError,
    language_of,
    open_place,
    to_place,
)


@given(
    st.text(st.characters(exclude_characters="\0"), min_size=1),
    st.integers(1, 10**8),
    st.integers(1, 10**8),
)
def test_to_place_reads_any_name_from_the_right(name: str, line: int, column: int):
    assert to_place(f"{name}:{line}:{column}") == FilePlace(Path(name), line, column)


@pytest.mark.parametrize("argument", ["C:\\dir\\app.py:12:5", "odd:name:1:2.py:3:4", ":1:1:1:1"])
def test_to_place_leaves_colons_in_the_name(argument: str):
    path, line, column = argument.rsplit(":", 2)
    assert to_place(argument) == FilePlace(Path(path), int(line), int(column))


@pytest.mark.parametrize(
    "argument",
    ["", "app.py", "app.py:12", "app.py:x:1", "app.py:1:", ":1:1", "app.py:-1:2", "a.py:１:1",
     "app.py:1:" + "9" * 5000],
)  # fmt: skip
def test_to_place_refuses_with_the_right_spelling(argument: str):
    with pytest.raises(PlaceError, match="FILE:LINE:COL"):
        to_place(argument)


@pytest.mark.parametrize("argument", ["app.py:0:1", "app.py:1:0"])
def test_to_place_refuses_zero(argument: str):
    with pytest.raises(PlaceError, match="count from 1"):
        to_place(argument)


@pytest.mark.parametrize("text", ["", "x", "ab\ncd\n", "a\r\nb\r\n", "é🙂x\ny", "\ufeffab\ncd"])
def test_open_place_finds_every_place_and_no_other(tmp_path: Path, text: str):
    file = tmp_path / "app.py"
    file.write_bytes(text.encode())
    shown = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(shown, 1):
        for column in range(1, len(line) + 2):
            document, offset = open_place(FilePlace(file, number, column))
            before = document.text[:offset].replace("\r\n", "\n").split("\n")
            assert before[:-1] == shown[: number - 1]
            assert before[-1] == line[: column - 1]
        with pytest.raises(PlaceError, match=f"column from 1 to {len(line) + 1}"):
            open_place(FilePlace(file, number, len(line) + 2))
    with pytest.raises(PlaceError, match=f"has {len(shown)} lines"):
        open_place(FilePlace(file, len(shown) + 1, 1))


def test_open_place_names_what_cannot_be_read(tmp_path: Path):
    binary = tmp_path / "a.bin"
    binary.write_bytes(b"ok\n\xff\xfe")
    big = tmp_path / "big.py"
    with big.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.py", "No such file"),
        (binary, r"not UTF-8 text \(line 2\)"),
        (big, "larger than 64 MiB"),
        (pipe, "no ordinary file"),
    ):
        with pytest.raises(PlaceError, match=reason) as caught:
            open_place(FilePlace(path, 1, 1))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.py", "python"), ("A.PY", "python"), ("x.rs", "rust"), ("LICENSE", "plaintext")],
)  # fmt: skip
def test_language_of_a_file_is_the_editors_name(name: str, language: str):
    assert language_of(Path(name)) == language
