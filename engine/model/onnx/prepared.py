"""Graphs are built once, when a checkpoint is first used, and kept in a folder.

A checkpoint's graphs lie in a folder of the name of its own: who removes a model from the store
removes them with it.

A graph belongs to the files it was made of (their path, size and time), to how its products are
computed and to the version of what builds it; whatever differs is another graph. It is written
under a name of its own and appears whole by being renamed; the sizes of its files are kept with it,
so that what a crash or a copy cut short is not taken for whole. Knows neither sessions nor steps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from numpy import ndarray

from engine.api import Preparing
from engine.errors import CheckpointError
from engine.model.adapter_weights import FOLDER as DRAFTER_FOLDER
from engine.model.adapter_weights import read_adapter
from engine.model.onnx.graph import GraphPlan, write_graph
from engine.model.onnx.writer import DATA_FILE, GRAPH_FILE, GraphWriter
from engine.model.source import CheckpointSource
from engine.model.weights import EMBEDDING, Weights, network_tensors

logger = logging.getLogger(__name__)

FORMAT = 2  # of graphs: raised whenever `write_graph` gives another one for the same checkpoint
_ABOUT = "about.json"
_PARTIAL = ".partial-"
_ROOM = 1.05  # of the weights' bytes, that must be free before a graph is written


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """A graph on disk: `graph.onnx` and `graph.data` in `folder`."""

    folder: Path

    @property
    def file(self) -> Path:
        """What a session is made of."""
        return self.folder / GRAPH_FILE

    @property
    def is_built(self) -> bool:
        """Whether it is there, whole."""
        try:
            about = json.loads((self.folder / _ABOUT).read_text("utf-8"))
            sizes = {name: (self.folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)}
            return about["bytes"] == sizes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def num_bytes(self) -> int:
        """On disk; 0 where it is not built."""
        if not self.is_built:
            return 0
        return sum((self.folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE))


@contextmanager
def available_graph(
    source: CheckpointSource, plan: GraphPlan, kept: Path | None, preparing: Preparing | None = None
) -> Iterator[PreparedGraph]:
    """The checkpoint's graph for as long as the block lasts: that in the folder, which may be
    read-only; else one that `prepare` builds there, or, where it cannot be written to, in a
    temporary folder.

    Raises:
        CheckpointError: as `prepare`.
    """
    found = None if kept is None else graph_of(source.path, plan, kept)
    if found is not None and found.is_built:
        yield found
        return
    with graphs_folder(kept) as graphs:
        yield prepare(source, plan, graphs, preparing)


@contextmanager
def graphs_folder(kept: Path | None) -> Iterator[Path]:
    """The folder that graphs are kept in; without one that can be written to, a temporary folder
    until the block ends."""
    if kept is not None and _is_writable(kept):
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="dlm-lsp-graph-") as folder:
        yield Path(folder)


def graph_of(path: Path, plan: GraphPlan, graphs: Path) -> PreparedGraph:
    """Where the graph of a checkpoint is kept, whether it has been built or not."""
    place = path.resolve()
    folder = graphs / _plain((place if place.is_dir() else place.parent).name)
    return PreparedGraph(folder / _name(place, _stamp(path), plan))


def prepare(
    source: CheckpointSource, plan: GraphPlan, graphs: Path, preparing: Preparing | None = None
) -> PreparedGraph:
    """The checkpoint's graph, built if it is not there yet; that takes a minute for a billion
    parameters. Who else wants the same one meanwhile waits for it.

    Args:
        preparing: called again and again while it is built.

    Raises:
        CheckpointError: it cannot be written, or its adapter is broken.
    """
    stamp = _stamp(source.path)
    graph = graph_of(source.path, plan, graphs)
    folder = graph.folder
    if graph.is_built:
        return graph
    preparing = preparing or (lambda share: None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, preparing):
            if not graph.is_built:
                _sweep(graphs, folder)
                _build(source, plan, folder, stamp, preparing)
    except OSError as error:
        raise CheckpointError(
            f"The graph of {source.path} cannot be written to {graphs}: {error.strerror or error}.",
            remedy="Make room there, or set DLM_LSP_MODELS to a folder with room.",
            param="engine.checkpoint",
        ) from None
    return graph


@contextmanager
def _locked(folder: Path, preparing: Preparing) -> Iterator[None]:
    """Holds the lock of one graph, which the kernel gives back however a process dies."""
    lock = FileLock(str(folder) + ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        preparing(None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def discard(graph: PreparedGraph) -> None:
    """Removes a graph that turned out to be damaged; who has it open keeps it."""
    shutil.rmtree(graph.folder, ignore_errors=True)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("graphs are not kept: %s", error)
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _build(
    source: CheckpointSource, plan: GraphPlan, folder: Path, stamp: str, preparing: Preparing
) -> None:
    weights = _Counted(source, preparing)
    needed = int(_ROOM * weights.total * (4 if plan.product == "float32" else 1))
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise CheckpointError(
            f"The graph of {source.path} takes {needed >> 20} MiB in {folder.parent}, where "
            f"{free >> 20} MiB are free.",
            remedy="Make room there, or set DLM_LSP_MODELS to a folder with room.",
            param="engine.checkpoint",
        )
    logger.info("building the graph of %s (%s)", source.path, plan.product)
    # Not by `tempfile`, whose folders are the user's alone: a store may be shared.
    partial = folder.with_name(f"{_PARTIAL}{folder.name}-{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        drafter = read_adapter(source.path, source.config) if source.path.is_dir() else None
        with GraphWriter(partial) as writer:
            write_graph(writer, source.config, weights, plan, drafter)
        about = {
            "checkpoint": str(source.path.resolve()),
            "stamp": stamp,
            "format": FORMAT,
            "bytes": {name: (partial / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)},
        }
        preparing(1.0)
        (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Counted:
    """A checkpoint's tensors, and who is told how many of their numbers have been written.

    Attributes:
        total: numbers that a graph holds.
    """

    def __init__(self, source: CheckpointSource, preparing: Preparing) -> None:
        shapes = network_tensors(source.config)
        if not source.config.tied_head:
            del shapes[EMBEDDING]  # stays in the checkpoint's own file
        self._weights: Weights = source.weights
        self._preparing = preparing
        self.total = sum(math.prod(shape) for shape in shapes.values())
        self._done = 0

    def read(self, name: str) -> ndarray:
        """The tensor; those that were read before it have been written by now."""
        self._preparing(self._done / self.total)
        tensor = self._weights.read(name)
        self._done += tensor.size
        return tensor


def _name(path: Path, stamp: str, plan: GraphPlan) -> str:
    parts = [str(path), stamp, plan.product, str(plan.half_cache), str(FORMAT)]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_plain(path.stem)}-{plan.product}-{digest[:12]}"


def _plain(name: str) -> str:
    """A name that every file system and library takes, whatever a user's file is called; a model's
    name in the store is one already."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80] or "_"


