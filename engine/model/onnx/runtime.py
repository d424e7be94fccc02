"""ONNX Runtime as the engine's runtime: a graph prepared once, its session, and K/V in numpy."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from engine.api import Preparing, Sampling
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.config import EngineSettings
from engine.device import available_memory_bytes
from engine.drafting import DraftHead
from engine.errors import CheckpointError, ModelTooLarge
from engine.model.config import ModelConfig
from engine.model.mask_adapter import MaskAdapterWeights, adapter_folder, load_adapter
from engine.model.onnx.huge_pages import collapse
from engine.model.onnx.model import OnnxModel
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.prepared import available_graph, discard, graphs_folder, prepare
from engine.model.onnx.probe import probe
from engine.model.onnx.sessions import TidySession, open_session, program
from engine.model.source import CheckpointSource, open_checkpoint
from engine.model.weights import EMBEDDING, Weights
from engine.reading import Reading
from engine.step import Step

logger = logging.getLogger(__name__)

# For smaller models int8 has no noticeable advantage, and float32 is more precise.
FLOAT_PARAMETERS_MAX = 50_000_000
# Python, the libraries, a K/V cache as an editor uses it, and what the runtime keeps besides the
# weights, which was measured to be more for large models.
_BESIDE_WEIGHTS = {"float32": 100_000_000, "int8": 300_000_000}


@dataclass(frozen=True, slots=True)
class TokenEmbedding:
    """The rows of the embedding table, read from the checkpoint's own memory-mapped file."""

    weights: Weights

    def rows(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        """(len(tokens), hidden) fp32."""
        return self.weights.rows(EMBEDDING, tokens)


@dataclass(frozen=True, slots=True)
class MaskEmbedding:
    """Token embeddings, and after them a mask adapter's vectors as tokens of their own.

    Attributes:
        vocabulary: the first mask's id, since masks come right after the last token.
        vectors: (K, hidden) fp32.
    """

    tokens: TokenEmbedding
    vocabulary: int
    vectors: NDArray[numpy.float32]

    def rows(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        """(len(tokens), hidden) fp32."""
        if max(tokens) < self.vocabulary:
            return self.tokens.rows(tokens)
        rows = self.tokens.rows([token if token < self.vocabulary else 0 for token in tokens])
        for row, token in enumerate(tokens):
            if token >= self.vocabulary:
                rows[row] = self.vectors[token - self.vocabulary]
        return rows


class OnnxRuntime:
    """As `engine.runtime.Runtime`."""

    device = "cpu"

    def __init__(self, model: OnnxModel, plan: GraphPlan, masks: int = 0) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.has_drafter = model.has_drafter
        self.draft_masks = tuple(range(self.config.vocabulary, self.config.vocabulary + masks))
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
        """Opens the checkpoint's graph, and builds it first if there is none yet.

        Args:
            settings: resolved settings.
            preparing: called repeatedly while the graph is built.

        Raises:
            EngineError: a broken checkpoint, no room for its graph, or not enough memory.
        """
        threads = settings.threads or 1
        check_memory(source, settings)
        plan = plan_for(source.config, settings, threads)
        found = adapter_folder(source.config, source.weights, settings.adapters)
        session = _open(source, plan, settings, preparing, found)
        names = {entry.name for entry in session.get_inputs()}
        adapter = None if found is None else load_adapter(found, source.config)
        model = OnnxModel(
            TidySession(session),
            _embedding(source, adapter),
            source.config,
            has_drafter="drafter" in names,
            drafts=adapter and DraftHead(adapter.draft_ids, adapter.before, adapter.after),
        )
        return cls(model, plan, len(adapter.mask_vectors) if adapter else 0)

    def __call__(self, step: Step, cache: ArrayCache, sampling: Sampling) -> tuple[Reading, ...]:
        """As `OnnxModel.__call__`."""
        return self.model(step, cache, sampling)

    def new_cache(self, tokens: int) -> ArrayCache:
        """An empty store. Raises MemoryExhausted if it does not fit."""
        return ArrayCache(CacheShape.of(self.config), tokens, half=self._half)

    def begin_thread(self, threads: int) -> None:
        """There is nothing to do: the session has its own threads."""

    def settle(self) -> Iterator[None]:
        """Moves the weights of large models into huge pages."""
        return collapse() if self.dtype == "int8" else iter(())


def _embedding(
    source: CheckpointSource, adapter: MaskAdapterWeights | None
) -> TokenEmbedding | MaskEmbedding:
    tokens = TokenEmbedding(source.weights)
    if adapter is None:
        return tokens
    return MaskEmbedding(tokens, source.config.vocabulary, adapter.mask_vectors)


def prepare_checkpoint(settings: EngineSettings, preparing: Preparing | None = None) -> None:
    """Builds the checkpoint's graph, so that the first `OnnxRuntime.load` is fast.

    Args:
        settings: resolved settings with a folder for graphs.
        preparing: called repeatedly while the graph is built.

    Raises:
        EngineError: as for `OnnxRuntime.load`.
    """
    source = open_checkpoint(settings.checkpoint_path())
    plan = plan_for(source.config, settings, settings.threads or 1)
    adapter = adapter_folder(source.config, source.weights, settings.adapters)
    with graphs_folder(settings.graphs) as graphs:
        prepare(source, plan, graphs, preparing, adapter)


def _open(
    source: CheckpointSource,
    plan: GraphPlan,
    settings: EngineSettings,
    preparing: Preparing | None,
    adapter: Path | None,
) -> InferenceSession:
    """The checkpoint's graph as a session. A graph that cannot be loaded may be damaged and is
    built once more. Raises EngineError."""
    graphs, threads = settings.graphs, settings.threads or 1
    with available_graph(source, plan, graphs, preparing, adapter) as graph:
        try:
            return open_session(graph.file, threads)
        except CheckpointError as error:
            logger.warning("%s It is built again now.", error)
            discard(graph)
    with available_graph(source, plan, graphs, preparing, adapter) as graph:
        return open_session(graph.file, threads)


def dtype_for(config: ModelConfig, asked: str) -> str:
    """ "float32" or "int8"."""
    if asked != "auto":
        return asked
    return "float32" if config.parameters() <= FLOAT_PARAMETERS_MAX else "int8"


def plan_for(config: ModelConfig, settings: EngineSettings, threads: int) -> GraphPlan:
    """The plan of a checkpoint's graph on this machine; measures its products the first time."""
    if dtype_for(config, settings.dtype) == "float32":
        return GraphPlan("float32", half_cache=False)
    return GraphPlan(probe(threads, settings.graphs).best.product, half_cache=True)


def float_limit(config: ModelConfig) -> str:
    """The reason for a dtype that was left open, for people."""
    side = "more" if config.parameters() > FLOAT_PARAMETERS_MAX else "no more"
    return f"{side} than {FLOAT_PARAMETERS_MAX // 1_000_000} million parameters"


def check_memory(source: CheckpointSource, settings: EngineSettings) -> None:
    """Checks that a model fits into memory, so that the machine does not start to swap.

    Raises:
        ModelTooLarge: the model does not fit into the free memory.
    """
    needed, free = memory_needed(source, settings), available_memory_bytes()
    if needed > free:
        raise ModelTooLarge(str(source.path), needed, free)


def memory_needed(source: CheckpointSource, settings: EngineSettings) -> int:
    """The estimated bytes of memory for serving a checkpoint."""
    dtype = "float32" if dtype_for(source.config, settings.dtype) == "float32" else "int8"
    return source.bytes_estimate(dtype) + _BESIDE_WEIGHTS[dtype]
