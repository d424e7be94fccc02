"""The joint forward: noisy rows never see their answer, examples never see each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.lab.data.sampler import Branch, Example
from engine.lab.training.batch.masking import Noise, add_noise
from engine.lab.training.batch.rows import lay_out
from engine.lab.training.loss.objective import Batch, assemble, backward, losses, to_batch
from engine.lab.training.recipe import Shape, model_config
from engine.lab.training.trainer import initial_weight
from engine.model.network import Network

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


def example(trunk: int, *holes: tuple[int, int, int], seed: int) -> Example:
    """A trunk with holes, each given as (seen, own prompt, middle with its end)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(9, VOCABULARY, trunk)
    made = []
    for seen, prompt, middle in holes:
        own = rng.integers(9, VOCABULARY, prompt + middle)
        weights = np.ones(len(own), dtype=np.float32)
        weights[0] = 0.0
        made.append(Branch(seen, own, weights, prompt))
    weights = np.ones(trunk, dtype=np.float32)
    weights[0] = 0.0
    return Example(tokens, weights, tuple(made))


def noisy(whole: Example, seed: int = 7) -> list[Noise]:
    rng = np.random.default_rng(seed)
    return [add_noise(hole, mask_id=MASK, copies=2, rng=rng) for hole in whole.holes]


def logits(network: Network, batch: Batch) -> Tensor:
    with torch.no_grad():
        return logits_with_gradient(network, batch)


def of(examples: list[Example], noises: list[list[Noise]]) -> Batch:
    return to_batch(lay_out(examples, noises), device=CPU, dtype=torch.float32)


def other(token: int) -> int:
    return 9 if token != 9 else 10


def test_noisy_rows_ignore_clean_tokens_from_their_block_on(network: Network):
    whole = example(18, (18, 2, 51), seed=1)
    (hole,), (noise,) = whole.holes, noisy(whole)
    clean = 18 + len(hole.tokens)
    before = logits(network, of([whole], [[noise]]))[clean:]
    for place in range(hole.middle, len(hole.tokens)):
        tokens = hole.tokens.copy()
        tokens[place] = other(tokens[place])
        changed = replace(whole, holes=(replace(hole, tokens=tokens),))
        after = logits(network, of([changed], [[noise]]))[clean:]
        may_see = torch.from_numpy(noise.starts > place)
        torch.testing.assert_close(after[~may_see], before[~may_see], rtol=0, atol=0)
        assert (after[may_see] != before[may_see]).any(dim=-1).all()


def test_noisy_rows_ignore_other_blocks_and_see_all_of_their_own(network: Network):
    whole = example(18, (18, 2, 51), seed=2)
    (hole,), (noise,) = whole.holes, noisy(whole)
    clean = 18 + len(hole.tokens)
    before = logits(network, of([whole], [[noise]]))
    for place in range(0, len(noise.tokens), 5):
        tokens = noise.tokens.copy()
        tokens[place] = other(tokens[place])
        after = logits(network, of([whole], [[replace(noise, tokens=tokens)]]))
        torch.testing.assert_close(after[:clean], before[:clean], rtol=0, atol=0)
        same = torch.from_numpy(noise.blocks == noise.blocks[place])
        torch.testing.assert_close(after[clean:][~same], before[clean:][~same], rtol=0, atol=0)
        assert (after[clean:][same] != before[clean:][same]).any(dim=-1).all()


def test_a_hole_is_as_its_whole_prompt_alone(network: Network):
    """A trunk followed by a branch equals one sequence, as serving computes it."""
    whole = example(30, (12, 6, 5), (30, 4, 9), seed=4)
    rows = logits(network, of([whole], [[]]))
    start = 30
    for hole in whole.holes:
        sequence = np.concatenate((whole.tokens[: hole.seen], hole.tokens))
        alone = Example(sequence, np.ones(len(sequence), dtype=np.float32))
        expected = logits(network, of([alone], [[]]))[hole.seen :]
        got = rows[start : start + len(hole.tokens)]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        start += len(hole.tokens)


def test_examples_packed_together_are_as_alone(network: Network):
    parts = [
        example(20, (15, 3, 10), (20, 2, 8), seed=4),
        example(40, seed=5),
        example(33, (33, 1, 2), seed=6),
    ]
    noises = [noisy(part) for part in parts]
    together = logits(network, of(parts, noises))
    alone = [logits(network, of([p], [n])) for p, n in zip(parts, noises, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_losses_are_weighted_sums_of_next_and_of_same_place(network: Network):
    whole = example(12, (12, 3, 9), seed=8)
    (hole,), (noise,) = whole.holes, noisy(whole)
    batch = of([whole], [[noise]])
    rows = logits(network, batch)
    trunk = functional.cross_entropy(rows[:11], torch.from_numpy(whole.tokens[1:]), reduction="sum")
    branch = functional.cross_entropy(
        rows[12:23], torch.from_numpy(hole.tokens[1:]), reduction="sum"
    )
    each = functional.cross_entropy(rows[24:], torch.from_numpy(noise.labels), reduction="none")
    diffusion = (each * torch.from_numpy(noise.weights)).sum()
    sums = losses(network, batch)
    assert sums.ar == pytest.approx(float(trunk + branch), rel=1e-4)
    assert sums.diffusion == pytest.approx(float(diffusion), rel=1e-4)
    assert batch.ar_total == 11 + 11
    assert batch.diffusion_total == pytest.approx(float(noise.shares.sum()))


def test_gradients_are_those_of_the_scaled_sums(network: Network):
    # More rows than the head takes at a time.
    whole = example(700, (700, 3, 40), seed=9)
    batch = of([whole], [noisy(whole)])
    rows = logits_with_gradient(network, batch)[batch.read]
    each = functional.cross_entropy(rows, batch.labels, reduction="none")
    loss = (each * (0.5 * batch.ar_weights + 0.25 * batch.diffusion_weights)).sum()
    parameters = dict(network.named_parameters())
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for parameter in parameters.values():
        parameter.grad = None
    sums = backward(network, batch, ar_scale=0.5, diffusion_scale=0.25)
    assert sums.ar == pytest.approx(losses(network, batch).ar, rel=1e-4)
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        assert parameter.grad is not None, name
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * scale)
        parameter.grad = None


def test_rows_that_fill_a_batch_up_change_nothing(network: Network):
    whole = example(70, (70, 3, 20), seed=10)
    noises = [noisy(whole)]
    bare, filled = of([whole], noises), assemble([whole], noises, device=CPU, dtype=torch.float32)
    assert len(filled.tokens) > len(bare.tokens)
    assert (filled.ar_total, filled.diffusion_total) == (bare.ar_total, bare.diffusion_total)
    gradients = []
    for batch in (bare, filled):
        sums = backward(network, batch, ar_scale=0.5, diffusion_scale=0.25)
        assert sums.ar == pytest.approx(losses(network, bare).ar, rel=1e-4)
        gradients.append([parameter.grad for parameter in network.parameters()])
        network.zero_grad()
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def logits_with_gradient(network: Network, batch: Batch) -> Tensor:
    hidden = network(batch.tokens, batch.positions, batch.attend)
    return network.logits(hidden)
