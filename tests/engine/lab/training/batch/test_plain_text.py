"""Plain text as examples, and position-dependent masking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lab.data.corpus import Source
from engine.lab.data.vocabulary import train_tokenizer
from engine.lab.training.batch.masking import BLOCK_LENGTHS, add_noise
from engine.lab.training.batch.plain_text import PlainTexts, late_mask, plain_text_noise
from engine.lab.training.batch.rows import lay_out, own_sees
from engine.model.tokenizer import Tokenizer
from tests.engine.lab.training.small_checkpoints import CODE

TEXT = "".join(CODE.format(index) for index in range(12))
MASK_ID = 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CODE], 300)


@pytest.fixture(scope="module")
def texts(tokenizer: Tokenizer) -> PlainTexts:
    return PlainTexts([Source("p", "a.py", TEXT)], tokenizer, begin=1)


@given(seed=st.integers(0, 2**32 - 1))
def test_an_example_is_one_run_of_text_in_whole_blocks(
    texts: PlainTexts, tokenizer: Tokenizer, seed: int
):
    example = texts.example(np.random.default_rng(seed))
    (hole,) = example.holes
    assert hole.seen == len(example.tokens)
    assert len(hole.tokens) % max(BLOCK_LENGTHS) == 0
    assert example.tokens[0] == 1
    text = tokenizer.decode([*example.tokens[1:].tolist(), *hole.tokens.tolist()])
    assert text in TEXT
    assert hole.weights[0] == example.weights[0] == 0.0


@given(seed=st.integers(0, 2**32 - 1), late=st.sampled_from([0.0, 0.05, 1.0]))
def test_noisy_rows_never_see_what_they_are_to_predict(texts: PlainTexts, seed: int, late: float):
    rng = np.random.default_rng(seed)
    example = texts.example(rng)
    (hole,) = example.holes
    noise = plain_text_noise(hole, mask_id=MASK_ID, copies=2, late=late, rng=rng)
    clean = len(hole.tokens)
    rows = lay_out([example], [[noise]])
    branch = slice(len(example.tokens), len(rows.tokens))
    seen = own_sees(rows, branch)[clean:, :clean]
    assert not seen[np.arange(len(noise.tokens)), noise.positions].any()
    masked = noise.tokens == MASK_ID
    assert np.array_equal(noise.labels, hole.tokens[noise.positions])
    assert np.array_equal(noise.tokens[~masked], noise.labels[~masked])
    assert (noise.weights[~masked] == 0).all()


def test_without_lateness_it_is_the_recipes_noise(texts: PlainTexts):
    (hole,) = texts.example(np.random.default_rng(0)).holes
    ours = plain_text_noise(hole, mask_id=MASK_ID, copies=2, late=0.0, rng=np.random.default_rng(1))
    theirs = add_noise(hole, mask_id=MASK_ID, copies=2, rng=np.random.default_rng(1))
    assert np.array_equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("late", [0.0, 0.2])
def test_a_level_is_the_share_that_is_masked(late: float):
    masked, level = late_mask(20_000, 16, late, np.random.default_rng(0))
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (level[:, 0] >= low) & (level[:, 0] < low + 0.25)
        assert masked[inside].mean() == pytest.approx(level[inside].mean(), abs=0.01)


def test_later_tokens_are_masked_more_often_and_most_so_at_little_noise():
    masked, level = late_mask(40_000, 16, 0.3, np.random.default_rng(0))
    even, _ = late_mask(40_000, 16, 0.0, np.random.default_rng(0))
    rates = masked.mean(axis=0)
    assert (np.diff(rates) > -0.01).all()
    assert rates[-1] - rates[0] > 0.2
    assert np.ptp(even.mean(axis=0)) < 0.02
    little, much = level[:, 0] < 0.3, level[:, 0] > 0.7
    ratio = [masked[at, 8:].mean() / masked[at, :8].mean() for at in (little, much)]
    assert ratio[0] > 2 * ratio[1] > 2
