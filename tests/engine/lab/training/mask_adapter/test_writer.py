"""Middles written through the CPU's engine: what "ar" emits, however many are written at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import Limits, Request
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.config import BUNDLED_CHECKPOINT, EngineSettings
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.device import resolve
from engine.lab.training.mask_adapter.teacher import write
from engine.lab.training.mask_adapter.writer import WrittenArrays, cache_tokens, write_served
from engine.loop import decode
from engine.model.onnx.graph import write_graph
from engine.model.onnx.model import OnnxModel
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.onnx.sessions import open_session
from engine.model.onnx.writer import GRAPH_FILE, GraphWriter
from engine.model.source import open_checkpoint
from engine.step import chain
from tests.engine.graphs import NetworkWeights
from tests.engine.lab.training.mask_adapter.test_served import network

# Two logits of int8 weights that are closer than this may come in either order in another step.
_NEAR = 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder = tmp_path_factory.mktemp("graph")
    source = NetworkWeights(network())
    with GraphWriter(folder) as writer:
        plan = GraphPlan("float32", half_cache=False)
        write_graph(writer, network().config, source, plan, None)
    session = open_session(folder / GRAPH_FILE, 1)
    # This family has no mask token, which requests would never emit.
    config = replace(network().config, mask_id=None)
    return OnnxModel(session, source, config, has_drafter=False)


def written(
    model: OnnxModel, prompts: np.ndarray, count: int, ends: tuple[int, ...], at_once: int
) -> WrittenArrays:
    tokens = cache_tokens(prompts.shape[1] + count, at_once)
    cache = ArrayCache(CacheShape.of(model.config), tokens, half=False)
    found = write_served(model, cache, prompts, count, ends, at_once)
    assert cache.counts().in_use == 0  # every sequence was closed
    return found


def prompts_of(number: int, length: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(5, network().config.vocabulary, (number, length)).astype(np.int32)


@settings(max_examples=20)
@given(
    number=st.integers(1, 7),
    length=st.integers(1, 80),
    count=st.integers(1, 20),
    at_once=st.integers(1, 5),
    ends=st.sets(st.integers(0, 40), max_size=12),
)
def test_the_engine_writes_what_torch_writes(
    model: OnnxModel, number: int, length: int, count: int, at_once: int, ends: set[int]
) -> None:
    """Up to each sequence's end: places after it mean nothing."""
    end_ids = tuple(sorted(ends)) or (-1,)
    prompts = prompts_of(number, length, seed=length)
    found = written(model, prompts, count, end_ids, at_once)
    expected = write(network(), torch.from_numpy(prompts).long(), count, end_ids)
    assert np.array_equal(found.ends, expected.ends.numpy())
    for row, end in enumerate(found.ends):
        assert np.array_equal(found.tokens[row, :end], expected.tokens[row, :end].numpy())
        assert np.array_equal(found.greedy[row, :end], expected.greedy[row, :end].numpy())


def test_what_is_written_is_what_ar_emits(model: OnnxModel) -> None:
    prompts = prompts_of(6, 20, seed=3)
    end_ids = (7, 11)
    found = written(model, prompts, 16, end_ids, 4)
    for row, prompt in enumerate(prompts.tolist()):
        cache = ArrayCache(CacheShape.of(model.config), 96, half=False)
        request = Request(tuple(prompt), "ar", Limits(tokens_max=16), stop_token_ids=end_ids)
        *_, last = decode(model, cache, STRATEGIES["ar"], request, Traits(None))
        emitted = list(last.progress.committed)
        middle = found.tokens[row, 20 : found.ends[row]].tolist()
        assert middle[: len(emitted)] == emitted
        assert (middle[len(emitted) :] != []) == (last.progress.finished == "end")


def test_integer_graphs_write_what_ar_emits_up_to_near_ties(tmp_path: Path) -> None:
    given = EngineSettings(BUNDLED_CHECKPOINT, "cpu", "int8", threads=1, graphs=tmp_path)
    runtime = OnnxRuntime.load(open_checkpoint(BUNDLED_CHECKPOINT), resolve(given))
    rng = np.random.default_rng(1)
    prompts = rng.integers(20, runtime.config.vocabulary - 20, (6, 24)).astype(np.int32)
    cache = runtime.new_cache(cache_tokens(48))
    found = write_served(runtime.model, cache, prompts, 24, (-1,))
    same = 0
    for row, prompt in enumerate(prompts.tolist()):
        request = Request(tuple(prompt), "ar", Limits(tokens_max=24))
        *_, last = decode(runtime, runtime.new_cache(96), STRATEGIES["ar"], request, Traits(None))
        emitted, middle = list(last.progress.committed), found.tokens[row, 24:].tolist()
        parting = next((i for i in range(24) if emitted[i] != middle[i]), None)
        if parting is None:
            same += 1
            continue
        both = (*prompt, *emitted[:parting])
        logits = _logits_after(runtime, both)
        assert abs(logits[emitted[parting]] - logits[middle[parting]]) < _NEAR
    assert same >= 3


def _logits_after(runtime: OnnxRuntime, tokens: tuple[int, ...]) -> np.ndarray:
    cache = runtime.new_cache(96)
    sequence, cached = cache.open(tokens, 96)
    step = chain(tokens[cached:], cached, read=(len(tokens) - cached - 1,), sequence=sequence)
    return runtime.model.logits(step, cache)[0]
