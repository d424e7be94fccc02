"""Graphs on disk: a graph is built once, never used half-written, replaced together with its
checkpoint and rebuilt when it is damaged, and a temporary one serves a folder that is read-only."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from filelock import FileLock

import engine.model.onnx.prepared as prepared
from engine.config import EngineSettings
from engine.device import resolve
from engine.errors import CheckpointError, MemoryExhausted
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.prepared import FORMAT, available_graph, graph_of, graphs_folder, prepare
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.onnx.sessions import open_session
from engine.model.onnx.writer import DATA_FILE, GRAPH_FILE
from engine.model.source import CheckpointSource, open_checkpoint

PLAN = GraphPlan("float32", half_cache=False)
BUILD = """
import sys, time
from pathlib import Path
import engine.model.onnx.prepared as prepared
from engine.model.source import open_checkpoint
from engine.model.onnx.plan import GraphPlan

write = prepared.write_graph
def slowly(*args):
    print("built", flush=True)
    write(*args)
    time.sleep(1)
prepared.write_graph = slowly
source = open_checkpoint(Path(sys.argv[1]))
print(prepared.prepare(source, GraphPlan("float32", half_cache=False), Path(sys.argv[2])).folder)
"""


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[GraphPlan]:
    """The plans that were built, in order."""
    built: list[GraphPlan] = []
    write = prepared.write_graph

    def counted(writer, config, weights, plan, drafter=None) -> None:
        built.append(plan)
        write(writer, config, weights, plan, drafter)

    monkeypatch.setattr(prepared, "write_graph", counted)
    return built


def settings_of(checkpoint: Path, graphs: Path | None) -> EngineSettings:
    return resolve(EngineSettings(checkpoint, "cpu", threads=1, graphs=graphs, backend="onnx"))


def load(checkpoint: Path, graphs: Path | None) -> OnnxRuntime:
    return OnnxRuntime.load(open_checkpoint(checkpoint), settings_of(checkpoint, graphs))


def folders(graphs: Path) -> list[Path]:
    return sorted(path for path in graphs.glob("*/*") if path.is_dir())


def touch(checkpoint: Path) -> None:
    """Gives a checkpoint another time and size, as if it had been written again."""
    config = checkpoint / "config.json"
    config.write_text(config.read_text() + "\n")


def test_a_graph_is_built_once(checkpoint: Path, tmp_path: Path, builds: list[GraphPlan]) -> None:
    graphs = tmp_path / "graphs"
    source = open_checkpoint(checkpoint)
    assert not graph_of(source.path, PLAN, graphs).is_built
    first = prepare(source, PLAN, graphs)
    assert prepare(source, PLAN, graphs) == first == graph_of(source.path, PLAN, graphs)
    assert builds == [PLAN]
    assert first.folder.parent.name == checkpoint.name  # removed with the model of that name
    open_session(first.file, 1)


def test_each_plan_has_a_graph_of_its_own(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan]
) -> None:
    graphs = tmp_path / "graphs"
    source = open_checkpoint(checkpoint)
    plans = [PLAN, GraphPlan("int8", half_cache=True), GraphPlan("int8", half_cache=False)]
    made = {prepare(source, plan, graphs).folder for plan in plans}
    assert len(made) == 3
    assert folders(graphs) == sorted(made)  # no graph has been removed for another
    assert builds == plans


def test_two_processes_at_once_build_once(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(checkpoint), str(tmp_path / "graphs")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split("\n") for process in running]
    assert [process.returncode for process in running] == [0, 0]
    lines = [line for output in outputs for line in output if line]
    assert lines.count("built") == 1
    assert len(set(lines)) == 2


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError),
    ],
)
def test_a_build_that_breaks_off_leaves_nothing(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    error: type[BaseException],
) -> None:
    def breaks_off(writer, *_: object) -> None:
        writer.tensor("half", numpy.ones(1000, numpy.float32))
        raise failure

    graphs = tmp_path / "graphs"
    source = open_checkpoint(checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_graph", breaks_off)
        with pytest.raises(error, match=r"No space left on device\. Make room there|^$"):
            prepare(source, PLAN, graphs)
    assert folders(graphs) == []
    open_session(prepare(source, PLAN, graphs).file, 1)


def test_a_changed_checkpoint_is_another_graph_and_the_old_one_goes(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan]
) -> None:
    graphs = tmp_path / "graphs"
    old = prepare(open_checkpoint(checkpoint), PLAN, graphs)
    touch(checkpoint)
    new = prepare(open_checkpoint(checkpoint), PLAN, graphs)
    assert folders(graphs) == [new.folder]
    assert old.folder != new.folder
    assert len(builds) == 2


def test_what_is_swept_is_graphs_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Graphs of removed checkpoints and older formats and the remains of broken builds are removed;
    other files and graphs that are being written, whose lock is held, stay."""
    graphs, gone = tmp_path / "graphs", tmp_path / "gone"
    shutil.copytree(checkpoint, gone)
    swept = [prepare(open_checkpoint(gone), PLAN, graphs).folder]
    shutil.rmtree(gone)
    older = prepare(open_checkpoint(checkpoint), GraphPlan("int8", half_cache=True), graphs).folder
    about = json.loads((older / "about.json").read_text())
    (older / "about.json").write_text(json.dumps({**about, "format": FORMAT - 1}))
    swept.append(older)
    kept = [graphs / "somebody" / "else", graphs / "checkpoint" / ".partial-other-1"]
    for folder in kept:
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
    left = graphs / "checkpoint" / ".partial-then-1"
    left.mkdir()
    (left / DATA_FILE).write_bytes(b"0" * 100)
    swept.append(left)
    with FileLock(str(graphs / "checkpoint" / "other") + ".lock"):
        made = prepare(open_checkpoint(checkpoint), PLAN, graphs)
    assert not any(folder.exists() for folder in swept)
    assert folders(graphs) == sorted([*kept, made.folder])


