"""Tasks of infilling suites: held-out holes, and files in public formats.

    HumanEval (Chen et al., arXiv 2107.03374): task_id, prompt, entry_point, canonical_solution,
        test; whole problems, of which lines become holes (`lines.py`)
    HumanEval-Infilling (Bavarian et al., arXiv 2207.14255): task_id, entry_point, prompt, suffix,
        canonical_solution, test; the program ends with a call of check(entry_point)
    SantaCoder-FIM (Ben Allal et al., arXiv 2301.03988): prompt, suffix, canonical_solution, tests,
        and language, of which only Python is run

Only local files are read; nothing is downloaded.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.lab.data.corpus import HELD, Source, build_corpus, default_roots, read_sources
from engine.lab.data.holes import Hole, draw_holes
from engine.lab.data.languages import PYTHON, language_of
from engine.lab.evaluation.lines import INFILLINGS, KINDS, Infilling, cut_lines
from engine.lab.evaluation.parquet import read_parquet

HOLES = "holes"
_HELD_FILE = f"{HELD}.jsonl"
_HUMAN_EVAL = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
_PROBLEM = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_SANTACODER = ("prompt", "suffix", "canonical_solution", "tests")
_PYTHON = ("py", "python")


@dataclass(frozen=True, slots=True)
class Task:
    """One hole to fill.

    Attributes:
        id: unique in its suite.
        kind: the group of its figures.
        reference: what stood in the hole.
        tests: the code after the completed text in a program that passes only if the completion is
            right; None if there is nothing to run.
        language: the name that the corpus uses, mostly that of editors too.
        ends_line: whether holes of this kind end after a line break.
    """

    suite: str
    id: str
    kind: str
    prefix: str
    suffix: str
    reference: str
    tests: str | None = None
    ends_line: bool = False
    language: str = PYTHON

    def program(self, completion: str) -> str:
        """The Python program that judges a completion, for tasks with tests."""
        assert self.tests is not None
        return f"{self.prefix}{completion}{self.suffix}\n{self.tests}"


def hole_tasks(sources: Sequence[Source], per_kind: int, seed: int) -> list[Task]:
    """Held-out holes of every kind, the same for the same sources and seed."""
    holes = draw_holes(sources, per_kind, seed)
    return [_hole_task(number, hole) for number, hole in enumerate(holes)]


def held_out_sources(corpus: Path | None, out: Path | None) -> list[Source]:
    """The files of held-out packages, from a corpus or from the installed packages.

    Args:
        corpus: a folder that `build_corpus` wrote.
        out: the folder of a run, in which the files of the first run are kept.

    Raises:
        ConfigError: There is no such corpus, or none can be built.
    """
    kept = [folder for folder in (corpus, out) if folder and (folder / _HELD_FILE).exists()]
    if kept:
        return read_sources(kept[0], HELD)
    if corpus is not None:
        raise ConfigError(
            f"{corpus} holds no {_HELD_FILE}.",
            remedy="Give the corpus folder of a training run, or leave --corpus out.",
            param="corpus",
        )
    with tempfile.TemporaryDirectory(prefix="dlm-eval-") as folder:
        build_corpus(default_roots(), Path(folder))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder, _HELD_FILE), out / _HELD_FILE)
        return read_sources(Path(folder), HELD)


def read_suites(path: Path, infillings: Sequence[Infilling] = ()) -> dict[str, list[Task]]:
    """The tasks of a .jsonl, .jsonl.gz or .parquet file, in its order, by the name of their suite.

    Args:
        infillings: the kinds of holes that become suites of HumanEval's problems; single lines if
            empty.

    Raises:
        ConfigError: The file cannot be read, or a row has another format than the first one.
    """
    rows = list(_rows(path))
    if not rows:
        raise ConfigError(f"{path} holds no tasks.", remedy="Give another file.", param=str(path))
    if is_problem(rows[0]):
        return {
            (suite := f"{path.name} {infilling}"): _problem_tasks(path, suite, rows, infilling)
            for infilling in infillings or INFILLINGS[:1]
        }
    tasks = [_task(path, number, row) for number, row in enumerate(rows, start=1)]
    _check_ids(path, [(number, task.id) for number, task in enumerate(tasks, start=1)])
    return {path.name: tasks}


def is_problem(row: Mapping[str, object]) -> bool:
    """Whether a row looks like a whole problem of HumanEval."""
    return "entry_point" in row and "suffix" not in row


def sample(tasks: Sequence[Task], count: int | None, seed: int) -> list[Task]:
    """At most `count` of the tasks, in their order: a random one of each of `count` equal parts, so
    that every problem and length has its share. The same for the same seed."""
    if count is None or count >= len(tasks):
        return list(tasks)
    rng = np.random.default_rng([seed, len(tasks)])
    edges = [index * len(tasks) // count for index in range(count + 1)]
    return [tasks[int(rng.integers(low, high))] for low, high in pairwise(edges)]


def digest(tasks: Sequence[Task]) -> str:
    """A hexadecimal hash of everything in the tasks."""
    return sha256(repr(tasks).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _hole_task(number: int, hole: Hole) -> Task:
    pieces = hole.pieces
    return Task(
        suite=HOLES,
        id=f"{number} {hole.source}",
        kind=hole.kind,
        prefix=pieces.prefix,
        suffix=pieces.near + pieces.far,
        reference=pieces.middle,
        language=language_of(hole.source.rpartition(":")[0]) or PYTHON,
    )


def _problem_tasks(
    path: Path, suite: str, rows: Sequence[Mapping[str, object]], infilling: Infilling
) -> list[Task]:
    """The holes of whole problems. Raises ConfigError."""
    kind = KINDS[infilling]
    tasks: list[Task] = []
    names: list[tuple[int, str]] = []
    for number, row in enumerate(rows, start=1):
        if "suffix" in row:
            what = " has a suffix, and the first row has none."
            raise _wrong(
                path, number, what, "suffix", "Put problems and holes into separate files."
            )
        fields = _fields(path, number, row, _PROBLEM)
        tests = _human_eval_tests(path, number, fields)
        holes = cut_lines(fields["canonical_solution"], infilling)
        if not holes:
            what = ": canonical_solution has no lines."
            raise _wrong(path, number, what, "canonical_solution", "Holes are made of its lines.")
        names.append((number, fields["task_id"]))
        tasks += [
            Task(
                suite=suite,
                id=f"{kind}/{fields['task_id']}/{hole.name}",
                kind=kind,
                prefix=fields["prompt"] + hole.before,
                suffix=hole.after,
                reference=hole.hole,
                tests=tests,
                ends_line=hole.hole.endswith("\n"),
            )
            for hole in holes
        ]
    _check_ids(path, names)
    return tasks


def _check_ids(path: Path, names: Sequence[tuple[int, str]]) -> None:
    """Raises ConfigError if two rows have the same name."""
    seen: set[str] = set()
    for number, name in names:
        if name in seen:
            what = f": the task {name!r} stands there twice."
            raise _wrong(path, number, what, "task_id", "Remove one of them.")
        seen.add(name)


def _task(path: Path, number: int, row: Mapping[str, object]) -> Task:
    is_human_eval = all(name in row for name in _HUMAN_EVAL)
    fields = _fields(path, number, row, _HUMAN_EVAL if is_human_eval else _SANTACODER)
    if is_human_eval:
        tests = _human_eval_tests(path, number, fields)
        identity, kind = fields["task_id"], fields["task_id"].partition("/")[0]
    else:
        kind = str(row.get("language") or "python").lower()
        tests = fields["tests"] if kind in _PYTHON else None
        identity = str(row.get("task_id") or row.get("name") or number)
        identity = f"{identity} ({number})" if "task_id" not in row else identity
    reference = fields["canonical_solution"]
    return Task(
        suite=path.name,
        id=identity,
        kind=kind,
        prefix=fields["prompt"],
        suffix=fields["suffix"],
        reference=reference,
        tests=tests,
        ends_line=kind in KINDS.values() and reference.endswith("\n"),
    )


def _fields(
    path: Path, number: int, row: Mapping[str, object], names: Sequence[str]
) -> dict[str, str]:
    """These fields of a row. Raises ConfigError if one is missing or not a text."""
    fields: dict[str, str] = {}
    for name in names:
        value = row.get(name)
        if not isinstance(value, str):
            formats = "; or ".join(", ".join(each) for each in (_PROBLEM, _HUMAN_EVAL, _SANTACODER))
            what = f": {name} is {'not a text' if name in row else 'missing'}."
            raise _wrong(path, number, what, name, f"Rows have {formats}.")
        fields[name] = value
    return fields


def _wrong(path: Path, number: int, what: str, param: str, remedy: str) -> ConfigError:
    """The error of a row; `what` follows the words "row NUMBER"."""
    return ConfigError(f"{path}, row {number}{what}", remedy=remedy, param=param)


def _human_eval_tests(path: Path, number: int, fields: Mapping[str, str]) -> str:
    entry = fields["entry_point"]
    if not entry.isidentifier():
        what = f": entry_point is {entry!r}."
        raise _wrong(path, number, what, "entry_point", "Give the name of the function under test.")
    return f"{fields['test']}\ncheck({entry})\n"


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    """The rows of a file. Raises ConfigError."""
    try:
        if path.suffix == ".parquet":
            yield from read_parquet(path)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_rows(path)
        else:
            raise ConfigError(
                f"{path} is not a suite.",
                remedy='Give "holes", "replay" or a .jsonl, .jsonl.gz or .parquet file; with ":60" '
                "after it a sample of 60.",
                param="suite",
            )
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}.", remedy="Give another file.", param="suite"
        ) from None


def _json_rows(path: Path) -> Iterator[Mapping[str, object]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row: Any = None
            try:
                row = json.loads(line)
                fault = "" if isinstance(row, dict) else "is not a JSON object"
            except json.JSONDecodeError as error:
                fault = f"is not JSON: {error.msg}"
            if fault:
                raise ConfigError(
                    f"{path}, line {number} {fault}.",
                    remedy="Each line holds one JSON object.",
                    param=str(path),
                )
            yield row
