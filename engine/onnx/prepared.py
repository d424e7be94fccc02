"""Graphs are built once, when a checkpoint is first used, and kept in a folder.

A checkpoint's graphs lie in a folder of the name of its own: who removes a model from the store
removes them with it.

A graph belongs to the files it was made of (their path, size and time), to how its products are
computed and to the version of what builds it; whatever differs is another graph. It is written
under a name of its own and appears whole by being renamed. Knows neither sessions nor steps.
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
    place = source.path.resolve()
    folder = graphs / (place if place.is_dir() else place.parent).name
    folder /= _name(place, stamp, plan)
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
        about = {"checkpoint": str(source.path.resolve()), "stamp": stamp, "format": FORMAT}
        (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (GRAPH_FILE, DATA_FILE, _ABOUT))


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
        try:
            about = json.loads((folder / _ABOUT).read_text("utf-8"))
            checkpoint, stamp = Path(about["checkpoint"]), about["stamp"]
            is_current = about["format"] == FORMAT and _stamp(checkpoint) == stamp
        except (OSError, ValueError, KeyError, TypeError):
            is_current = False
        if not is_current and not _is_being_written(folder):
            logger.info("removing %s", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_being_written(folder: Path) -> bool:
    """Whether a partial folder was touched within the last hour: somebody may be at it."""
    if not folder.name.startswith(_PARTIAL):
        return False
    newest = max((entry.stat().st_mtime for entry in folder.iterdir()), default=0.0)
    return newest > _now() - 3600


def _now() -> float:
    """By the file system's own clock."""
    with tempfile.TemporaryFile() as file:
        return os.fstat(file.fileno()).st_mtime
