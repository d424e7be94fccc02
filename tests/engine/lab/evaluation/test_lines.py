"""Whole problems become holes of lines: every line once, nothing lost, and they can be filled."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.lab.evaluation.baselines import FrequentLines, previous_line
from engine.lab.evaluation.lines import INFILLINGS, Infilling, cut_lines
from engine.lab.evaluation.sandbox import check_isolation, run_program
from engine.lab.evaluation.suites import Task, read_suites, sample
from tests.engine.lab.evaluation.problems import MULTI_LINES, PROBLEMS, SINGLE_LINES

SOLUTIONS = st.text(alphabet="ab \n\r\x0c\u2028", max_size=40)
SINGLE, MULTI, BODY = INFILLINGS


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


def read(path: Path, infilling: Infilling = SINGLE) -> list[Task]:
    return read_suites(path, (infilling,))[f"{path.name} {infilling}"]


@given(SOLUTIONS)
def test_every_hole_joins_to_the_solution_and_holds_whole_lines(solution: str) -> None:
    for infilling in INFILLINGS:
        holes = cut_lines(solution, infilling)
        assert len({hole.name for hole in holes}) == len(holes)
        for hole in holes:
            assert hole.before + hole.hole + hole.after == solution
            assert not hole.before or hole.before.endswith("\n")
            assert hole.hole.endswith("\n") or not hole.after
            lines = hole.hole.removesuffix("\n").split("\n")
            assert lines[0].strip()
            assert lines[-1].strip()


@given(SOLUTIONS)
def test_names_count_lines_and_every_one_has_its_hole(solution: str) -> None:
    lines = solution.split("\n")
    chosen = [index for index, line in enumerate(lines) if line.strip()]
    singles = cut_lines(solution, SINGLE)
    assert [hole.name for hole in singles] == [f"L{index}" for index in chosen]
    assert [hole.hole.removesuffix("\n") for hole in singles] == [lines[i] for i in chosen]
    bodies = cut_lines(solution, BODY)
    assert [hole.name for hole in bodies] == ([f"L{chosen[0]}_L{chosen[-1]}"] if chosen else [])
    assert all((hole.before + hole.after).strip() == "" for hole in bodies)
    multis = cut_lines(solution, MULTI)
    assert len(multis) == len(chosen) * (len(chosen) + 1) // 2
    for hole in multis:
        match = re.fullmatch(r"L(\d+)_L(\d+)", hole.name)
        assert match is not None
        first, last = int(match[1]), int(match[2])
        assert hole.hole.removesuffix("\n").split("\n") == lines[first : last + 1]


@pytest.mark.parametrize(("infilling", "count"), [(SINGLE, SINGLE_LINES), (MULTI, MULTI_LINES)])
def test_problems_become_tasks_with_published_names(
    infilling: Infilling, count: int, problems: Path
) -> None:
    tasks = read(problems, infilling)
    assert len(tasks) == len({task.id for task in tasks}) == count
    kind = {"single-line": "SingleLineInfilling", "multi-line": "MultiLineInfilling"}[infilling]
    rows = {row["task_id"]: row for row in PROBLEMS}
    for task in tasks:
        row = rows[task.id.removeprefix(f"{kind}/").rpartition("/")[0]]
        whole = row["prompt"] + row["canonical_solution"]
        assert task.prefix + task.reference + task.suffix == whole
        assert task.prefix.startswith(row["prompt"])
        assert (task.kind, task.ends_line) == (kind, True)
        assert task.tests is not None
        assert task.tests.endswith(f"check({row['entry_point']})\n")
    names = [task.id.rpartition("/")[2] for task in tasks if "/Own/2/" in task.id]
    singles, multis = ["L1", "L2", "L4"], ["L1_L1", "L1_L2", "L1_L4", "L2_L2", "L2_L4", "L4_L4"]
    assert names == (singles if infilling == SINGLE else multis)


def test_infillings_are_suites_of_their_own(problems: Path) -> None:
    suites = read_suites(problems, INFILLINGS)
    assert list(suites) == [f"own.jsonl {infilling}" for infilling in INFILLINGS]
    assert list(read_suites(problems)) == ["own.jsonl single-line"]
    assert all(task.suite == suite for suite, tasks in suites.items() for task in tasks)


def test_canonical_lines_pass_and_empty_ones_mostly_fail(problems: Path) -> None:
    try:
        check_isolation()
    except ConfigError as error:
        pytest.skip(str(error))
    tasks = read(problems)
    for task in tasks:
        assert run_program(task.program(task.reference)).passed, task.id
    assert not [task.id for task in tasks if run_program(task.program("")).passed]
    for task in read(problems, MULTI)[::4]:
        assert run_program(task.program(task.reference)).passed, task.id


def edited(row: int, **changes: object) -> str:
    rows = [dict[str, object](each) for each in PROBLEMS]
    for name, value in changes.items():
        if value is None:
            del rows[row][name]
        else:
            rows[row][name] = value
    return "".join(json.dumps(each) + "\n" for each in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited(0, test=None), "row 1: test is missing.*task_id, prompt, entry_point"),
        (edited(2, test=None), "row 3: test is missing"),
        (edited(1, canonical_solution=7), "row 2: canonical_solution is not a text"),
        (edited(1, canonical_solution=" \n\n"), "row 2: canonical_solution has no lines"),
        (edited(3, entry_point="a b"), "row 4: entry_point is 'a b'"),
        (edited(2, suffix="x"), "row 3 has a suffix, and the first row has none"),
        (edited(1, task_id="Own/0"), "row 2: the task 'Own/0' stands there twice"),
        (edited(0, suffix="x"), "row 2: suffix is missing"),
    ],
)
def test_broken_problems_are_refused_by_row(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_suites(tmp_path / "x.jsonl")


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 9))
def test_a_sample_has_one_task_of_every_stretch(size: int, count: int, seed: int) -> None:
    tasks = [Task("s", str(number), "k", "", "", "") for number in range(size)]
    chosen = sample(tasks, count, seed)
    assert chosen == sample(tasks, count, seed)
    if count >= size:
        assert chosen == tasks
        return
    places = [int(task.id) for task in chosen]
    assert len(places) == count
    edges = [index * size // count for index in range(count + 1)]
    assert all(low <= p < high for p, (low, high) in zip(places, pairwise(edges), strict=True))


def test_samples_differ_by_seed_and_all_is_all() -> None:
    tasks = [Task("s", str(number), "k", "", "", "") for number in range(1000)]
    assert sample(tasks, 60, 7) != sample(tasks, 60, 8)
    assert sample(tasks, None, 7) == tasks


def test_baselines_write_whole_lines_where_holes_are(problems: Path) -> None:
    by_name = {task.id.partition("/")[2]: task for task in read(problems)}
    assert previous_line(by_name["Own/0/L3"]) == "    for number in numbers:\n"
    assert previous_line(by_name["Own/1/L0"]) == '    """In capitals, with a mark."""\n'
    frequent = FrequentLines(by_name.values())
    line = frequent.complete(by_name["Own/0/L3"])
    assert line.startswith("    ")
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line.strip()
