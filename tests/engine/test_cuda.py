"""Tests that need a card: activations, memory and the released shapes on CUDA.

The laws of decoding run there too: `make gpu` sets DLM_TEST_DEVICE for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from engine.api import BlockOptions, Limits, Request
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.config import BUNDLED_CHECKPOINT, EngineSettings
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.engine import Engine
from engine.errors import MemoryExhausted
from engine.lab.bench.shapes import random_adapter, random_network, released_config
from engine.lab.bench.steps import measure_steps, seeded_tokens
from engine.lab.verify.activations import trace
from engine.loop import decode as decode_tokens
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.families import RELEASED
from engine.model.runner import ModelRunner
from tests.engine.seeded import CPU

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def freed_memory() -> Iterator[None]:
    """Each test begins with an empty card."""
    yield
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_equal_the_cpus_within_dtype_error(dtype: torch.dtype) -> None:
    """fp32 as fp32 rounds; bf16 within twice the CPU's own error, both against the CPU's fp32."""
    config = read_config(BUNDLED_CHECKPOINT)
    tokens = list(range(100, 220))

    def activations(device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        network = load_network(BUNDLED_CHECKPOINT, config, device=device, dtype=dtype)
        found = trace(network, tokens)
        return {name: value.float().cpu() for name, value in found.items()}

    exact = activations(CPU, torch.float32)
    ours = activations(CUDA, dtype)
    theirs = activations(CPU, dtype)
    for name, reference in exact.items():
        scale = reference.norm()
        error = float((ours[name] - reference).norm() / scale)
        own = float((theirs[name] - reference).norm() / scale)
        limit = 5e-5 if dtype == torch.float32 else max(2 * own, 1e-3)
        assert error <= limit, f"{name}: {error:.2e} against {limit:.2e}"


@pytest.mark.parametrize("size", sorted(RELEASED))
def test_the_released_shapes_decode_in_every_mode_and_their_memory_is_stated(
    size: str, record_property: pytest.RecordProperty
) -> None:
    config = released_config(size)
    network = random_network(config, device=CUDA, dtype=torch.bfloat16)
    adapter = random_adapter(config, device=CUDA, dtype=torch.bfloat16)
    model = ModelRunner(network, device=CUDA, adapter=adapter)
    shape = CacheShape.of(config)
    cache = KVCache(shape, 1024, device=CUDA, dtype=torch.bfloat16)
    prompt = seeded_tokens(model, 200)
    block = BlockOptions(length=8, threshold=0.9)
    request = Request(prompt, "ar", Limits(tokens_max=8), block=block, exact=True)
    texts = {}
    for mode in STRATEGIES:
        one = replace(request, mode=mode, exact=mode != "block")
        states = decode_tokens(model, cache, STRATEGIES[mode], one, Traits(config.mask_id, True))
        texts[mode] = [state.progress.committed for state in states][-1]
        assert len(texts[mode]) == 8
    assert len({texts[mode] for mode in texts if mode != "block"}) == 1
    gib = torch.cuda.max_memory_allocated() / 2**30
    record_property(f"{size} GiB", round(gib, 2))
    print(f"\n{size}: {gib:.1f} GiB at most")


def test_too_little_memory_is_an_error_that_names_the_need() -> None:
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**30 / total))
    try:
        with pytest.raises(MemoryExhausted, match="GiB"):
            random_network(released_config("3B"), device=CUDA, dtype=torch.bfloat16)
        with pytest.raises(MemoryExhausted, match="tokens"):
            KVCache(CacheShape(34, 8, 128), 200_000, device=CUDA, dtype=torch.bfloat16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_bundled_model_answers_through_the_engine() -> None:
    engine = Engine.load(EngineSettings(device="cuda"))
    try:
        assert engine.info.device == "cuda"
        assert engine.info.dtype == "bfloat16"
        prompt = tuple(engine.tokenizer.encode("def add(first, second):\n    return "))
        for mode in engine.info.modes:
            done = engine.generate(Request(prompt, mode, Limits(tokens_max=16)))
            assert done.usage.tokens == 16
    finally:
        engine.close()


def test_steps_are_timed() -> None:
    config = replace(released_config("3B"), layers=2)
    model = ModelRunner(random_network(config, device=CUDA, dtype=torch.bfloat16), device=CUDA)
    times = list(measure_steps(model, (1, 32), (64,)))
    assert all(time.milliseconds > 0 for time in times)
