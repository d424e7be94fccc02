"""The models that the laws are tried on: a tiny seeded one and the bundled one, in both dtypes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.config import BUNDLED_CHECKPOINT
from engine.decoders.strategy import Traits
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.runner import Model
from engine.model.tokenizer import read_tokenizer
from tests.engine.seeded import CONFIG, DEVICE, prompt_of, seeded_network

DTYPES = ("float32", "bfloat16")
NAMES = ("tiny", "bundled")
DOCUMENTS = Path(__file__).parent.parent.parent / "fixtures" / "documents"
CURSOR = "‸"
# Places of the fixtures: inside a line, on an empty one, at the end, with and without text behind.
PLACES = ("python_body", "python_call", "python_sum", "python_typed", "python_branches")


@dataclass(frozen=True)
class Subject:
    """A model, its traits and prompts that suit it."""

    model: Model
    traits: Traits
    prompts: tuple[tuple[int, ...], ...]

    def cache(self, num_tokens: int = 1024) -> KVCache:
        """An empty one."""
        config = self.model.network.config
        shape = CacheShape.of(config)
        dtype = next(self.model.network.parameters()).dtype
        return KVCache(shape, num_tokens, device=DEVICE, dtype=dtype)


@cache
def subject(name: str, dtype: str) -> Subject:
    """One of NAMES in one of DTYPES."""
    if name == "tiny":
        network = seeded_network(config=replace(CONFIG, layers=3)).to(DEVICE, getattr(torch, dtype))
        # Repeating itself, so that there is something to copy.
        prompts = tuple(prompt_of(20 + 9 * seed, seed) * 2 for seed in range(4))
    else:
        config = read_config(BUNDLED_CHECKPOINT)
        network = load_network(
            BUNDLED_CHECKPOINT, config, device=DEVICE, dtype=getattr(torch, dtype)
        )
        prompts = tuple(_infilling_prompt(name) for name in PLACES)
    traits = Traits(network.config.mask_id)
    return Subject(Model(network, device=DEVICE), traits, prompts)


def _infilling_prompt(name: str) -> tuple[int, ...]:
    tokenizer = read_tokenizer(BUNDLED_CHECKPOINT)
    text = (DOCUMENTS / f"{name}.py.txt").read_text("utf-8")
    before, _, after = text.partition(CURSOR)
    assert tokenizer.infill is not None
    encode = tokenizer.encode
    return tokenizer.infill.prompt((), encode(before), encode(after))
