"""The network equals implementations that nobody here wrote: Ministral 3, Llama, Mistral, Qwen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.network import Network
from tests.engine.seeded import CONFIG, CPU, causal_logits, prompt_of, seeded_network


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


@pytest.mark.parametrize("tied", [True, False])
def test_a_qwen2_checkpoint_of_transformers_is_read_and_computes_the_same(
    tmp_path: Path, tied: bool
) -> None:
    torch.manual_seed(0)
    peer = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=97,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            eos_token_id=2,
            initializer_range=0.3,
        )
    ).eval()
    for layer in peer.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)  # zero at construction
    peer.save_pretrained(tmp_path)
    network = load_network(tmp_path, read_config(tmp_path), device=CPU, dtype=torch.float32)
    tokens = prompt_of(200)
    with torch.inference_mode():
        expected = peer(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(causal_logits(network, tokens), expected, rtol=1e-4, atol=1e-4)
    assert network.config.parameters() == sum(p.numel() for p in peer.parameters())
    assert network.config.mask_id is None


_SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def transformers_peer(kind: str, tied: bool) -> PreTrainedModel:
    shape = {**_SHAPE, "tie_word_embeddings": tied}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=None, head_dim=32))
    if kind == "ministral3":
        return Ministral3ForCausalLM(
            Ministral3Config(**shape, sliding_window=None, head_dim=32, rope_parameters=_YARN)
        )
    return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mistral", "ministral3", "qwen3"])
def test_a_causal_checkpoint_of_transformers_is_read_and_computes_the_same(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    torch.manual_seed(0)
    peer = transformers_peer(kind, tied).eval()
    for name, parameter in peer.named_parameters():
        if parameter.dim() == 1:  # norms are ones at construction, also those of single heads
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
            assert "norm" in name
    peer.save_pretrained(tmp_path)
    network = load_network(tmp_path, read_config(tmp_path), device=CPU, dtype=torch.float32)
    tokens = prompt_of(200)
    with torch.inference_mode():
        expected = peer(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(causal_logits(network, tokens), expected, rtol=1e-4, atol=1e-4)
    assert network.config.parameters() == sum(p.numel() for p in peer.parameters())
    assert network.config.mask_id is None
    assert network.config.family.qk_norm is (kind == "qwen3")
