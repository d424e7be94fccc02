"""Dead rows, the choice of a bucket and what stood in the buffers change no bit of a result.

Everything that a step does not own is made as bad as it can be before it runs: not-a-number in
every slot that is no live token's, in the places of keys, values, hidden states and records, and
integers without any sense in the blocks on the host and on the device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import Sampling
from engine.cache.storage import KVCache
from engine.model.captured.buckets import DRAFT_DEPTHS, ROWS, SEQUENCES, Bucket
from engine.model.captured.runner import CapturedRunner
from engine.model.captured.steps import CapturedSteps
from engine.step import Step, chain, chain_with_groups, joined
from tests.engine.model.captured.test_equal import LENGTHS, filled
from tests.engine.seeded import DEVICE
from tests.engine.steps import trees
from tests.engine.subjects import subject

GARBAGE = 0x5A5A5A5A


def spoil(steps: CapturedSteps, cache: KVCache, lengths: dict[int, int]) -> None:
    """Overwrites all that no live token stands in."""
    live = [slot for sequence in lengths for slot in cache._pages.slots(sequence)]
    dead = torch.ones(cache.store.shape[1], dtype=torch.bool, device=cache.store.device)
    dead[live] = False
    cache.store[:, dead] = math.nan
    with torch.inference_mode():
        for new in (steps._new, steps._new_exact):
            if new is not None:
                new.fill_(math.nan)
        for ready in steps._ready.values():
            ready.buffers.inputs.block.host.fill_(GARBAGE)
            ready.buffers.inputs.block.device.fill_(GARBAGE)
            ready.buffers.hidden.fill_(math.nan)
            ready.buffers.records.fill_(math.nan)


def run_in(
    model: CapturedRunner, bucket: Bucket, step: Step, cache: KVCache
) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """The hidden states, new keys and values, and readings of the step's own rows."""
    steps = model.steps_of(cache)
    with torch.inference_mode():
        hidden = steps.run(bucket, step, cache)[: step.rows].clone()
        return hidden, steps._new[:, : step.rows].clone(), steps.readings(bucket, len(step.read))


def larger(data: st.DataObject, bucket: Bucket) -> Bucket:
    """A bucket that holds whatever this one holds."""
    rows = data.draw(st.sampled_from([rows for rows in ROWS if rows >= bucket.rows]))
    reads = data.draw(st.sampled_from(sorted({bucket.reads, rows} if bucket.reads else {0})))
    depths = [depth for depth in DRAFT_DEPTHS if depth >= bucket.draft_depth]
    return replace(
        bucket,
        rows=rows,
        reads=reads,
        sequences=data.draw(st.sampled_from([n for n in SEQUENCES if n >= bucket.sequences])),
        draft_depth=data.draw(st.sampled_from(depths)) if bucket.draft_depth else 0,
        is_adapted=bucket.is_adapted,
    )


def some_step(data: st.DataObject, masks: tuple[int, ...]) -> Step:
    """Trees of rows, or a mask adapter's drafts beside a chain."""
    if not masks or data.draw(st.booleans()):
        return data.draw(trees(LENGTHS))
    hung = chain_with_groups((5, 6), LENGTHS[0], [(1, masks)], shifts=True, drafter=True)
    rows = data.draw(st.integers(1, 20))
    beside = chain((7,) * rows, LENGTHS[1], read=(rows - 1,), sequence=1)
    return joined(data.draw(st.permutations([hung, beside])))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a card's products depend on the bucket")
@pytest.mark.parametrize("name", ["small", "adapted"])
@given(st.data())
@settings(max_examples=30)
def test_neither_padding_nor_bucket_nor_stale_content_changes_a_bit(
    name: str, data: st.DataObject
) -> None:
    tried = subject(name, "captured float32")
    model = tried.model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    step = some_step(data, tried.traits.draft_masks)
    bucket = model.bucket(step, cache)
    assert bucket is not None
    before = cache.store[:, [s for n in LENGTHS for s in cache._pages.slots(n)]].clone()
    expected = run_in(model, bucket, step, cache)
    for other in (bucket, larger(data, bucket), larger(data, bucket)):
        run_in(model, other, chain((9,), LENGTHS[1], sequence=1), cache)  # something stands there
        spoil(model.steps_of(cache), cache, LENGTHS)
        found = run_in(model, other, step, cache)
        assert not any(tensor.isnan().any() for tensor in found[:2])
        assert all(torch.equal(*each) for each in zip(found[:2], expected[:2], strict=True))
        assert found[2] == expected[2]
        assert torch.equal(
            cache.store[:, [s for n in LENGTHS for s in cache._pages.slots(n)]], before
        ), "a step writes into no page"


@pytest.mark.parametrize("name", ["small", "adapted"])
@given(st.data())
@settings(max_examples=10)
def test_stale_content_changes_no_bit_within_a_bucket(name: str, data: st.DataObject) -> None:
    """On a card too, where graphs are replayed."""
    tried = subject(name, "captured float32")
    model = tried.model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    step = some_step(data, tried.traits.draft_masks)
    expected = model(step, cache, Sampling())
    spoil(model.steps_of(cache), cache, LENGTHS)
    assert model(step, cache, Sampling()) == expected


def test_what_is_kept_is_what_the_step_computed_and_nothing_else() -> None:
    tried = subject("small", "captured float32")
    model = tried.model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    model(chain((9,), LENGTHS[1], sequence=1), cache, Sampling())
    spoil(model.steps_of(cache), cache, LENGTHS)
    step = chain((5, 6, 7), LENGTHS[0], read=(2,))
    model(step, cache, Sampling())
    cache.keep(step, (0, 1))
    live = [slot for number in LENGTHS for slot in cache._pages.slots(number)]
    assert len(live) == sum(LENGTHS.values()) + 2
    is_number = ~cache.store.isnan().flatten(2).any(dim=2)
    assert is_number[:, live].all()
    assert int(is_number.sum()) == len(live) * cache.store.shape[0]


def test_the_spoiling_would_be_seen() -> None:
    """The law above can fail: a live slot that is spoilt shows in the readings."""
    tried = subject("small", "captured float32")
    model = tried.model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    step = chain((5,), LENGTHS[0], read=(0,))
    model(step, cache, Sampling())
    spoil(model.steps_of(cache), cache, {1: LENGTHS[1]})
    assert math.isnan(model(step, cache, Sampling())[0].log_sum_exp)
