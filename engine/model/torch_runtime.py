"""The engine's runtime in torch: the network, the drafter LoRA and the K/V store on one device.

Knows neither the content of files nor decoding; `engine.model.runner` connects network and cache.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator

import torch

from engine.api import Sampling
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.config import EngineSettings
from engine.errors import MemoryExhausted
from engine.model.adapter import load_adapter
from engine.model.checkpoint import build_network
from engine.model.config import ModelConfig
from engine.model.network import Network
from engine.model.quantized_linear import is_quantized
from engine.model.quantized_trial import fault as product_fault
from engine.model.runner import ModelRunner
from engine.model.source import CheckpointSource
from engine.model.torch_mask_adapter import load_mask_adapter
from engine.reading import Reading
from engine.step import Step

logger = logging.getLogger(__name__)


class TorchRuntime:
    """As `engine.runtime.Runtime`."""

    def __init__(self, model: ModelRunner) -> None:
        weight = next(model.network.parameters())
        self.model = model
        self.config: ModelConfig = model.network.config
        self.has_drafter = model.adapter is not None
        self.draft_masks = model.draft_masks
        self.device = model.device.type
        self.dtype = str(weight.dtype).removeprefix("torch.")
        self.machine = torch.cuda.get_device_name() if self.device == "cuda" else platform.node()
        # Captured steps take another time than clear ones.
        steps = "" if type(model) is ModelRunner else ", captured steps"
        self.program = f"torch {torch.__version__}{steps}"
        if is_quantized(model.network):  # whose steps take other times
            self.program += ", quantised weights"
        self._dtype = weight.dtype

    @classmethod
    def load(cls, source: CheckpointSource, settings: EngineSettings) -> TorchRuntime:
        """Reads the weights and the drafter of a checkpoint.

        Args:
            settings: resolved settings, without "auto".

        Raises:
            EngineError: the checkpoint is broken, or there is not enough memory.
        """
        device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
        path, config = source.path, source.config
        network = _network(source, device, dtype, settings.quantized)
        try:
            if not is_quantized(network):
                network.join()
        except torch.OutOfMemoryError:
            raise MemoryExhausted(
                f"The weights of {path} do not fit on {device} with room to lay them out.",
                remedy="Use a smaller checkpoint.",
                param="engine.checkpoint",
            ) from None
        masks = load_mask_adapter(source, settings.adapters, device=device, dtype=dtype)
        if masks is not None:
            adapter, drafts = masks
            model = ModelRunner(network, device=device, adapter=adapter, drafts=drafts)
        else:
            drafter = load_adapter(path, config, device=device, dtype=dtype)
            model = ModelRunner(network, device=device, adapter=drafter)
        return cls(_captured(model) if settings.steps == "captured" else model)

    def __call__(self, step: Step, cache: KVCache, sampling: Sampling) -> tuple[Reading, ...]:
        """As `ModelRunner.__call__`."""
        return self.model(step, cache, sampling)

    def new_cache(self, tokens: int) -> KVCache:
        """An empty store. Raises MemoryExhausted if it does not fit."""
        config = self.config
        shape = CacheShape.of(config)
        cache = KVCache(shape, tokens, device=self.model.device, dtype=self._dtype)
        self.model.expect(cache)
        return cache

    def begin_thread(self, threads: int) -> None:
        """Sets the number of threads, which torch keeps for each calling thread."""
        torch.set_num_threads(threads)

    def settle(self) -> Iterator[None]:
        """As `ModelRunner.settle`."""
        return self.model.settle()


def _network(
    source: CheckpointSource, device: torch.device, dtype: torch.dtype, quantized: bool | None
) -> Network:
    """The network of a checkpoint.

    Args:
        quantized: as `EngineSettings.quantized`.
    """
    if quantized is None:
        # A card reads quantised weights as they are; a processor dequantises them every step.
        quantized = device.type == "cuda"

    def build(*, quantized: bool) -> Network:
        return build_network(
            source.weights, source.config, device=device, dtype=dtype, quantized=quantized
        )

    network = build(quantized=quantized)
    found = product_fault(network, dtype, device)
    if found is None:
        return network
    logger.warning("quantised weights do not work here, they are multiplied out: %s", found)
    del network  # before the other one takes its memory
    return build(quantized=False)


def _captured(model: ModelRunner) -> ModelRunner:
    """The same in captured steps, or the model itself where these do not work."""
    # Triton, which this imports, takes a second and need not be installed.
    from engine.model.captured.runner import CapturedRunner
    from engine.model.captured.trial import fault

    captured = CapturedRunner(
        model.network, device=model.device, adapter=model.adapter, drafts=model.drafts
    )
    found = fault(captured, exact=False)
    if found is not None:
        logger.warning("captured steps do not work on this machine, clear ones serve: %s", found)
        return model
    found = fault(captured, exact=True)
    if found is not None:
        logger.warning("clear steps serve exact requests, captured ones do not: %s", found)
        captured.has_tiles = False
    return captured
