"""ONNX Runtime as the engine's runtime: a graph prepared once, its session, and K/V in numpy."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from engine.api import Preparing, Sampling
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.config import EngineSettings
from engine.device import available_memory_bytes
from engine.errors import MemoryExhausted
from engine.model.config import ModelConfig
from engine.model.source import CheckpointSource, open_checkpoint
from engine.model.weights import EMBEDDING, Weights
from engine.onnx.model import OnnxModel
from engine.onnx.plan import GraphPlan
from engine.onnx.prepared import graphs_folder, prepare
from engine.onnx.probe import probe
from engine.onnx.sessions import open_session, program
from engine.reading import Reading
from engine.step import Step

# Below, int8 saves nothing that anybody would notice, and float32 is exact.
_FLOAT_PARAMETERS_MAX = 50_000_000


@dataclass(frozen=True, slots=True)
class TokenEmbedding:
    """The rows of the embedding table, read from the checkpoint's own memory-mapped file."""

    weights: Weights

    def rows(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        """(len(tokens), hidden) fp32."""
        return self.weights.rows(EMBEDDING, tokens)


class OnnxRuntime:
    """As `engine.runtime.Runtime`."""

    device = "cpu"

    def __init__(self, model: OnnxModel, plan: GraphPlan) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.has_drafter = model.has_drafter
        self.dtype = "float32" if plan.product == "float32" else "int8"
        self.machine = platform.node()
        self.program = f"{program()}, {plan.product}"
        self._half = plan.half_cache

    @classmethod
    def load(
        cls,
        source: CheckpointSource,
        settings: EngineSettings,
        preparing: Preparing | None = None,
    ) -> OnnxRuntime:
        """Opens the checkpoint's graph, built before if there is none yet.

        Args:
            settings: resolved ones.
            preparing: called again and again while the graph is built.

        Raises:
            EngineError: a broken checkpoint, no room for its graph, or not enough memory.
        """
        threads = settings.threads or 1
        _check_memory(source, dtype_for(source.config, settings.dtype))
        with ExitStack() as stack:
            graphs = stack.enter_context(graphs_folder(settings.graphs))
            plan = plan_for(source.config, settings, threads)
            graph = prepare(source, plan, graphs, preparing)
            session = open_session(graph.file, threads)
        names = {entry.name for entry in session.get_inputs()}
        model = OnnxModel(
            session,
            TokenEmbedding(source.weights),
            source.config,
            has_drafter="drafter" in names,
        )
        return cls(model, plan)

    def __call__(self, step: Step, cache: ArrayCache, sampling: Sampling) -> tuple[Reading, ...]:
        """As `OnnxModel.__call__`."""
        return self.model(step, cache, sampling)

    def new_cache(self, tokens: int) -> ArrayCache:
        """An empty store. Raises MemoryExhausted when it does not fit."""
        return ArrayCache(CacheShape.of(self.config), tokens, half=self._half)

    def begin_thread(self, threads: int) -> None:
        """Nothing: the session has threads of its own."""


def prepare_checkpoint(settings: EngineSettings, preparing: Preparing | None = None) -> None:
    """Builds what `OnnxRuntime.load` would build first, so that the first start is a quick one.

    Args:
        settings: resolved ones, with a folder for graphs.
        preparing: called again and again while the graph is built.

    Raises:
        EngineError: as `OnnxRuntime.load`.
    """
    source = open_checkpoint(settings.checkpoint_path())
    with graphs_folder(settings.graphs) as graphs:
        plan = plan_for(source.config, settings, settings.threads or 1)
        prepare(source, plan, graphs, preparing)


def dtype_for(config: ModelConfig, asked: str) -> str:
    """ "float32" or "int8"."""
    if asked != "auto":
        return asked
    return "float32" if config.parameters() <= _FLOAT_PARAMETERS_MAX else "int8"


def plan_for(config: ModelConfig, settings: EngineSettings, threads: int) -> GraphPlan:
    """How the graph of a checkpoint is built on this machine; measures where nobody has yet."""
    if dtype_for(config, settings.dtype) == "float32":
        return GraphPlan("float32", half_cache=False)
    return GraphPlan(probe(threads, settings.graphs).best.product, half_cache=True)


def _check_memory(source: CheckpointSource, dtype: str) -> None:
    """Refuses a model that cannot fit before the machine starts to swap."""
    needed = source.bytes_estimate("float32" if dtype == "float32" else "int8")
    free = available_memory_bytes()
    if needed <= free:
        return
    raise MemoryExhausted(
        f"The weights of {source.path} need {needed / 2**30:.1f} GiB as {dtype}, "
        f"{free / 2**30:.1f} GiB are free.",
        remedy="Use a smaller checkpoint, or close other programs.",
        param="engine.checkpoint",
    )
