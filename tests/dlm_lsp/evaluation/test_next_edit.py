"""The cases by which next edits are measured: what is typed, and what is right after it."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from dlm_lsp.evaluation.next_edit import (
    Case,
    Function,
    argument_case,
    comment_case,
    functions_in,
    other_case,
    renaming_cases,
    typed,
)

TEXT = '''"""Sums."""


def mean(values, start):
    result = start  # é
    for one in values:
        result += one
    print(result)
    return result / len(values)


print(mean([1], 2))
'''


@pytest.fixture
def function(tmp_path: Path) -> Function:
    (tmp_path / "mean.py").write_text(TEXT, "utf-8")
    (found,) = functions_in(tmp_path / "mean.py")
    return found


def by_kind(function: Function, seed: int) -> dict[str, Case]:
    return {case.kind: case for case in renaming_cases(function, random.Random(seed))}


@pytest.mark.parametrize("seed", range(8))
def test_a_name_is_replaced_in_one_line_in_all_but_one_and_in_all(
    function: Function, seed: int
) -> None:
    cases = by_kind(function, seed)
    assert set(cases) == {"first", "last", "all"}
    renamed = TEXT.replace("result", "outcome")
    first, recent, cursor = typed(cases["first"])
    assert first.text.count("outcome") == 1
    assert first.text[:cursor].endswith("outcome")
    assert recent.of(first.uri)
    assert {text.count("outcome") for text in cases["first"].wanted} == {2}
    assert len(cases["first"].wanted) == 3
    last, recent, _ = typed(cases["last"])
    assert last.text.count("result") == 1
    assert cases["last"].wanted == {renamed}
    assert len(recent.of(last.uri)) == 3
    assert typed(cases["all"])[0].text == renamed
    assert cases["all"].wanted == frozenset()
    for case in cases.values():
        ast.parse(typed(case)[0].text)


def test_another_variable_takes_the_place_of_one_in_one_line(function: Function) -> None:
    case = other_case(function, random.Random(1))
    assert case is not None
    document, _, _ = typed(case)
    before, after = TEXT.splitlines(), document.text.splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert case.wanted == frozenset()


def test_a_comment_is_typed_above_a_statement(function: Function) -> None:
    case = comment_case(function, random.Random(1))
    assert case is not None
    document, _, _ = typed(case)
    assert ast.dump(ast.parse(document.text)) == ast.dump(ast.parse(TEXT))
    assert len(document.text.splitlines()) == len(TEXT.splitlines()) + 1


def test_a_parameter_is_typed_whose_argument_the_call_lacks(function: Function) -> None:
    case = argument_case(function)
    assert case is not None
    document, _, cursor = typed(case)
    assert "def mean(values, start):" in document.text
    assert "print(mean([1]))" in document.text
    assert document.text[:cursor].endswith("values, start")
    assert case.wanted == {TEXT}


def test_a_name_that_is_also_a_keyword_or_a_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TEXT.replace("print(result)", "print('result', result)"))
    (tmp_path / "b.py").write_text(TEXT.replace("print(result)", "f(result=result)"))
    (tmp_path / "c.py").write_text(TEXT + "\x0c")
    for name in ("a.py", "b.py", "c.py"):
        for function in functions_in(tmp_path / name):
            assert by_kind(function, 1) == {}
