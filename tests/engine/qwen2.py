"""A small seeded Qwen2 checkpoint that transformers itself writes."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


def write_qwen2(folder: Path, *, tied: bool, vocabulary: int = 97) -> Qwen2ForCausalLM:
    """Writes config.json and model.safetensors; returns the network that it saved."""
    torch.manual_seed(0)
    peer = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
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
    peer.save_pretrained(folder)
    return peer
