"""Tasks from files in the public formats and from held-out sources, and what runs of them keep."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.lab.data import examples
from engine.lab.data.corpus import Source
from engine.lab.data.holes import BLOCK_LINES_MAX, KINDS, draw_holes
from engine.lab.evaluation import suites
from engine.lab.evaluation.baselines import FrequentLines, previous_line
from engine.lab.evaluation.parquet import read_parquet
from engine.lab.evaluation.records import RECORDS, Record, Records, ReplayRecord
from engine.lab.evaluation.sandbox import check_isolation, run_program
from engine.lab.evaluation.suites import Task, digest, held_out_sources, hole_tasks, read_suites

HUMAN_EVAL = [
    {
        "task_id": f"SingleLineInfilling/Own/{name}/L0",
        "entry_point": name,
        "prompt": f"def {name}(a, b):\n",
        "canonical_solution": f"    c = {expression}\n",
        "suffix": "    return c\n",
        "test": f"def check(candidate):\n    assert candidate(6, 3) == {result}\n",
    }
    for name, expression, result in (
        *(("add", "a + b", 9), ("divide", "a // b", 2), ("largest", "max(a, b)", 6)),
    )
]
SANTACODER = [
    {
        "name": "triple",
        "language": "py",
        "prompt": "def triple(x):\n    return ",
        "canonical_solution": "3 * x",
        "suffix": "\n",
        "tests": "assert triple(2) == 6",
    },
    {
        "name": "triple",
        "language": "js",
        "prompt": "function triple(x) { return ",
        "canonical_solution": "3 * x",
        "suffix": "; }\n",
        "tests": "assert.deepEqual(triple(2), 6)",
    },
]
CODE = Path(examples.__file__).read_text("utf-8")
SOURCES = [
    Source(package="one", path="a.py", text=CODE),
    Source(package="two", path="b.py", text=CODE.replace("Pieces", "Parts")),
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(text)
    return path


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file with one suite."""
    return read_suites(path)[path.name]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_every_container_gives_the_same_tasks(name: str, tmp_path: Path) -> None:
    tasks = read_tasks(write(tmp_path / name, HUMAN_EVAL))
    assert [task.id for task in tasks] == [row["task_id"] for row in HUMAN_EVAL]
    assert {task.kind for task in tasks} == {"SingleLineInfilling"}
    assert [task.suite for task in tasks] == [name] * 3
    assert all(task.ends_line for task in tasks)
    plain = read_tasks(write(tmp_path / "y.jsonl", HUMAN_EVAL))
    assert [(task.prefix, task.suffix, task.reference) for task in tasks] == [
        (task.prefix, task.suffix, task.reference) for task in plain
    ]


