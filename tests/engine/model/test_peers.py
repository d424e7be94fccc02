"""The network equals an implementation that nobody here wrote: transformers' Ministral 3."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Ministral3Config, Ministral3ForCausalLM

from engine.model.network import Network
from tests.engine.seeded import CONFIG, causal_logits, prompt_of, seeded_network


def peer_of(network: Network) -> Ministral3ForCausalLM:
    """The same weights in transformers' network."""
    config, rope = network.config, network.config.rope
    peer = Ministral3ForCausalLM(
        Ministral3Config(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            max_position_embeddings=config.positions_max,
            sliding_window=None,
            tie_word_embeddings=False,
            attn_implementation="eager",
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": rope.theta,
                "factor": rope.factor,
                "original_max_position_embeddings": rope.original_positions,
                "beta_fast": rope.beta_fast,
                "beta_slow": rope.beta_slow,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": rope.query_scale_beta,
            },
        )
    )
    state = {
        name.replace("encoder.", "model.").replace("diffusion_head", "lm_head"): tensor
        for name, tensor in network.state_dict().items()
    }
    peer.load_state_dict(state, strict=True)
    return peer.eval()


# 64 is the original context of the seeded shape: beyond it the query scale differs from 1.
@pytest.mark.parametrize("length", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_equal_transformers(length: int, kv_heads: int) -> None:
    network = seeded_network(config=replace(CONFIG, kv_heads=kv_heads))
    tokens = prompt_of(length)
    with torch.inference_mode():
        expected = peer_of(network)(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(causal_logits(network, tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 2.0, 16.0])
def test_rotary_frequencies_equal_transformers(factor: float) -> None:
    network = seeded_network(config=replace(CONFIG, rope=replace(CONFIG.rope, factor=factor)))
    peer = peer_of(network).model.rotary_emb
    torch.testing.assert_close(network.frequencies, peer.inv_freq, rtol=1e-6, atol=0)
    assert peer.attention_scaling == 1.0
