"""The estimate is what backward really keeps, and the setting that an error names does fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import MemoryExhausted
from engine.lab.data.sampler import Example
from engine.lab.training.loss.objective import assemble, backward
from engine.lab.training.memory import Demand, check_memory
from engine.lab.training.recipe import PRESETS, model_config
from engine.model.config import ModelConfig
from engine.model.network import Network
from tests.engine.seeded import CPU

NANO = model_config(PRESETS["nano"].shape)
LARGE = replace(
    NANO,
    vocabulary=131_072,
    hidden=4096,
    intermediate=14_336,
    layers=34,
    heads=32,
    kv_heads=8,
    head_dim=128,
)


def saved_bytes(config: ModelConfig, rows: int) -> int:
    """What autograd keeps of the layers for one document of so many rows, weights aside."""
    network = Network(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = np.arange(rows) % config.vocabulary
    document = Example(tokens, np.ones(rows, dtype=np.float32))
    batch = assemble([document], [[]], device=CPU, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backward(network, batch, ar_scale=1.0, diffusion_scale=0.0)
    return sum(kept.values())


@pytest.mark.parametrize(
    "config",
    [
        replace(NANO, vocabulary=256, layers=2),
        replace(NANO, vocabulary=256, layers=3, hidden=128, intermediate=512, kv_heads=4),
    ],
)
def test_the_estimate_of_a_row_is_what_backward_keeps(config: ModelConfig):
    rows = 1024
    estimated = rows * Demand(config, config.parameters(), 0, rows, 4).row_bytes
    kept = saved_bytes(config, rows)
    assert 0.8 * kept < estimated < 2.0 * kept


def test_a_demand_that_fits_is_silent():
    check_memory(Demand(NANO, NANO.parameters(), 0, 4096, 2), 16 * 2**30, CPU)


@given(free=st.integers(1, 400 * 2**30), batch=st.integers(256, 1 << 20), lora=st.booleans())
def test_what_the_error_names_fits(free: int, batch: int, lora: bool):
    trained, frozen = (50_000_000, LARGE.parameters()) if lora else (LARGE.parameters(), 0)
    demand = Demand(LARGE, trained, frozen, batch, 2)
    error = refusal(demand, free)
    if error is not None and error.param == "batch-tokens":
        named = int(error.remedy.split()[1])
        assert named < batch
        assert refusal(replace(demand, batch_tokens=named), free) is None
    elif error is not None:
        assert refusal(replace(demand, batch_tokens=256), free) is not None
        assert ("adapt" in error.remedy) is not lora


def refusal(demand: Demand, free: int) -> MemoryExhausted | None:
    try:
        check_memory(demand, free, CPU)
    except MemoryExhausted as error:
        return error
    return None


def test_a_lora_needs_far_less_than_all_weights():
    whole = Demand(LARGE, LARGE.parameters(), 0, 4096, 2)
    lora = Demand(LARGE, 50_000_000, LARGE.parameters(), 4096, 2)
    assert whole.total_bytes - lora.total_bytes > 100 * 2**30
