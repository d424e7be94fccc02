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
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine.errors import CheckpointError
from engine.model.adapter_weights import FOLDER as DRAFTER_FOLDER
from engine.model.adapter_weights import read_adapter
from engine.model.source import CheckpointSource
from engine.onnx.graph import GraphPlan, write_graph
from engine.onnx.writer import DATA_FILE, GRAPH_FILE, GraphWriter

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


@contextmanager
def graph_of(
    source: CheckpointSource, plan: GraphPlan, kept: Path | None
) -> Iterator[PreparedGraph]:
    """The checkpoint's graph for as long as the block lasts: that in the folder, which may be
    read-only; else one that `prepare` builds there, or, where it cannot be written to, in a
    temporary folder.

    Raises:
        CheckpointError: as `prepare`.
    """
    found = None if kept is None else find(source, plan, kept)
    if found is not None:
        yield found
        return
    with graphs_folder(kept) as graphs:
        yield prepare(source, plan, graphs)


@contextmanager
def graphs_folder(kept: Path | None) -> Iterator[Path]:
    """The folder that graphs are kept in; without one that can be written to, a temporary folder
    until the block ends."""
    if kept is not None and _is_writable(kept):
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="dlm-lsp-graph-") as folder:
        yield Path(folder)


def prepare(source: CheckpointSource, plan: GraphPlan, graphs: Path) -> PreparedGraph:
    """The checkpoint's graph, built if it is not there yet; that takes a minute for a billion
    parameters. Who else wants the same one meanwhile waits for it.

    Raises:
        CheckpointError: it cannot be written, or its adapter is broken.
    """
    stamp = _stamp(source.path)
    folder = _folder(source.path, stamp, plan, graphs)
    if _is_whole(folder):
        return PreparedGraph(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder) + ".lock"):
            if not _is_whole(folder):
                _sweep(graphs)
                _build(source, plan, folder, stamp)
    except OSError as error:
        raise CheckpointError(
            f"The graph of {source.path} cannot be written to {graphs}: {error.strerror or error}.",
            remedy="Make room there, or set DLM_LSP_MODELS to a folder with room.",
            param="engine.checkpoint",
        ) from None
    return PreparedGraph(folder)


def find(source: CheckpointSource, plan: GraphPlan, graphs: Path) -> PreparedGraph | None:
    """The checkpoint's graph, if it is there and whole."""
    folder = _folder(source.path, _stamp(source.path), plan, graphs)
    return PreparedGraph(folder) if _is_whole(folder) else None


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


def _build(source: CheckpointSource, plan: GraphPlan, folder: Path, stamp: str) -> None:
    needed = int(_ROOM * source.bytes_estimate("float32" if plan.product == "float32" else "int8"))
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise CheckpointError(
            f"The graph of {source.path} takes {needed >> 20} MiB in {folder.parent}, where "
            f"{free >> 20} MiB are free.",
            remedy="Make room there, or set DLM_LSP_MODELS to a folder with room.",
            param="engine.checkpoint",
        )
    logger.info("building the graph of %s (%s)", source.path, plan.product)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    try:
        drafter = read_adapter(source.path, source.config) if source.path.is_dir() else None
        with GraphWriter(partial) as writer:
            write_graph(writer, source.config, source.weights, plan, drafter)
        about = {
            "checkpoint": str(source.path.resolve()),
            "stamp": stamp,
            "format": FORMAT,
            "sizes": _sizes(partial),
        }
        (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        return bool(about["sizes"] == _sizes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sizes(folder: Path) -> list[int]:
    return [(folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)]


def _folder(path: Path, stamp: str, plan: GraphPlan, graphs: Path) -> Path:
    place = path.resolve()
    group = (place if place.is_dir() else place.parent).name
    return graphs / group / _name(place, stamp, plan)


def _name(path: Path, stamp: str, plan: GraphPlan) -> str:
    parts = [str(path), stamp, plan.product, str(plan.half_cache), str(FORMAT)]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{path.stem}-{plan.product}-{digest[:12]}"


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


def _sweep(graphs: Path) -> None:
    """Removes graphs whose checkpoint is gone or has changed, and what broken builds left."""
    for folder in graphs.glob("*/*/"):
        if not _is_ours(folder):
            continue
        try:
            about = json.loads((folder / _ABOUT).read_text("utf-8"))
            checkpoint, stamp = Path(about["checkpoint"]), about["stamp"]
            is_current = about["format"] == FORMAT and _stamp(checkpoint) == stamp
        except (OSError, ValueError, KeyError, TypeError):
            is_current = False
        if not is_current and not _is_being_written(folder):
            logger.info("removing %s", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a graph or was to become one: nothing else is ever removed."""
    if folder.name.startswith(_PARTIAL):
        return True
    return any((folder / name).is_file() for name in (_ABOUT, GRAPH_FILE))


def _is_being_written(folder: Path) -> bool:
    """Whether a partial folder was touched within the last hour: somebody may be at it."""
    if not folder.name.startswith(_PARTIAL):
        return False
    try:
        newest = max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
    except OSError:  # renamed meanwhile: somebody has just finished
        return True
    return newest > _now() - 3600


def _now() -> float:
    """By the file system's own clock."""
    with tempfile.TemporaryFile() as file:
        return os.fstat(file.fileno()).st_mtime
