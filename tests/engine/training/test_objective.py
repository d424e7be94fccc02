"""The joint forward: noisy rows never see their answer, examples never see each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.model.network import Network
from engine.training.loop import initial_weight
from engine.training.masking import Noise, add_noise
from engine.training.objective import Batch, PackedAttention, assemble, losses
from engine.training.packing import Example
from engine.training.recipe import Shape, model_config

VOCABULARY, MASK = 64, 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = Network(model_config(Shape(64, 96, 2, 2, 1, VOCABULARY)))
    for name, parameter in made.named_parameters():
        # Wider than for training, so that attention is far from uniform and leaks would show.
        scale = 1.0 if parameter.dim() < 2 else 8.0
        parameter.data = initial_weight(name, parameter.shape, 2) * scale
    return made


def example(prompt: int, middle: int, seed: int) -> Example:
    tokens = np.random.default_rng(seed).integers(9, VOCABULARY, prompt + middle + 1)
    return Example(tokens, np.ones(len(tokens), dtype=np.float32), prompt)


def noisy(whole: Example, seed: int = 7) -> Noise:
    made = add_noise(whole, mask_id=MASK, copies=2, rng=np.random.default_rng(seed))
    assert made is not None
    return made


def logits(network: Network, batch: Batch) -> Tensor:
    with torch.no_grad():
        hidden = network(batch.tokens, batch.positions, PackedAttention(batch.segments))
        return network.logits(hidden)


def of(examples: list[Example], noises: list[Noise | None]) -> Batch:
    return assemble(examples, noises, device=CPU, dtype=torch.float32)


def test_noisy_rows_ignore_clean_tokens_from_their_block_on(network: Network):
    whole = example(20, 50, seed=1)
    noise = noisy(whole)
    before = logits(network, of([whole], [noise]))[len(whole.tokens) :]
    for place in range(whole.middle or 0, len(whole.tokens)):
        tokens = whole.tokens.copy()
        tokens[place] = 9 if tokens[place] != 9 else 10
        after = logits(network, of([replace(whole, tokens=tokens)], [noise]))[len(tokens) :]
        may_see = torch.from_numpy(noise.starts > place)
        torch.testing.assert_close(after[~may_see], before[~may_see], rtol=0, atol=0)
        assert (after[may_see] != before[may_see]).any(dim=-1).all()


def test_noisy_rows_ignore_other_blocks_and_see_all_of_their_own(network: Network):
    whole = example(20, 50, seed=2)
    noise = noisy(whole)
    clean = len(whole.tokens)
    before = logits(network, of([whole], [noise]))
    for place in range(0, len(noise.tokens), 5):
        tokens = noise.tokens.copy()
        tokens[place] = 9 if tokens[place] != 9 else 10
        after = logits(network, of([whole], [replace(noise, tokens=tokens)]))
        torch.testing.assert_close(after[:clean], before[:clean], rtol=0, atol=0)
        same = torch.from_numpy(noise.blocks == noise.blocks[place])
        torch.testing.assert_close(after[clean:][~same], before[clean:][~same], rtol=0, atol=0)
        assert (after[clean:][same] != before[clean:][same]).any(dim=-1).all()


def test_clean_rows_are_causal(network: Network):
    whole = example(20, 10, seed=3)
    before = logits(network, of([whole], [None]))
    tokens = whole.tokens.copy()
    tokens[12] = 9 if tokens[12] != 9 else 10
    after = logits(network, of([replace(whole, tokens=tokens)], [None]))
    torch.testing.assert_close(after[:12], before[:12], rtol=0, atol=0)
    assert (after[12:] != before[12:]).any(dim=-1).all()


def test_examples_packed_together_are_as_alone(network: Network):
    parts = [example(20, 10, seed=4), example(7, 40, seed=5), example(33, 2, seed=6)]
    noises = [noisy(parts[0]), None, noisy(parts[2])]
    together = logits(network, of(parts, noises))
    alone = [logits(network, of([p], [n])) for p, n in zip(parts, noises, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_losses_are_weighted_sums_of_next_and_of_same_place(network: Network):
    whole = example(12, 9, seed=8)
    noise = noisy(whole)
    batch = of([whole], [noise])
    rows = logits(network, batch)
    clean = len(whole.tokens)
    next_tokens = torch.from_numpy(whole.tokens[1:])
    ar = functional.cross_entropy(rows[: clean - 1], next_tokens, reduction="sum")
    each = functional.cross_entropy(rows[clean:], torch.from_numpy(noise.labels), reduction="none")
    diffusion = (each * torch.from_numpy(noise.weights)).sum()
    got_ar, got_diffusion = losses(network, batch)
    torch.testing.assert_close(got_ar, ar)
    torch.testing.assert_close(got_diffusion, diffusion)
    assert batch.ar_total == clean - 1
    assert batch.diffusion_total == pytest.approx(float(noise.shares.sum()))
