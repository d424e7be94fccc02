"""The LoRA of `adapt`: nothing at first, merged as attached, and the only thing that is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.lab.training.jobs.lora import LowRank, linears, parameters_at
from engine.model.network import Network
from tests.engine.seeded import CONFIG, causal_logits, prompt_of, seeded_network

TOKENS = (5, 90)


def trained(network: Network, seed: int = 0) -> LowRank:
    """A LoRA with something in every factor."""
    torch.manual_seed(seed)
    low_rank = LowRank(network, 3, 6.0, TOKENS)
    for parameter in low_rank.parameters():
        nn.init.normal_(parameter, std=0.1)
    return low_rank


def tied_network() -> Network:
    network = Network(replace(CONFIG, tied_head=True))
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False).eval()


def test_a_fresh_one_adds_nothing():
    network, tokens = seeded_network(), prompt_of(40)
    with LowRank(network, 4, 8.0, TOKENS).attached(network):
        inside = causal_logits(network, tokens)
    assert torch.equal(inside, causal_logits(network, tokens))


@pytest.mark.parametrize("make", [seeded_network, tied_network])
def test_merged_is_as_attached(make: Callable[[], Network]):
    network, tokens = make(), (5, *prompt_of(40), 90)
    before = causal_logits(network, tokens)
    low_rank = trained(network)
    with low_rank.attached(network), torch.no_grad():
        attached = causal_logits(network, tokens)
    assert torch.equal(causal_logits(network, tokens), before)  # detached again
    low_rank.merge(network)
    torch.testing.assert_close(causal_logits(network, tokens), attached, rtol=1e-3, atol=1e-3)
    assert (attached - before).abs().max() > 0.1


def test_only_the_additions_get_a_gradient():
    network = seeded_network()
    low_rank = trained(network)
    with low_rank.attached(network):
        causal_logits(network, (5, *prompt_of(20))).square().mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in low_rank.parameters())


def test_rows_of_new_tokens_are_theirs_alone():
    network, tokens = seeded_network(), tuple(t for t in prompt_of(40) if t not in TOKENS)
    low_rank = LowRank(network, 2, 4.0, TOKENS)
    nn.init.normal_(low_rank.rows)
    nn.init.normal_(low_rank.head_rows)
    before = causal_logits(network, tokens)
    with low_rank.attached(network), torch.no_grad():
        after = causal_logits(network, tokens)
        seen = causal_logits(network, (*tokens, 5))
    others = [i for i in range(CONFIG.vocabulary) if i not in TOKENS]
    assert torch.equal(after[:, others], before[:, others])
    assert not torch.equal(after[:, list(TOKENS)], before[:, list(TOKENS)])
    assert not torch.allclose(seen[-1, others], causal_logits(network, (*tokens, 5))[-1, others])


def test_it_reaches_every_linear_but_the_head():
    network = seeded_network()
    assert len(linears(network)) == 7 * CONFIG.layers
    low_rank = LowRank(network, 3, 6.0, ())
    counted = sum(p.numel() for p in (*low_rank.down.values(), *low_rank.up.values()))
    assert counted == parameters_at(network, 3)