@pytest.fixture
def source(tiny_checkpoint: Path) -> CheckpointSource:
    return open_checkpoint(tiny_checkpoint)


def test_the_share_that_is_done_grows_from_nothing_to_all(
    source: CheckpointSource, tmp_path: Path
) -> None:
    reported: list[float | None] = []
    graph = prepare(source, PLAN, tmp_path, reported.append)
    shares = [share for share in reported if share is not None]
    assert shares == reported
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert len(shares) > source.config.layers
    assert graph.is_built
    assert graph.num_bytes > 0
    reported.clear()
    assert prepare(source, PLAN, tmp_path, reported.append) == graph
    assert reported == [], "it is built already"


def test_a_process_that_waits_for_another_builder_is_told(
    source: CheckpointSource, tmp_path: Path
) -> None:
    waits, reported = threading.Event(), list[float | None]()

    def hear(share: float | None) -> None:
        reported.append(share)
        waits.set()

    def build_slowly(share: float | None) -> None:
        if share == 0:
            other.start()
            assert waits.wait(60)

    other = threading.Thread(target=prepare, args=(source, PLAN, tmp_path, hear))
    graph = prepare(source, PLAN, tmp_path, build_slowly)
    other.join(60)
    assert reported == [None], "the second builder built nothing"
    assert graph.is_built


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.model.source import open_checkpoint
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.prepared import prepare

def die(share):
    if share is not None and share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

