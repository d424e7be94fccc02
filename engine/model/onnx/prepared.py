"""Builds the graph of a checkpoint when it is first used, and keeps it in a folder.

A checkpoint's graphs are in a folder with the checkpoint's name, so that they can be removed
together with a model of the store.

A graph is identified by the files of its checkpoint (path, size and time), by its mask adapter, by
how its products are computed and by the version of the code that builds it. It is written under a
temporary name and renamed when it is complete. The sizes of its files are stored with it, so that a
graph that a crash or a copy cut short is recognised. Knows neither sessions nor steps.
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
from engine.model.adapter_weights import AdapterWeights, read_adapter
from engine.model.mask_adapter import MaskAdapterWeights, adapter_stamp, load_adapter
from engine.model.onnx.graph import GraphPlan, write_graph
from engine.model.onnx.writer import DATA_FILE, GRAPH_FILE, GraphWriter
from engine.model.source import CheckpointSource
from engine.model.weights import EMBEDDING, Weights, network_tensors

logger = logging.getLogger(__name__)

FORMAT = 4  # of graphs; raised when `write_graph` changes the graph of the same checkpoint
_ABOUT = "about.json"
_PARTIAL = ".partial-"
_ROOM = 1.05  # the share of the weights' bytes that must be free before a graph is written


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """A graph on disk: `graph.onnx` and `graph.data` in `folder`."""

    folder: Path

    @property
    def file(self) -> Path:
        """The file from which a session is made."""
        return self.folder / GRAPH_FILE

    @property
    def is_built(self) -> bool:
        """Whether the graph exists and is complete."""
        try:
            about = json.loads((self.folder / _ABOUT).read_text("utf-8"))
            sizes = {name: (self.folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)}
            return about["bytes"] == sizes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def num_bytes(self) -> int:
        """The bytes on disk; 0 if the graph is not built."""
        if not self.is_built:
            return 0
        return sum((self.folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE))


@contextmanager
def available_graph(
    source: CheckpointSource,
    plan: GraphPlan,
    kept: Path | None,
    preparing: Preparing | None = None,
    adapter: Path | None = None,
) -> Iterator[PreparedGraph]:
    """The checkpoint's graph while the block lasts. It is the one in the folder, which may be
    read-only; otherwise `prepare` builds it there, or in a temporary folder if that cannot be
    written.

    Raises:
        CheckpointError: as for `prepare`.
    """
    found = None if kept is None else graph_of(source.path, plan, kept, adapter)
    if found is not None and found.is_built:
        yield found
        return
    with graphs_folder(kept) as graphs:
        yield prepare(source, plan, graphs, preparing, adapter)


@contextmanager
def graphs_folder(kept: Path | None) -> Iterator[Path]:
    """The folder in which graphs are kept; if there is none that can be written, a temporary folder
    until the block ends."""
    if kept is not None and _is_writable(kept):
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="dlm-lsp-graph-") as folder:
        yield Path(folder)


def graph_of(
    path: Path, plan: GraphPlan, graphs: Path, adapter: Path | None = None
) -> PreparedGraph:
    """The place of a checkpoint's graph, whether it has been built or not.

    Args:
        adapter: the folder of the mask adapter that the graph has, as for `prepare`.
    """
    place = path.resolve()
    folder = graphs / _plain((place if place.is_dir() else place.parent).name)
    parts = [str(place), _stamp(path), plan.product, str(plan.half_cache), str(FORMAT)]
    digest = _digest("\0".join((*parts, adapter_stamp(adapter))))
    return PreparedGraph(folder / f"{_plain(place.stem)}-{plan.product}-{digest[:12]}")


def prepare(
    source: CheckpointSource,
    plan: GraphPlan,
    graphs: Path,
    preparing: Preparing | None = None,
    adapter: Path | None = None,
) -> PreparedGraph:
    """The checkpoint's graph. It is built if there is none yet, which takes a minute for a billion
    parameters; other processes that need the same graph wait.

    Args:
        preparing: called repeatedly while the graph is built.
        adapter: the folder of a mask adapter of exactly these weights.

    Raises:
        CheckpointError: the graph cannot be written, or the checkpoint's adapter is broken.
    """
    about = {
        "checkpoint": str(source.path.resolve()),
        "stamp": _stamp(source.path),
        "adapter": _digest(adapter_stamp(adapter)),
        "format": FORMAT,
    }
    graph = graph_of(source.path, plan, graphs, adapter)
    folder = graph.folder
    if graph.is_built:
        return graph
    preparing = preparing or (lambda share: None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, preparing):
            if not graph.is_built:
                _sweep(graphs, folder, about)
                drafter = read_adapter(source.path, source.config) if source.path.is_dir() else None
                if drafter is None and adapter is not None:
                    drafter = load_adapter(adapter, source.config)
                _build(source, plan, drafter, _Place(folder, about), preparing)
    except OSError as error:
        raise CheckpointError(
            f"The graph of {source.path} cannot be written to {graphs}: {error.strerror or error}.",
            remedy="Make room there, or set DLM_LSP_MODELS to a folder with room.",
            param="engine.checkpoint",
        ) from None
    return graph


@contextmanager
def _locked(folder: Path, preparing: Preparing) -> Iterator[None]:
    """Holds the lock of one graph, which the kernel releases if the process dies."""
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
    """Removes a damaged graph; processes that have it open keep it."""
    shutil.rmtree(graph.folder, ignore_errors=True)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("graphs are not kept: %s", error)
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a graph is built, and what is kept about it."""

    folder: Path
    about: dict[str, object]


