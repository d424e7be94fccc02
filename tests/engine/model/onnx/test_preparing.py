"""A graph is built once, whole or not at all, and who waits for it hears how that goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.config import EngineSettings
from engine.errors import CheckpointError
from engine.model.onnx import prepared
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.prepared import graph_of, prepare
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.source import CheckpointSource, open_checkpoint

PLAN = GraphPlan("int8", half_cache=True)


@pytest.fixture
def source(tiny_checkpoint: Path) -> CheckpointSource:
    return open_checkpoint(tiny_checkpoint)


def leftovers(graphs: Path) -> list[str]:
    return [path.name for path in graphs.glob("*/.partial-*")]


def test_the_share_that_is_done_grows_from_nothing_to_all(
    source: CheckpointSource, tmp_path: Path
) -> None:
    told: list[float | None] = []
    graph = prepare(source, PLAN, tmp_path, told.append)
    shares = [share for share in told if share is not None]
    assert shares == told
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert len(shares) > source.config.layers
    assert graph.is_built
    assert graph.num_bytes > 0
    told.clear()
    assert prepare(source, PLAN, tmp_path, told.append) == graph
    assert told == [], "it is there already"


def test_who_waits_for_another_builder_hears_of_it(
    source: CheckpointSource, tmp_path: Path
) -> None:
    waits, told = threading.Event(), list[float | None]()

    def hear(share: float | None) -> None:
        told.append(share)
        waits.set()

    def build_slowly(share: float | None) -> None:
        if share == 0:
            other.start()
            assert waits.wait(60)

    other = threading.Thread(target=prepare, args=(source, PLAN, tmp_path, hear))
    graph = prepare(source, PLAN, tmp_path, build_slowly)
    other.join(60)
    assert told == [None], "the second one built nothing"
    assert graph.is_built


@pytest.mark.parametrize("name", ["graph.onnx", "graph.data", "about.json"])
def test_a_graph_that_lost_its_end_is_built_again(
    source: CheckpointSource, tmp_path: Path, name: str
) -> None:
    graph = prepare(source, PLAN, tmp_path)
    file = graph.folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert not graph.is_built
    prepare(source, PLAN, tmp_path)
    assert graph.is_built
    assert file.read_bytes() == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.model.source import open_checkpoint
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.prepared import prepare

def die(share):
    if share is not None and share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

prepare(open_checkpoint(Path(sys.argv[1])), GraphPlan("int8", True), Path(sys.argv[2]), die)
"""


def test_a_builder_that_was_killed_leaves_nothing_that_is_used_or_stays(
    source: CheckpointSource, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-c", KILLED, str(source.path), str(tmp_path)]
    assert subprocess.run(command, timeout=120).returncode == -9
    assert not graph_of(source.path, PLAN, tmp_path).is_built
    assert leftovers(tmp_path)
    assert prepare(source, PLAN, tmp_path).is_built
    assert leftovers(tmp_path) == []


def test_a_failed_build_leaves_nothing(
    source: CheckpointSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "write_graph", full)
    with pytest.raises(CheckpointError, match="DLM_LSP_MODELS"):
        prepare(source, PLAN, tmp_path)
    assert leftovers(tmp_path) == []


def test_without_a_folder_that_can_be_written_the_engine_still_loads(
    source: CheckpointSource, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    settings = EngineSettings(source.path, dtype="float32", threads=1, graphs=blocked / "graphs")
    assert OnnxRuntime.load(source, settings).dtype == "float32"


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


def test_a_graph_that_others_prepared_is_used_where_nothing_can_be_written(
    source: CheckpointSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = GraphPlan("float32", half_cache=False)
    prepare(source, plan, tmp_path)
    monkeypatch.setattr(prepared, "_is_writable", lambda folder: False)
    monkeypatch.setattr(prepared, "_build", None)
    settings = EngineSettings(source.path, dtype="float32", threads=1, graphs=tmp_path)
    assert OnnxRuntime.load(source, settings).dtype == "float32"