def test_canonical_solutions_pass_and_others_fail(tmp_path: Path) -> None:
    try:
        check_isolation()
    except ConfigError as error:
        pytest.skip(str(error))
    human_eval = read_tasks(write(tmp_path / "h.jsonl", HUMAN_EVAL))
    santacoder = read_tasks(write(tmp_path / "s.jsonl", SANTACODER))
    assert [task.tests is None for task in santacoder] == [False, True]  # JavaScript is not run
    assert not any(task.ends_line for task in santacoder)
    for task in (*human_eval, santacoder[0]):
        assert run_program(task.program(task.reference)).passed, task.id
        wrong = task.reference.replace("+", "-").replace("//", "/ 7 //").replace("max", "min")
        wrong = wrong.replace("3 * x", "x")
        assert run_program(task.program(wrong)).reason == "AssertionError", task.id
    leave = human_eval[0].program("    c = 0\nimport sys\nsys.exit(0)\ndef rest(c):\n")
    assert not run_program(leave).passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no tasks"),
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"prompt": "a"}', "row 1: suffix is missing.* Rows have"),
        (json.dumps({**SANTACODER[0], "suffix": 3}), "suffix is not a text"),
        (json.dumps({**HUMAN_EVAL[0], "entry_point": "f)\nx("}), "entry_point is"),
        ("\n".join([json.dumps(HUMAN_EVAL[0])] * 2), "stands there twice"),
    ],
)
def test_a_malformed_file_is_refused_by_row(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tasks(tmp_path / "x.jsonl")


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.jsonl.gz", "x.parquet"):
        (tmp_path / name).write_bytes(b"no")
        with pytest.raises(ConfigError, match=f"{name} (cannot be read|is not a parquet)"):
            read_tasks(tmp_path / name)
    for name in ("none.jsonl", "x.csv"):
        with pytest.raises(ConfigError, match=name):
            read_tasks(tmp_path / name)
    monkeypatch.setattr("engine.lab.evaluation.parquet._parquet", None)
    with pytest.raises(ConfigError, match=r"dlm-lsp\[eval\]"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_holes_of_every_kind_are_cut_from_their_file() -> None:
    holes = draw_holes(SOURCES, 20)
    assert [hole.kind for hole in holes] == [kind for kind in KINDS for _ in range(20)]
    assert draw_holes(SOURCES, 20) == holes
    assert draw_holes(SOURCES, 20, seed=8) != holes
    for hole in holes:
        pieces = hole.pieces
        text = pieces.prefix + pieces.middle + pieces.near + pieces.far
        assert text in {source.text for source in SOURCES}
        lines = pieces.middle.split("\n")
        if hole.kind == "block":
            assert 2 <= len(lines) <= BLOCK_LINES_MAX
            margin = len(pieces.prefix.rsplit("\n", 1)[-1])
            following = (pieces.near + pieces.far).lstrip("\n").split("\n")[0]
            above = pieces.prefix.rstrip().rsplit("\n", 1)[-1]
            for outside in (following, above):
                assert len(outside) - len(outside.lstrip()) < margin or not outside
            for line in lines[1:]:
                assert not line.strip() or len(line) - len(line.lstrip()) >= margin
        elif hole.kind == "multi_line":
            assert len(lines) <= 10
        else:
            assert len(lines) == 1
    assert max(h.pieces.middle.count("\n") for h in holes if h.kind == "multi_line") > 3


def test_packages_without_holes_of_a_kind_are_passed_over() -> None:
    flat = Source(package="flat", path="c.py", text="first line\n" * 30)
    blocks = {"block": KINDS["block"]}
    assert draw_holes([*SOURCES, flat], 6, kinds=blocks) == draw_holes(
        [flat, *SOURCES], 6, kinds=blocks
    )
    assert {hole.source[:3] for hole in draw_holes([*SOURCES, flat], 6)} >= {"one", "two", "fla"}
    for sources in ([flat], []):
        with pytest.raises(ConfigError, match="no holes of the kind"):
            draw_holes(sources, 1, kinds=blocks)


def test_hole_tasks_have_ids_of_their_own_and_a_digest_that_notices() -> None:
    tasks = hole_tasks(SOURCES, 5, seed=7)
    assert len({task.id for task in tasks}) == len(tasks) == 5 * len(KINDS)
    assert all(task.tests is None for task in tasks)
    assert digest(tasks) == digest(hole_tasks(SOURCES, 5, seed=7))
    assert digest(tasks) != digest(tasks[:-1])


def test_held_out_files_are_those_of_the_corpus_or_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(roots: object, folder: Path) -> None:
        row = {"package": "one", "path": "a.py", "text": "x"}
        (folder / "held_out.jsonl").write_text(json.dumps(row) + "\n")

    with pytest.raises(ConfigError, match="holds no held_out"):
        held_out_sources(tmp_path, None)
    monkeypatch.setattr(suites, "build_corpus", build)
    first = held_out_sources(None, tmp_path / "out")
    monkeypatch.setattr(suites, "build_corpus", None)  # what was found once is kept
    assert held_out_sources(None, tmp_path / "out") == first
    assert held_out_sources(tmp_path / "out", None) == first


def task(prefix: str, suffix: str = "\n", reference: str = "") -> Task:
    return Task("s", prefix, "k", prefix, suffix, reference)


def test_baselines_repeat_and_count_lines() -> None:
    above = "import os\n    self.name = name\n    self.size = size\n"
    assert previous_line(task(above + "    ")) == "self.size = size"
    assert previous_line(task(above + "    self.na")) == "me = name"
    assert previous_line(task(above + "    zzz")) == "self.size = size"
    assert previous_line(task("")) == ""
    tasks = [
        task("return x\nreturn y\npass\n    "),
        task("return y\n", "\nreturn y2\n  pass\npass"),
    ]
    frequent = FrequentLines(tasks)
    assert frequent.complete(task("    ")) == "pass"
    assert frequent.complete(task("  return ")) == "y"
    assert frequent.complete(task("zzz")) == ""
    assert FrequentLines([]).complete(task("")) == ""


def test_a_baseline_does_not_look_into_the_hole_through_another_task() -> None:
    """Two holes of one file: each one's text stands in the other's context."""
    first = task("a = 1\n", "\nsecond = 2\n", reference="first = 1")
    second = task("a = 1\nfirst = 1\n", "\n", reference="second = 2")
    other = task("a = 1\nb = 2\n", "\n", reference="c = 2")
    frequent = FrequentLines([first, second, other])
    assert frequent.complete(first) in ("a = 1", "b = 2", "c = 2")
    half = task("a = 1\nfir", "\nsecond = 2\n", reference="st = 1")
    assert frequent.complete(half) == ""
    assert frequent.complete(task("new\nfir", "", reference="m")) == "st = 1"


RECORD = Record(
    *("holes", "1", "ar", "line", "0-3 words", "é\ud800", True, True, 1.0, False, True, None)
)
REPLAY = ReplayRecord("replay", "a", "ar", 1, 1, 0, 0, 0, 1, 3, 4, 0, 0, (1.5,))


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    records = Records(tmp_path / "new" / "out", {"seed": 7})
    assert not records.has("holes", "1", "ar")
    records.add(RECORD)
    records.add(REPLAY)
    with (tmp_path / "new" / "out" / RECORDS).open("a") as file:
        file.write('{"record": "task", "sui')  # killed while it wrote
    again = Records(tmp_path / "new" / "out", {"seed": 7})
    assert again.all == records.all
    assert again.has("holes", "1", "ar")
    assert not again.has("holes", "1", "block")
    again.add(Record(**{**_fields(RECORD), "mode": "block"}))
    third = Records(tmp_path / "new" / "out", {"seed": 7})
    assert len(third.all) == 3
    assert third.all == again.all


def test_other_arguments_are_refused_by_name(tmp_path: Path) -> None:
    Records(tmp_path, {"seed": 7, "suites": ("a",)})
    Records(tmp_path, {"seed": 7, "suites": ["a"]})
    with pytest.raises(ConfigError, match=r"seed was 7, now it is 8.*another --out"):
        Records(tmp_path, {"seed": 8, "suites": ["a"]})


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    Records(tmp_path, {})
    (tmp_path / RECORDS).write_text('{"record": "task"}\n')
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        Records(tmp_path, {})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        Records(tmp_path, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        Records(tmp_path / "file" / "out", {})


def test_what_is_known_of_a_task_is_found_again(tmp_path: Path) -> None:
    records = Records(tmp_path, {})
    other = Record(**{**_fields(RECORD), "mode": "auto", "took": "copy_spec"})  # type: ignore[arg-type]
    for record in (RECORD, other, REPLAY):
        records.add(record)
    assert records.of_task("holes", "1") == [RECORD, other]
    assert Records(tmp_path, {}).of_task("holes", "1") == [RECORD, other]
    assert records.of_task("holes", "2") == []


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = Records(None, {})
    records.add(RECORD)
    assert records.has("holes", "1", "ar")
    assert not list(tmp_path.iterdir())


def _fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}