def _build(
    source: CheckpointSource,
    plan: GraphPlan,
    drafter: AdapterWeights | MaskAdapterWeights | None,
    place: _Place,
    preparing: Preparing,
) -> None:
    folder = place.folder
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
    # Not made by `tempfile`, whose folders are private to the user, because a store may be shared.
    partial = folder.with_name(f"{_PARTIAL}{folder.name}-{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        with GraphWriter(partial) as writer:
            write_graph(writer, source.config, weights, plan, drafter)
        sizes = {name: (partial / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)}
        about = {**place.about, "bytes": sizes}
        preparing(1.0)
        (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Counted:
    """A checkpoint's tensors; reports how many of their numbers have been written.

    Attributes:
        total: the number of numbers in the graph.
    """

    def __init__(self, source: CheckpointSource, preparing: Preparing) -> None:
        shapes = network_tensors(source.config)
        if not source.config.tied_head:
            del shapes[EMBEDDING]  # is read from the checkpoint's own file
        self._weights: Weights = source.weights
        self._preparing = preparing
        self.total = sum(math.prod(shape) for shape in shapes.values())
        self._done = 0

    def read(self, name: str) -> ndarray:
        """The tensor. All tensors that were read earlier have been written by now."""
        self._preparing(self._done / self.total)
        tensor = self._weights.read(name)
        self._done += tensor.size
        return tensor


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _plain(name: str) -> str:
    """A name that every file system and library accepts, for any name of a user's file. The name of
    a model in the store stays unchanged."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80] or "_"


def _stamp(path: Path) -> str:
    """The sizes and times of a checkpoint's files, which identify its state."""
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


def _sweep(graphs: Path, ours: Path, about_ours: dict[str, object]) -> None:
    """Removes graphs whose checkpoint was removed or changed, those of the same checkpoint with
    another adapter, and the remains of broken builds.

    Args:
        ours: the graph whose lock is held, so that no other process builds it.
        about_ours: what will be kept about it.
    """
    for folder in graphs.glob("*/*/"):
        if not _is_ours(folder):
            continue
        try:
            about = json.loads((folder / _ABOUT).read_text("utf-8"))
            checkpoint, stamp = Path(about["checkpoint"]), about["stamp"]
            is_current = about["format"] == FORMAT and _stamp(checkpoint) == stamp
            if about["checkpoint"] == about_ours["checkpoint"]:
                is_current &= about["adapter"] == about_ours["adapter"]
        except (OSError, ValueError, KeyError, TypeError):
            is_current = False
        graph = _to_become(folder)
        is_partial = graph != folder
        if (is_current and not is_partial) or (is_partial and graph != ours and _is_locked(graph)):
            continue
        logger.info("removing %s", folder)
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a complete or partial graph; nothing else is ever removed."""
    if folder.name.startswith(_PARTIAL):
        return True
    return any((folder / name).is_file() for name in (_ABOUT, GRAPH_FILE))


def _to_become(folder: Path) -> Path:
    """The graph for which a partial folder was made; any other folder itself."""
    if not folder.name.startswith(_PARTIAL):
        return folder
    name = folder.name.removeprefix(_PARTIAL)
    return folder.with_name(name.rpartition("-")[0] or name)


def _is_locked(folder: Path) -> bool:
    """Whether a process is building this graph."""
    try:
        with FileLock(str(folder) + ".lock", blocking=False):
            return False
    except (Timeout, OSError):
        return True