def _stamp(path: Path) -> str:
    """Sizes and times of a checkpoint's files: another checkpoint, or a changed one, has others."""
    files = [path]
    if path.is_dir():
        files = sorted((*path.glob("*.safetensors"), path / "config.json"))
        files += sorted((path / DRAFTER_FOLDER).glob("*"))
    stamps = []
    for file in files:
        with suppress(OSError):
            status = file.stat()
            stamps.append(f"{file.name}:{status.st_size}:{status.st_mtime_ns}")
    return "|".join(stamps)


def _sweep(graphs: Path, ours: Path) -> None:
    """Removes graphs whose checkpoint is gone or has changed, and what broken builds left.

    Args:
        ours: the graph whose lock is held: what lies half built of it is nobody's.
    """
    for folder in graphs.glob("*/*/"):
        if not _is_ours(folder):
            continue
        try:
            about = json.loads((folder / _ABOUT).read_text("utf-8"))
            checkpoint, stamp = Path(about["checkpoint"]), about["stamp"]
            is_current = about["format"] == FORMAT and _stamp(checkpoint) == stamp
        except (OSError, ValueError, KeyError, TypeError):
            is_current = False
        graph = _to_become(folder)
        is_partial = graph != folder
        if (is_current and not is_partial) or (is_partial and graph != ours and _is_locked(graph)):
            continue
        logger.info("removing %s", folder)
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a graph or was to become one: nothing else is ever removed."""
    if folder.name.startswith(_PARTIAL):
        return True
    return any((folder / name).is_file() for name in (_ABOUT, GRAPH_FILE))


def _to_become(folder: Path) -> Path:
    """The graph that a partial folder is to become; of any other folder itself."""
    if not folder.name.startswith(_PARTIAL):
        return folder
    name = folder.name.removeprefix(_PARTIAL)
    return folder.with_name(name.rpartition("-")[0] or name)


def _is_locked(folder: Path) -> bool:
    """Whether somebody is building this graph."""
    try:
        with FileLock(str(folder) + ".lock", blocking=False):
            return False
    except (Timeout, OSError):
        return True
