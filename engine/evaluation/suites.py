"""Tasks of infilling suites: held-out holes, and files in the public fill-in-the-middle formats.

    HumanEval-Infilling (Bavarian et al., arXiv 2207.14255): task_id, entry_point, prompt, suffix,
        canonical_solution, test; the program ends with a call of check(entry_point)
    SantaCoder-FIM (Ben Allal et al., arXiv 2301.03988): prompt, suffix, canonical_solution, tests,
        and language, of which only Python is run

Reads local files only and downloads nothing. Knows neither models nor how a task is judged.
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
from pathlib import Path

from engine.errors import ConfigError
from engine.evaluation.holes import Hole, draw_holes
from engine.evaluation.parquet import read_parquet
from engine.training.corpus import HELD, Source, build_corpus, default_roots, read_sources

HOLES = "holes"
_HELD_FILE = f"{HELD}.jsonl"
_HUMAN_EVAL = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
_SANTACODER = ("prompt", "suffix", "canonical_solution", "tests")
_PYTHON = ("py", "python")


@dataclass(frozen=True, slots=True)
class Task:
    """One hole to fill.

    Attributes:
        id: unique in its suite.
        kind: what its figures are grouped by.
        reference: what stood in the hole.
        tests: what follows the completed text in a program that ends well only if the completion
            is right; None where there is nothing to run.
    """

    suite: str
    id: str
    kind: str
    prefix: str
    suffix: str
    reference: str
    tests: str | None = None

    def program(self, completion: str) -> str:
        """The Python program that judges a completion. Only for tasks with tests."""
        assert self.tests is not None
        return f"{self.prefix}{completion}{self.suffix}\n{self.tests}"


def hole_tasks(sources: Sequence[Source], per_kind: int, seed: int) -> list[Task]:
    """Held-out holes of every kind, the same for the same sources and seed."""
    holes = draw_holes(sources, per_kind, seed)
    return [_hole_task(number, hole) for number, hole in enumerate(holes)]


def held_out_sources(corpus: Path | None, out: Path | None) -> list[Source]:
    """The files of held-out packages: of a corpus made before, or of what is installed here.

    Args:
        corpus: a folder that `build_corpus` filled.
        out: the folder of a run, which keeps the files of its first time.

    Raises:
        ConfigError: there is no such corpus, or none can be made here.
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


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a .jsonl, .jsonl.gz or .parquet file, in its order.

    Raises:
        ConfigError: the file cannot be read, or holds a row of neither format; names the row.
    """
    tasks: list[Task] = []
    seen: set[str] = set()
    for number, row in enumerate(_rows(path), start=1):
        task = _task(path, number, row)
        if task.id in seen:
            raise ConfigError(
                f"{path}, row {number}: the task {task.id!r} stands there twice.",
                remedy="Remove one of them.",
                param="task_id",
            )
        seen.add(task.id)
        tasks.append(task)
    if not tasks:
        raise ConfigError(f"{path} holds no tasks.", remedy="Give another file.", param=str(path))
    return tasks


def digest(tasks: Sequence[Task]) -> str:
    """Hexadecimal; changes with anything in the tasks."""
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
    )


def _task(path: Path, number: int, row: Mapping[str, object]) -> Task:
    is_human_eval = all(name in row for name in _HUMAN_EVAL)
    names = _HUMAN_EVAL if is_human_eval else _SANTACODER
    fields: dict[str, str] = {}
    for name in names:
        value = row.get(name)
        if not isinstance(value, str):
            raise ConfigError(
                f"{path}, row {number}: {name} is {'not a text' if name in row else 'missing'}.",
                remedy=f"Rows have {', '.join(_HUMAN_EVAL)} or {', '.join(_SANTACODER)}.",
                param=name,
            )
        fields[name] = value
    if is_human_eval:
        tests = _human_eval_tests(path, number, fields)
        identity, kind = fields["task_id"], fields["task_id"].partition("/")[0]
    else:
        kind = str(row.get("language") or "python").lower()
        tests = fields["tests"] if kind in _PYTHON else None
        identity = str(row.get("task_id") or row.get("name") or number)
        identity = f"{identity} ({number})" if "task_id" not in row else identity
    return Task(
        suite=path.name,
        id=identity,
        kind=kind,
        prefix=fields["prompt"],
        suffix=fields["suffix"],
        reference=fields["canonical_solution"],
        tests=tests,
    )


def _human_eval_tests(path: Path, number: int, fields: Mapping[str, str]) -> str:
    entry = fields["entry_point"]
    if not entry.isidentifier():
        raise ConfigError(
            f"{path}, row {number}: entry_point is {entry!r}.",
            remedy="It is the name of the function under test.",
            param="entry_point",
        )
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
                f"{path} is no suite.",
                remedy='Give "holes", "replay" or a .jsonl, .jsonl.gz or .parquet file.',
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
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{path}, line {number} is not JSON: {error.msg}.",
                    remedy="One JSON object stands on each line.",
                    param=str(path),
                ) from None
            if not isinstance(row, dict):
                raise ConfigError(
                    f"{path}, line {number} is no JSON object.",
                    remedy="One JSON object stands on each line.",
                    param=str(path),
                )
            yield row
