"""A small seeded network of an autoregressive family, with a mask adapter whose drafts are often
right: what the laws of the modes are tested on where masks predict the token after their place."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy
import torch

from engine.api import Limits, Request
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.mask_adapter import Factors, MaskAdapterWeights
from engine.model.network import Network
from engine.model.runner import ModelRunner
from engine.model.torch_mask_adapter import to_torch
from tests.engine.model.onnx.families import network_of
from tests.engine.seeded import CPU, empty_cache, prompt_of

FAMILY = "qwen2: biases, tied head"
MASKS = 3  # mask vectors, fewer than the rows of most groups


@cache
def adapted_network() -> Network:
    """It has no mask token, as checkpoints that fill no masks."""
    network = copy.deepcopy(network_of(FAMILY)).requires_grad_(False)
    network.config = replace(network.config, mask_id=None)
    return network


@cache
def adapter_weights() -> MaskAdapterWeights:
    """Factors and vectors that change every draft, and a draft vocabulary of the tokens that the
    network emits most often, so that some drafts are right."""
    config = adapted_network().config
    generator = numpy.random.default_rng(4)
    shapes = {
        name.removesuffix(".weight").removeprefix("encoder."): tuple(tensor.shape)
        for name, tensor in adapted_network().state_dict().items()
        if "proj.weight" in name
    }

    def draw(*shape: int) -> numpy.ndarray:
        return generator.standard_normal(shape).astype(numpy.float32) * 0.3

    factors = {
        f"encoder.{name}": Factors(draw(2, columns), draw(rows, 2))
        for name, (rows, columns) in shapes.items()
    }
    ids = numpy.array(_frequent(8), numpy.int64)
    return MaskAdapterWeights(
        name="seeded",
        factors=factors.__getitem__,
        mask_vectors=draw(MASKS, config.hidden),
        draft_ids=ids,
        before=draw(len(ids) + 2, 4),
        after=draw(4, len(ids)),
    )


def _frequent(count: int) -> list[int]:
    """The tokens that the network itself writes most often, ascending."""
    emitted: Counter[int] = Counter()
    runner = ModelRunner(adapted_network(), device=CPU)
    for seed in range(12):
        prompt = prompt_of(20 + seed, seed)
        request = Request(prompt, "ar", Limits(40))
        store = empty_cache(config=adapted_network().config)
        *_, last = decode(runner, store, STRATEGIES["ar"], request, Traits(None))
        emitted.update(last.progress.committed)
    return sorted(token for token, _ in emitted.most_common(count))


def mask_tokens() -> tuple[int, ...]:
    """The masks as tokens: those after the vocabulary."""
    vocabulary = adapted_network().config.vocabulary
    return tuple(range(vocabulary, vocabulary + MASKS))


def torch_adapter(dtype: torch.dtype = torch.float32, device: torch.device = CPU):
    return to_torch(adapter_weights(), adapted_network().config, device=device, dtype=dtype)
