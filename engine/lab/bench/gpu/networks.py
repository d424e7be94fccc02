"""Whole steps, decoding cycles and peers at the shapes of real models with seeded random weights.

The engine's own runner, cache and decoding loop are timed. Random weights reject nearly every
draft, so that cycles show costs and not yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch

from engine.api import Limits, Request
from engine.errors import EngineError
from engine.lab.bench.compiled import CompiledStep
from engine.lab.bench.gpu.cards import Card
from engine.lab.bench.gpu.quantized import random_quantized
from engine.lab.bench.gpu.roofline import floor_of, step_cost
from engine.lab.bench.shapes import random_adapter, random_mask_adapter, random_network
from engine.lab.bench.steps import measure_cycles, measure_steps, profile_step, seeded_tokens
from engine.lab.rates import Rates, seconds_of
from engine.lab.verify.peer import TransformersPeer
from engine.model.config import ModelConfig
from engine.model.runner import ModelRunner

PEER_ROWS = (1, 32)
# By the names of `EngineSettings.steps`; what is worth most first.
_RUNNERS = {
    "captured": ("engine.model.captured.runner", "CapturedRunner"),
    "clear": ("engine.model.runner", "ModelRunner"),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One network and how it is timed.

    Attributes:
        rows, contexts: of the steps; cycles and peers run after the first context.
        tokens: that are decoded in each mode, and by peers.
        storage: of the weights, one of `stored.STORAGES`.
        card: the card that the figures are held against; None if it is not a known one.
    """

    name: str
    config: ModelConfig
    rows: Sequence[int]
    contexts: Sequence[int]
    card: Card | None
    tokens: int = 64
    storage: str = "bf16"

    @property
    def label(self) -> str:
        """The name of the shape, with what is unusual of its weights."""
        return self.name if self.storage == "bf16" else f"{self.name}, {self.storage}"


def runners() -> dict[str, type[ModelRunner]]:
    """The ways to run a step that are here, by the names of `EngineSettings.steps`."""
    found: dict[str, type[ModelRunner]] = {}
    for name, (module, own) in _RUNNERS.items():
        try:
            found[name] = getattr(import_module(module), own)
        except ModuleNotFoundError:  # Triton, or the module itself
            continue
    return found


class Weights:
    """A network with seeded random weights as it is served, and its drafter or mask adapter."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        storage: str = "bf16",
    ) -> None:
        """
        Args:
            storage: one of `stored.STORAGES`.

        Raises:
            MemoryExhausted: they do not fit on the device.
        """
        if storage == "bf16":
            self.network = random_network(config, device=device, dtype=dtype)
            self.network.join()
        else:
            self.network = random_quantized(config, storage, device=device, dtype=dtype)
        self._device = device
        if config.family.fills_masks:
            adapter = random_adapter(config, device=device, dtype=dtype)
            self._added: dict[str, Any] = {"adapter": adapter}
        else:
            masks, head = random_mask_adapter(config, device=device, dtype=dtype)
            self._added = {"adapter": masks, "drafts": head}

    def model(self, runner: str) -> ModelRunner:
        """The network as one of `runners` runs it."""
        return runners()[runner](self.network, device=self._device, **self._added)


def on(
    weights: Weights,
    runner: str,
    time: Callable[[ModelRunner, Shape], Iterator[dict[str, Any]]],
    shape: Shape,
) -> Iterator[dict[str, Any]]:
    """What `time` gives of the network as one of `runners` runs it, which is made for it."""
    yield from time(weights.model(runner), shape)


def time_steps(model: ModelRunner, shape: Shape, rates: Rates) -> Iterator[dict[str, Any]]:
    """Every number of rows after every context: milliseconds, the bytes that a step has to move by
    the roofline, and what share of the measured and the stated bandwidth they come to."""
    for step in measure_steps(model, shape.rows, shape.contexts):
        cost = step_cost(shape.config, shape.storage, step.rows, step.context)
        moved = cost.layers + cost.head + cost.embedding + cost.kv_read + cost.kv_written
        rate = moved / (step.milliseconds / 1000)
        card = shape.card
        floor = None if card is None else floor_of(cost, card).milliseconds
        yield {
            **asdict(step),
            "bytes": moved,
            "flops": cost.flops,
            "gb_per_s": rate / 1e9,
            "of_copy": rate / rates.copy,
            "of_datasheet": None if card is None else rate / card.bandwidth,
            "floor_ms": floor,
        }


def time_cycles(model: ModelRunner, shape: Shape) -> Iterator[dict[str, Any]]:
    """Every mode through the engine's decoding loop."""
    for cycle in measure_cycles(model, shape.contexts[0], shape.tokens):
        yield asdict(cycle)


def profile(model: ModelRunner, shape: Shape) -> Iterator[dict[str, Any]]:
    """The kernels of one step of 32 rows, and the most memory that was allocated."""
    for kernel in profile_step(model, context=shape.contexts[0]):
        yield asdict(kernel)
    if model.device.type == "cuda":
        yield {"name": "memory", "bytes": torch.cuda.max_memory_allocated(model.device)}


def time_peers(model: ModelRunner, shape: Shape) -> Iterator[dict[str, Any]]:
    """`torch.compile` of the plain network, and `transformers` with a static cache, which it
    compiles on a card. What cannot run is an entry with its error."""
    peers: dict[str, Callable[[], float]] = {
        f"torch.compile, a step of {rows}": lambda rows=rows: _compiled(model, shape, rows)
        for rows in PEER_ROWS
    }
    peers["transformers, static cache, a token"] = lambda: _transformers(model, shape)
    for name, measure in peers.items():
        try:
            yield {"peer": name, "ms": measure()}
        except EngineError as error:  # transformers is not installed, or has no such class
            yield {"peer": name, "ms": None, "why": str(error)}
        except Exception as error:  # a compiler that fails costs the other peer nothing
            yield {"peer": name, "ms": None, "why": f"{type(error).__name__}: {error}"[:300]}


def _compiled(model: ModelRunner, shape: Shape, rows: int) -> float:
    torch.compiler.reset()  # a function is compiled only so often, then it runs as it is
    compiled = CompiledStep(model.network, shape.contexts[0])
    return 1000 * seconds_of(compiled.prepared(rows), model.device)


def _transformers(model: ModelRunner, shape: Shape) -> float:
    """Milliseconds of a token of greedy decoding."""
    torch.compiler.reset()
    peer = TransformersPeer.sharing(model.network)
    prompt = seeded_tokens(model, shape.contexts[0])
    request = Request(prompt=prompt, mode="ar", limits=Limits(shape.tokens))
    peer.generate(request, static_cache=True)  # compiles
    done = peer.generate(request, static_cache=True)
    return 1000 * done.seconds / max(1, len(done.tokens) - 1)
