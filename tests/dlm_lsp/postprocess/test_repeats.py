"""A line with endless repetition is cut; a line with only similar parts is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.postprocess.repeats import Runaway, runaway

lines = st.lists(
    st.tuples(st.sampled_from(["ab", "self.name, ", "a b c d ", "-", "x", "12345678"]),
              st.integers(1, 9)),
    max_size=4,
).map(lambda parts: "".join(unit * copies for unit, copies in parts))  # fmt: skip


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("x = " + "self.name, " * 3, 3 + 22),
        ("x = " + "self.name, " * 9, 3 + 22),
        ("ab" * 8, 14),
        ("return " + "the end of " * 3 + "it", 6 + 22),
    ],
)
def test_the_copy_that_is_one_too_many_is_found(line: str, start: int) -> None:
    assert runaway(line) == Runaway(start, is_whole=True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# " + "-" * 70,
        "=" * 70,
        " " * 70,
        "self.left, self.right = self.left + 1, self.right + 1",
        "assert first == second and first == third",
        "0, 0, 0, 0, 0, 0",
        "matrix = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
        'open("a"), open("b"), open("c"), open("d"), open("e")',
    ],
)
def test_ordinary_lines_are_left_alone(line: str) -> None:
    found = runaway(line)
    assert found is None or not found.is_whole


def test_what_may_become_one_copy_too_many_is_known_from_its_first_character() -> None:
    line = "self.name, self.name, s"
    assert runaway(line) == Runaway(22, is_whole=False)
    assert runaway(line[:-1]) is None


@given(lines, lines)
def test_what_follows_never_moves_a_cut(line: str, more: str) -> None:
    found = runaway(line)
    longer = runaway(line + more)
    if found is not None and found.is_whole:
        assert longer == found
    elif longer is not None and longer.is_whole and longer.start < len(line):
        assert found is not None
        assert found.start <= longer.start


def test_a_long_line_takes_no_long_time() -> None:
    """Every place is checked once for every period, which limits the work."""
    assert runaway("abcdefgh1, " * 2 + "".join(chr(200 + i) for i in range(5000))) is None
