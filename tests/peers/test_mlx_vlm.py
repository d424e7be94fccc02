"""Decoding equals mlx-vlm's own implementation of the family, token for token in fp32.

This is tested for AR, block diffusion and linear self-speculation, on a seeded network and on the
bundled model with prompts from a package that it was not trained on. `mlx_peer` switches off the
one difference of the samplers. Requests have no end token, since after one in the middle of a block
the two may stop denoising at different places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

pytest.importorskip("mlx.core", reason="mlx has no wheel for this system", exc_type=ImportError)

from engine.api import BlockOptions, Limits, Request
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.config import BUNDLED_CHECKPOINT
from engine.decoders import STRATEGIES
from engine.decoders.linear_spec import LinearSpec
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.runner import ModelRunner
from engine.model.tokenizer import read_tokenizer
from tests.engine.seeded import CPU, causal_logits, prompt_of, seeded_network
from tests.peers.awkward import held_out_prompts
from tests.peers.mlx_peer import MlxPeer

THRESHOLDS = (0.0, 0.3, 0.9)
# As published: our linear_spec also copies drafts from the context.
REFERENCE = {"linear_spec": LinearSpec(uses_copies=False)}
PROMPTS = 54


@dataclass(frozen=True)
class Pair:
    """One network, run by both."""

    network: Network
    peer: MlxPeer

    def ours(
        self, mode: str, prompt: tuple[int, ...], tokens_max: int, block: BlockOptions
    ) -> tuple[int, ...]:
        config = self.network.config
        shape = CacheShape.of(config)
        cache = KVCache(shape, 2048, device=CPU, dtype=torch.float32)
        request = Request(prompt, mode, Limits(tokens_max), block=block)
        states = decode(
            ModelRunner(self.network, device=CPU),
            cache,
            REFERENCE.get(mode, STRATEGIES[mode]),
            request,
            Traits(config.mask_id),
        )
        return list(states)[-1].progress.committed


def check(pair: Pair, prompt: tuple[int, ...], length: int, blocks: int, threshold: float) -> None:
    """All three modes on one prompt. Whole blocks: theirs shortens the last one, ours does not."""
    tokens_max = length * blocks
    block = BlockOptions(length, threshold)
    calls: dict[str, Callable[[], tuple[int, ...]]] = {
        "ar": lambda: pair.peer.ar(prompt, tokens_max),
        "linear_spec": lambda: pair.peer.linear_spec(prompt, tokens_max, length),
        "block": lambda: pair.peer.block(prompt, tokens_max, length, threshold),
    }
    for mode, theirs in calls.items():
        assert pair.ours(mode, prompt, tokens_max, block) == theirs(), mode


@pytest.fixture(scope="module")
def seeded() -> Pair:
    return Pair(seeded_network(), MlxPeer(seeded_network()))


@pytest.mark.parametrize("length", [1, 64, 65, 200])
def test_causal_logits_agree(seeded: Pair, length: int) -> None:
    tokens = prompt_of(length)
    ours = causal_logits(seeded.network, tokens).numpy()
    np.testing.assert_allclose(ours, seeded.peer.logits(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("seed", range(4))
def test_all_modes_agree_on_a_seeded_network(seeded: Pair, seed: int, threshold: float) -> None:
    check(seeded, prompt_of(20 + 15 * seed, seed), length=8, blocks=3, threshold=threshold)


@pytest.fixture(scope="module")
def bundled() -> Pair:
    config = read_config(BUNDLED_CHECKPOINT)
    network = load_network(BUNDLED_CHECKPOINT, config, device=CPU, dtype=torch.float32)
    return Pair(network, MlxPeer(network))


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    return held_out_prompts(read_tokenizer(BUNDLED_CHECKPOINT), PROMPTS)


@pytest.mark.parametrize(
    "number",
    [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(12, PROMPTS))],
)
def test_all_modes_agree_on_the_bundled_model(
    bundled: Pair, prompts: list[tuple[int, ...]], number: int
) -> None:
    check(bundled, prompts[number], length=16, blocks=2, threshold=(0.5, 0.7, 0.9)[number % 3])
