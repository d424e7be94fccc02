"""The models for which the laws are tested: tiny seeded ones and the bundled one, in torch in both
dtypes, in captured steps, and as ONNX graphs of each product."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from engine.api import Request
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.config import BUNDLED_CHECKPOINT
from engine.decoders import strategy_for
from engine.decoders.strategy import Traits
from engine.drafting import DraftHead
from engine.loop import TokenState, decode
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.onnx.plan import PRODUCTS
from engine.model.runner import ModelRunner
from engine.model.tokenizer import read_tokenizer
from tests.engine.adapted import adapted_network, adapter_weights, mask_tokens, torch_adapter
from tests.engine.graphs import GraphModel, graph_model
from tests.engine.seeded import CONFIG, CPU, DEVICE, prompt_of, seeded_network

DTYPES = ("float32", "bfloat16")  # of torch
# Captured steps are made of kernels, whose torch references compute on a processor. To import a
# kernel takes Triton, which is not everywhere.
HAS_TRITON = find_spec("triton") is not None
CAPTURED = ("captured float32",) if HAS_TRITON else ()
GRAPHS = tuple(f"onnx {product}" for product in PRODUCTS)
KINDS = (*DTYPES, *CAPTURED, *GRAPHS)
FLOAT32 = ("float32", *CAPTURED, "onnx float32")
NAMES = ("tiny", "bundled", "adapted")
DOCUMENTS = Path(__file__).parent.parent.parent / "fixtures" / "documents"
CURSOR = "‸"
# Cursor places: inside a line, on an empty line, at the end, with and without text after it.
PLACES = ("python_body", "python_call", "python_sum", "python_typed", "python_branches")


@dataclass(frozen=True)
class Subject:
    """A model, its traits and prompts that suit it.

    Attributes:
        kind: one of KINDS.
    """

    kind: str
    model: ModelRunner | GraphModel
    traits: Traits
    prompts: tuple[tuple[int, ...], ...]

    @property
    def network(self) -> Network:
        """The torch network, for replaying; that of a graph is in fp32."""
        return self.model.network

    def cache(self, num_tokens: int = 1024) -> KVCache | ArrayCache:
        """An empty cache for the model."""
        shape = CacheShape.of(self.network.config)
        if isinstance(self.model, GraphModel):
            return ArrayCache(shape, num_tokens, half=self.kind != "onnx float32")
        dtype = next(self.model.network.parameters()).dtype
        return KVCache(shape, num_tokens, device=DEVICE, dtype=dtype)

    def run(
        self, request: Request, store: KVCache | ArrayCache | None = None, cancel_after: int = 9999
    ) -> list[TokenState]:
        """All states of one request.

        Args:
            store: an empty one by default.
            cancel_after: states after which it is cancelled.
        """
        states: list[TokenState] = []
        steps = decode(
            self.model,
            self.cache() if store is None else store,
            strategy_for(request.mode, self.traits),
            request,
            self.traits,
            lambda: len(states) > cancel_after,
        )
        for state in steps:
            states.append(state)
        return states


@cache
def subject(name: str, kind: str) -> Subject:
    """The subject called "small", "adapted" or one of NAMES, in one of KINDS."""
    if name == "adapted":
        return _adapted(kind)
    _, _, product = kind.rpartition("onnx ")
    is_graph = kind in GRAPHS
    # A graph is compared with torch in fp32 on the same machine.
    device, dtype = (CPU, torch.float32) if is_graph else (DEVICE, dtype_of(kind))
    if name == "bundled":
        config = read_config(BUNDLED_CHECKPOINT)
        network = load_network(BUNDLED_CHECKPOINT, config, device=device, dtype=dtype)
        prompts = tuple(_infilling_prompt(name) for name in PLACES)
    else:
        config = replace(CONFIG, layers=3) if name == "tiny" else CONFIG
        network = seeded_network(config=config).to(device, dtype)
        # Repeating itself, so that there is something to copy.
        prompts = tuple(prompt_of(20 + 9 * seed, seed) * 2 for seed in range(4))
    model = graph_model(network, product) if is_graph else runner(kind)(network, device=device)
    return Subject(kind, model, Traits(network.config.mask_id), prompts)


def dtype_of(kind: str) -> torch.dtype:
    """The dtype of a kind that torch computes."""
    return getattr(torch, kind.removeprefix("captured "))


def runner(kind: str) -> type[ModelRunner]:
    """What runs the steps of a kind that torch computes."""
    if kind not in CAPTURED:
        return ModelRunner
    from engine.model.captured.runner import CapturedRunner  # imports Triton

    return CapturedRunner


def _adapted(kind: str) -> Subject:
    """A network with a mask adapter."""
    weights, masks = adapter_weights(), mask_tokens()
    prompts = tuple(prompt_of(20 + 9 * seed, seed) * 2 for seed in range(4))
    traits = Traits(None, has_drafter=True, draft_masks=masks)
    if kind in GRAPHS:
        model = graph_model(adapted_network(), kind.removeprefix("onnx "), weights)  # pyright: ignore[reportArgumentType]
        return Subject(kind, model, traits, prompts)
    dtype = dtype_of(kind)
    network = copy.deepcopy(adapted_network()).to(DEVICE, dtype)
    head = DraftHead(weights.draft_ids, weights.before, weights.after)
    adapter = torch_adapter(dtype, DEVICE)
    model = runner(kind)(network, device=DEVICE, adapter=adapter, drafts=head)
    return Subject(kind, model, traits, prompts)


def _infilling_prompt(name: str) -> tuple[int, ...]:
    tokenizer = read_tokenizer(BUNDLED_CHECKPOINT)
    text = (DOCUMENTS / f"{name}.py.txt").read_text("utf-8")
    before, _, after = text.partition(CURSOR)
    assert tokenizer.infill is not None
    encode = tokenizer.encode
    return tokenizer.infill.prompt((), encode(before), encode(after))
