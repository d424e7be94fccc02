"""Joined projections compute the same with fewer products and keep the tensors' names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.lab.training.recipe import Shape, model_config
from engine.model.families import FAMILIES
from engine.model.network import Network


def causal(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    del layer
    heads = (x.transpose(0, 1) for x in (query, key, value))
    mixed = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    return mixed.transpose(0, 1)


@pytest.mark.parametrize("family", ["nemotron_labs_diffusion", "qwen2", "qwen3"])
@torch.no_grad()
def test_joined_projections_compute_the_same(family: str) -> None:
    shape = Shape(hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, vocabulary=80)
    torch.manual_seed(0)
    network = Network(replace(model_config(shape), family=FAMILIES[family]))
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    tokens, positions = torch.randint(0, 80, (9,)), torch.arange(9)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = network(tokens, positions, causal)
    network.join()
    torch.testing.assert_close(network(tokens, positions, causal), expected)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # One copy of the weights, not two: what is written into a view is what is computed with.
    network.encoder.layers[1].mlp.up_proj.weight.zero_()
    assert not torch.allclose(network(tokens, positions, causal), expected)
