"""A trained adapter as the beginning of another: the same one, or its best approximation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.lab.training.mask_adapter.start import lower_rank, trained_adapter
from tests.engine.lab.training.mask_adapter.test_served import exported, network, trained


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_a_lower_rank_is_the_best_approximation_of_the_product(
    rows: int, columns: int, has: int, rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rank = min(rank, has)
    left = rng.normal(size=(rows, has)).astype(np.float32)
    right = rng.normal(size=(has, columns)).astype(np.float32)
    new_left, new_right = lower_rank(left, right, rank)
    assert (new_left.shape, new_right.shape) == ((rows, rank), (rank, columns))
    product = left.astype(float) @ right
    values = np.linalg.svd(product, compute_uv=False)
    error = np.linalg.norm(product - new_left.astype(float) @ new_right)
    np.testing.assert_allclose(error, np.sqrt((values[rank:] ** 2).sum()), atol=1e-4)
    if rank < has:  # both factors have the same share of every singular value
        np.testing.assert_allclose(
            np.linalg.norm(new_left, axis=0), np.linalg.norm(new_right, axis=1), atol=1e-4
        )


def test_the_same_ranks_give_the_same_adapter(tmp_path: Path) -> None:
    old = exported(trained(), tmp_path / "old")
    new = exported(trained_adapter(network(), old), tmp_path / "new")
    assert np.array_equal(old.draft_ids, new.draft_ids)
    for linear in ("encoder.layers.0.mlp.up_proj", "encoder.layers.1.self_attn.q_proj"):
        before, after = old.factors(linear), new.factors(linear)
        product, again = before.up @ before.down, after.up @ after.down
        np.testing.assert_allclose(again, product, rtol=1e-4, atol=1e-5)
    for part in ("mask_vectors", "before", "after"):
        np.testing.assert_allclose(getattr(new, part), getattr(old, part), rtol=1e-5)


def test_lower_ranks_keep_vectors_and_vocabulary(tmp_path: Path) -> None:
    old = exported(trained(), tmp_path)
    adapter = trained_adapter(network(), old, rank=2, markov_rank=0)
    assert adapter.options.rank == 2
    assert adapter.options.markov_rank == 0
    np.testing.assert_array_equal(adapter.mask_vectors.detach().numpy(), old.mask_vectors)
    np.testing.assert_array_equal(adapter.draft_ids.numpy(), old.draft_ids)
    key = "0/self_attn/o_proj"
    factors = old.factors("encoder.layers.0.self_attn.o_proj")
    product = factors.up @ factors.down
    kept = (adapter.lowrank.up[key] @ adapter.lowrank.down[key]).detach().numpy()
    values = np.linalg.svd(product, compute_uv=False)
    np.testing.assert_allclose(
        np.linalg.norm(product - kept), np.sqrt((values[2:] ** 2).sum()), rtol=1e-3
    )


def test_an_adapter_without_a_markov_head_is_written_and_read(tmp_path: Path) -> None:
    adapter = trained_adapter(network(), exported(trained(), tmp_path / "old"), markov_rank=0)
    found = exported(adapter, tmp_path / "new")
    assert found.before.shape == (len(found.draft_ids) + 2, 0)
    assert found.after.shape == (0, len(found.draft_ids))


@pytest.mark.parametrize(("option", "value"), [("rank", 5), ("markov_rank", 5)])
def test_a_larger_rank_is_refused(option: str, value: int, tmp_path: Path) -> None:
    old = exported(trained(), tmp_path)
    with pytest.raises(ConfigError, match="has 4") as error:
        trained_adapter(network(), old, **{option: value})
    assert error.value.param == option.replace("_", "-")
