"""Networks in memory as ONNX graphs, with the interface of the model in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy import ndarray
from torch import Tensor

from engine.api import Sampling
from engine.cache.arrays import ArrayCache
from engine.drafting import DraftHead
from engine.model.adapter_weights import AdapterWeights
from engine.model.mask_adapter import MaskAdapterWeights
from engine.model.network import Network
from engine.model.onnx.graph import write_graph
from engine.model.onnx.model import OnnxModel
from engine.model.onnx.plan import GraphPlan, Product
from engine.model.onnx.sessions import open_session
from engine.model.onnx.writer import GRAPH_FILE, GraphWriter
from engine.model.weights import EMBEDDING
from engine.reading import Reading
from engine.step import Step


class NetworkWeights:
    """The tensors of a network by name, like a checkpoint's, and its embedding table."""

    def __init__(self, network: Network) -> None:
        self._tensors = {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in network.state_dict().items()
        }

    def read(self, name: str) -> ndarray:
        return self._tensors[name].copy()

    def rows(self, tokens: Sequence[int]) -> ndarray:
        return self._tensors[EMBEDDING][numpy.asarray(tokens, dtype=numpy.int64)]


class GraphModel:
    """An `OnnxModel` whose logits are a tensor, and the network from which it was made."""

    def __init__(self, model: OnnxModel, network: Network) -> None:
        self.network = network
        self._model = model

    def __call__(self, step: Step, cache: ArrayCache, sampling: Sampling) -> tuple[Reading, ...]:
        return self._model(step, cache, sampling)

    def readings(self, logits: Tensor, step: Step, sampling: Sampling) -> tuple[Reading, ...]:
        return self._model.readings(logits.numpy(), step, sampling)

    def logits(self, step: Step, cache: ArrayCache) -> Tensor:
        return torch.from_numpy(numpy.array(self._model.logits(step, cache)))


def graph_model(
    network: Network,
    product: Product = "float32",
    adapter: AdapterWeights | MaskAdapterWeights | None = None,
    threads: int = 1,
) -> GraphModel:
    """A graph of the network, with keys and values as the engine plans them for the product."""
    plan, weights = plan_of(product), NetworkWeights(network)
    masks = adapter if isinstance(adapter, MaskAdapterWeights) else None
    with tempfile.TemporaryDirectory() as folder:
        with GraphWriter(Path(folder)) as writer:
            write_graph(writer, network.config, weights, plan, adapter)
        session = open_session(Path(folder) / GRAPH_FILE, threads)
    vectors = None if masks is None else masks.mask_vectors
    model = OnnxModel(
        session,
        weights if vectors is None else _WithMasks(weights, network.config.vocabulary, vectors),
        network.config,
        has_drafter=adapter is not None,
        drafts=masks and DraftHead(masks.draft_ids, masks.before, masks.after),
    )
    return GraphModel(model, network)


@dataclass(frozen=True)
class _WithMasks:
    """Token embeddings, and after them those of masks."""

    tokens: NetworkWeights
    vocabulary: int
    vectors: ndarray

    def rows(self, tokens: Sequence[int]) -> ndarray:
        return numpy.stack(
            [
                self.vectors[token - self.vocabulary]
                if token >= self.vocabulary
                else self.tokens.rows([token])[0]
                for token in tokens
            ]
        )


def plan_of(product: Product) -> GraphPlan:
    """The engine's plan for a product."""
    return GraphPlan(product, half_cache=product != "float32")
