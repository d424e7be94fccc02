"""What a row of a training batch sees: the rule itself, and both attentions that follow it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.lab.data.sampler import Branch, Example
from engine.lab.training.batch.attention_cpu import PackedAttention
from engine.lab.training.batch.attention_flex import PAD_ROWS, FusedAttention
from engine.lab.training.batch.masking import add_noise
from engine.lab.training.batch.rows import NONE, Rows, lay_out

MASK = 3
CPU = torch.device("cpu")


@st.composite
def layouts(draw: st.DrawFn) -> Rows:
    """A few examples with holes, with or without noise, perhaps filled up."""
    examples, noises = [], []
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    is_joint = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        trunk = draw(st.integers(2, 12))
        holes = [hole_of(draw, rng, trunk) for _ in range(draw(st.integers(0, 3)))]
        examples.append(Example(*tokens_of(rng, trunk), tuple(holes)))
        noise = [add_noise(hole, mask_id=MASK, copies=2, rng=rng) for hole in holes]
        noises.append(noise if is_joint else [])
    return lay_out(examples, noises, multiple_of=draw(st.sampled_from([1, 32])))


def hole_of(draw: st.DrawFn, rng: np.random.Generator, trunk: int) -> Branch:
    prompt, middle = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    return Branch(draw(st.integers(1, trunk)), *tokens_of(rng, prompt + middle), prompt)


def tokens_of(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.ones(count, dtype=np.float32)
    weights[0] = 0.0
    return rng.integers(9, 64, count), weights


def seen_rows(rows: Rows) -> np.ndarray:
    """(R, R) bool, row by row from the rule's own words."""
    count, is_noisy = len(rows.tokens), rows.block != NONE
    sees = np.zeros((count, count), dtype=bool)
    for q in range(count):
        segment = rows.segments[rows.segment[q]]
        is_own = rows.segment == rows.segment[q]
        is_trunk = (rows.segment == segment.trunk) & (rows.place < segment.seen)
        own_clean = is_own & (rows.place < rows.reach[q])
        own_noisy = is_own & (rows.block == rows.block[q])
        sees[q] = np.where(is_noisy, own_noisy, np.where(is_own, own_clean, is_trunk))
    return sees


def projections(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((len(rows.tokens), 4, 16), (len(rows.tokens), 2, 16), (len(rows.tokens), 2, 16))
    query, key, value = (torch.randn(size, generator=generator) for size in sizes)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def by_the_rule(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what each row sees, all rows at once."""
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(2, dim=1)) / 4
    masked_out = torch.from_numpy(~seen_rows(rows)).to(query.device)
    probs = scores.masked_fill(masked_out, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", probs, value.repeat_interleave(2, dim=1))


def assert_gradients_alike(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
    found = [torch.autograd.grad(mixed.square().sum(), inputs) for mixed in (ours, theirs)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


@given(layouts())
@settings(max_examples=25, deadline=None)
def test_both_attentions_mix_what_the_rule_says(rows: Rows) -> None:
    inputs = projections(rows)
    expected = by_the_rule(rows, *inputs)
    packed = PackedAttention(rows, torch.float32)(0, *inputs)
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
    assert_gradients_alike(packed, expected, inputs)
    detached = (x.detach() for x in inputs)  # FlexAttention has no backward pass on a CPU
    fused = FusedAttention(rows, CPU, compiled=False)(0, *detached)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5)


def test_a_long_trunk_and_many_branches_are_cut_into_tiles() -> None:
    rng = np.random.default_rng(3)
    holes = tuple(Branch(seen, *tokens_of(rng, 90), 20) for seen in (5, 299, 300, 520, 600))
    examples = [Example(*tokens_of(rng, 600), holes), Example(*tokens_of(rng, 40), ())]
    noises = [[add_noise(hole, mask_id=MASK, copies=2, rng=rng) for hole in holes], []]
    rows = lay_out(examples, noises, multiple_of=512)
    inputs = projections(rows)
    expected = by_the_rule(rows, *inputs)
    packed = PackedAttention(rows, torch.float32)(0, *inputs)
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
    assert_gradients_alike(packed, expected, inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_the_fused_kernel_has_the_rules_values_and_gradients_on_a_card() -> None:
    device = torch.device("cuda")
    rng = np.random.default_rng(0)
    holes = tuple(Branch(seen, *tokens_of(rng, 60), 20) for seen in (40, 150, 300))
    examples = [Example(*tokens_of(rng, 300), holes)] * 3
    noises = [[add_noise(hole, mask_id=MASK, copies=2, rng=rng) for hole in holes]] * 3
    rows = lay_out(examples, noises, multiple_of=PAD_ROWS)
    inputs = tuple(x.detach().to(device).requires_grad_() for x in projections(rows))
    expected = by_the_rule(rows, *inputs)
    fused = FusedAttention(rows, device)(0, *inputs)
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3)
    assert_gradients_alike(fused, expected, inputs)


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_what_a_row_sees_stays_within_its_example_and_in_its_past(rows: Rows) -> None:
    sees = seen_rows(rows)
    assert sees.diagonal().all(), "every row sees itself"
    queries, keys = np.nonzero(sees)
    roots = np.array(
        [index if part.trunk == NONE else part.trunk for index, part in enumerate(rows.segments)]
    )
    assert (roots[rows.segment[queries]] == roots[rows.segment[keys]]).all()
    is_clean = rows.block[keys] == NONE
    own = rows.block[queries] == NONE
    assert (rows.positions[keys] <= rows.positions[queries])[is_clean].all()
    assert (rows.positions[keys] < rows.positions[queries])[is_clean & ~own].all()
    assert not (~is_clean & own).any(), "clean rows never see a noisy one"


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_filling_predicts_nothing_and_is_seen_by_nobody(rows: Rows) -> None:
    filling = [i for i, part in enumerate(rows.segments) if part.rows == 1]
    alone = np.isin(rows.segment, filling)
    assert not rows.ar_weights[alone].any()
    assert not rows.diffusion_weights[alone].any()
    assert (seen_rows(rows)[:, alone].sum(axis=0) == 1).all()
