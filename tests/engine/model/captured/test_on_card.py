"""What only a card can show: steps are captured once, replayed for other steps, and allocate
nothing then. `make gpu` runs these and the laws; nobody has had a card to run them on yet."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from engine.api import Sampling
from engine.cache.storage import KVCache
from engine.model.captured.buckets import usual_buckets
from engine.model.captured.runner import CapturedRunner
from engine.model.captured.steps import CapturedSteps
from engine.model.runner import ModelRunner
from engine.step import Step, chain, chain_with_groups
from tests.engine.model.captured.test_equal import LENGTHS, assert_alike, filled
from tests.engine.seeded import DEVICE
from tests.engine.subjects import subject

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type != "cuda", reason="no card is asked for (`make gpu` does)"),
]


@pytest.fixture
def captured() -> Iterator[tuple[CapturedRunner, KVCache, CapturedSteps]]:
    assert os.environ.get("TRITON_INTERPRET", "0") == "0"
    model = subject("small", "captured float32").model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    return model, cache, model.steps_of(cache)


def growing(rows: int, start: int = LENGTHS[0]) -> Step:
    return chain(tuple(range(4, 4 + rows)), start, read=tuple(range(rows)))


def test_one_graph_serves_all_steps_of_a_bucket(
    captured: tuple[CapturedRunner, KVCache, CapturedSteps],
) -> None:
    model, cache, steps = captured
    clear = subject("small", "float32").model
    assert isinstance(clear, ModelRunner)
    other = filled(clear)
    graphs = set()
    for rows, start in [(3, 40), (1, 43), (16, 44), (9, 60)]:
        step = growing(rows, start)
        found = model(step, cache, Sampling())
        assert_alike(found, clear(step, other, Sampling()))
        for each in (cache, other):
            each.keep(step, tuple(range(rows)))
        bucket = model.bucket(step, cache)
        assert bucket is not None
        graph = steps._ready[bucket].replay.graph
        assert graph is not None
        graphs.add(id(graph))
    assert len(graphs) == 1


def test_a_replay_allocates_nothing(
    captured: tuple[CapturedRunner, KVCache, CapturedSteps],
) -> None:
    model, cache, steps = captured
    step = growing(5)
    bucket = model.bucket(step, cache)
    assert bucket is not None
    model(step, cache, Sampling())
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with torch.inference_mode():
        steps.run(bucket, growing(7), cache)
        steps.readings(bucket, 7)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_capture_and_replay_draw_no_random_number(
    captured: tuple[CapturedRunner, KVCache, CapturedSteps],
) -> None:
    model, cache, _ = captured
    before = torch.cuda.get_rng_state(DEVICE)
    for _ in range(2):
        model(growing(20), cache, Sampling())
    assert torch.equal(torch.cuda.get_rng_state(DEVICE), before)


def test_buckets_share_a_pool_and_do_not_disturb_each_other(
    captured: tuple[CapturedRunner, KVCache, CapturedSteps],
) -> None:
    model, cache, steps = captured
    sizes = (3, 20, 50, 100)
    first = [model(growing(rows), cache, Sampling()) for rows in sizes]
    again = [model(growing(rows), cache, Sampling()) for rows in reversed(sizes)]
    assert first == again[::-1]
    graphs = [ready.replay.graph for ready in steps._ready.values()]
    assert len({graph.pool() for graph in graphs if graph is not None}) == 1


def test_settling_captures_the_usual_buckets() -> None:
    model = subject("adapted", "captured float32").model
    assert isinstance(model, CapturedRunner)
    cache = filled(model)
    for _ in model.settle():
        pass
    ready = model.steps_of(cache)._ready
    usual = set(usual_buckets(has_adapter=True, has_draft_rows=True))
    assert usual <= set(ready)
    assert all(ready[bucket].replay.graph is not None for bucket in usual)
    hung = chain_with_groups(
        (5, 6), LENGTHS[0], [(1, model.draft_masks)], shifts=True, drafter=True
    )
    clear = subject("adapted", "float32").model
    assert isinstance(clear, ModelRunner)
    assert_alike(model(hung, cache, Sampling()), clear(hung, filled(clear), Sampling()))