prepare(open_checkpoint(Path(sys.argv[1])), GraphPlan("float32", False), Path(sys.argv[2]), die)
"""


def test_a_builder_that_was_killed_leaves_nothing_that_is_used_or_stays(
    source: CheckpointSource, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-c", KILLED, str(source.path), str(tmp_path)]
    assert subprocess.run(command, timeout=120).returncode == -9
    assert not graph_of(source.path, PLAN, tmp_path).is_built
    assert folders(tmp_path)
    graph = prepare(source, PLAN, tmp_path)
    assert graph.is_built
    assert folders(tmp_path) == [graph.folder]


def test_a_graph_is_kept_under_a_name_that_every_library_takes(
    source: CheckpointSource, tmp_path: Path
) -> None:
    folder = tmp_path / ("a b\n\udcff" + "x" * 200)
    folder.symlink_to(source.path)
    odd = tmp_path / "\udcff\n" / "checkpoint"
    odd.parent.mkdir()
    shutil.copytree(source.path, odd)
    settings = EngineSettings(odd, dtype="float32", threads=1, graphs=tmp_path / "graphs")
    OnnxRuntime.load(open_checkpoint(odd), settings)
    assert all(path.name.isascii() for path in (tmp_path / "graphs").rglob("*"))
    name = graph_of(folder, PLAN, tmp_path).folder.name
    assert len(name) < 128


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage" * (path.stat().st_size // 9 + 1))


def garbage_of_the_same_size(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (DATA_FILE, cut_short),
        (DATA_FILE, emptied),
        (DATA_FILE, Path.unlink),
        (GRAPH_FILE, cut_short),
        (GRAPH_FILE, garbage),
        (GRAPH_FILE, garbage_of_the_same_size),
        (GRAPH_FILE, emptied),
        ("about.json", garbage),
        ("about.json", Path.unlink),
    ],
)
def test_a_damaged_graph_is_built_once_more(
    checkpoint: Path,
    tmp_path: Path,
    builds: list[GraphPlan],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    graphs = tmp_path / "graphs"
    load(checkpoint, graphs)
    (folder,) = folders(graphs)
    damage(folder / name)
    load(checkpoint, graphs)
    load(checkpoint, graphs)
    assert len(builds) == 2
    assert folders(graphs) == [folder]


def test_a_graph_that_is_damaged_again_at_once_is_named_with_a_remedy(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that cannot be loaded is tried twice and no more."""
    built: list[Path] = []

    build = prepared._build

    def build_broken(source, plan, drafter, place, preparing) -> None:
        build(source, plan, drafter, place, preparing)
        garbage_of_the_same_size(place.folder / GRAPH_FILE)
        built.append(place.folder)

    monkeypatch.setattr(prepared, "_build", build_broken)
    with pytest.raises(CheckpointError, match="cannot be loaded by ONNX Runtime") as error:
        load(checkpoint, tmp_path / "graphs")
    assert "Delete" in str(error.value)
    assert len(built) == 2


def test_a_session_without_memory_is_named_and_nothing_is_built_again(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    graphs = tmp_path / "graphs"
    monkeypatch.setattr("engine.model.onnx.sessions.onnxruntime.InferenceSession", refuse)
    with pytest.raises(MemoryExhausted, match="memory"):
        load(checkpoint, graphs)
    assert len(builds) == 1
    assert len(folders(graphs)) == 1


def test_a_folder_that_cannot_be_made_is_replaced_by_a_temporary_one(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan]
) -> None:
    (tmp_path / "file").write_text("")
    with graphs_folder(tmp_path / "file" / "graphs") as folder:
        assert folder.is_dir()
        assert not folder.is_relative_to(tmp_path)
    assert not folder.exists()
    for graphs in (tmp_path / "file" / "graphs", None):
        load(checkpoint, graphs)
    assert len(builds) == 2


def test_a_read_only_folders_graph_is_used(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a store that the system's administrator prepared: nothing is built or locked."""
    graphs = tmp_path / "graphs"
    source = open_checkpoint(checkpoint)
    made = prepare(source, PLAN, graphs)
    before = sorted(graphs.rglob("*"))
    monkeypatch.setattr(prepared, "_is_writable", lambda folder: False)
    with available_graph(source, PLAN, graphs) as graph:
        assert graph == made
    assert builds == [PLAN]
    touch(checkpoint)  # its graph is outdated now; a new one is built in a temporary folder
    with available_graph(open_checkpoint(checkpoint), PLAN, graphs) as graph:
        assert not graph.folder.is_relative_to(graphs)
        open_session(graph.file, 1)
    assert not graph.folder.exists()
    assert sorted(graphs.rglob("*")) == before


def test_a_disk_without_room_is_named_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, builds: list[GraphPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: full)
    with pytest.raises(CheckpointError, match=r"takes \d+ MiB in .* 0 MiB are free") as error:
        prepare(open_checkpoint(checkpoint), PLAN, tmp_path / "graphs")
    assert "DLM_LSP_MODELS" in str(error.value)
    assert builds == []
