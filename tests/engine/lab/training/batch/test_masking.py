"""What is masked, how often, and with which weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.lab.data.sampler import Branch
from engine.lab.training.batch.masking import BLOCK_LENGTHS, FILLING_SHARE, Noise, add_noise

MASK, END_OF_MIDDLE = 3, 8


def hole(prompt: int, middle: int) -> Branch:
    """`prompt` distinct tokens, `middle` more, and end-of-middle."""
    tokens = np.append(np.arange(100, 100 + prompt + middle), END_OF_MIDDLE)
    return Branch(11, tokens, np.ones(len(tokens), dtype=np.float32), prompt)


def noise(prompt: int, middle: int, seed: int, copies: int = 2) -> Noise:
    rng = np.random.default_rng(seed)
    return add_noise(hole(prompt, middle), mask_id=MASK, copies=copies, rng=rng)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 70), st.integers(0, 2**32))
def test_blocks_start_at_the_middle_and_repeat_it_filled_with_its_end(
    prompt: int, middle: int, seed: int
):
    whole = hole(prompt, middle)
    rows = noise(prompt, middle, seed, copies=1)
    lengths = {int((rows.blocks == block).sum()) for block in set(rows.blocks.tolist())}
    assert len(lengths) == 1
    assert lengths <= set(BLOCK_LENGTHS)
    assert rows.positions.tolist() == list(range(prompt, prompt + len(rows.tokens)))
    assert set(((rows.starts - prompt) % lengths.pop()).tolist()) == {0}
    assert rows.labels[: middle + 1].tolist() == whole.tokens[prompt:].tolist()
    assert set(rows.labels[middle:].tolist()) == {END_OF_MIDDLE}
    filling = len(rows.labels) - middle - 1
    assert rows.shares.sum() == pytest.approx(middle + 1 + FILLING_SHARE * filling)


def test_rows_show_their_token_or_the_mask_and_only_masks_are_weighted():
    rows = noise(5, 400, seed=1, copies=20)
    masked = rows.tokens == MASK
    assert (rows.tokens[~masked] == rows.labels[~masked]).all()
    assert (rows.weights[~masked] == 0).all()
    assert (rows.weights[masked] > 0).all()


def test_weights_are_on_average_the_shares_where_rows_can_be_masked():
    rows = noise(5, 400, seed=2, copies=300)
    inside = rows.positions != rows.starts
    # 1/p is cut at 10, which takes 5 % off the lowest tenth of the noise levels.
    assert rows.weights[inside].mean() == pytest.approx(rows.shares[inside].mean(), rel=0.06)


def test_many_blocks_are_masked_whole_with_and_without_their_first_token():
    rows = noise(5, 400, seed=3, copies=200)
    masked = rows.tokens == MASK
    blocks = [masked[rows.blocks == block] for block in range(rows.blocks[-1] + 1)]
    whole = [block for block in blocks if block[1:].all()]
    assert len(whole) / len(blocks) >= 0.25
    seedless = sum(bool(block[0]) for block in whole) / len(whole)
    assert 0.15 < seedless < 0.4


def test_after_the_end_all_is_masked_in_many_copies_and_weighs_as_often_as_it_is_seen():
    middle, copies = 9, 400
    rows = noise(5, middle, seed=4, copies=copies)
    later = rows.positions > 5 + middle
    masked = (rows.tokens == MASK) & later
    whole = [
        bool(masked[(rows.blocks == block) & later].all()) for block in set(rows.blocks[later])
    ]
    # The others are masked whole with the share of their blocks that are.
    assert 0.5 < np.mean(whole) < 0.8
    assert rows.weights[later].mean() == pytest.approx(FILLING_SHARE, rel=0.1)
