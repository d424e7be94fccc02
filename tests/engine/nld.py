"""The layouts of the released Nemotron-Labs-Diffusion checkpoints, and small ones that have them.

Names, shapes and config keys are written down here from what is published, not derived from our
network: a mistake in the network's names cannot hide in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import tekken_tokenizer

# The 8B config as public notes quote it: keys we read and keys we do not.
NLD_8B: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "model_type": "nemotron_labs_diffusion",
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 11,
    "mask_token_id": 100,
    "block_size": 32,
    "dlm_paradigm": "bidirectional",
    "ar_loss_weight": 1.0,
    "dlm_loss_weight": None,
    "dp_varying_mask_ratio": False,
    "use_cache": False,
    "torch_dtype": "bfloat16",
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1,
        "mscale_all_dim": 1,
        "llama_4_scaling_beta": 0.1,
    },
}
_SHAPES = {
    "3B": {"num_hidden_layers": 26, "hidden_size": 3072, "intermediate_size": 9216},
    "8B": {},
    "14B": {"num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 16384},
}
SIZES: dict[str, dict[str, Any]] = {name: {**NLD_8B, **shape} for name, shape in _SHAPES.items()}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LORA = "linear_spec_lora"
_WIDTH_DIVISOR, _HEAD_DIVISOR, _HEAD_DIM = 64, 4, 8


def tiny_config(size: str) -> dict[str, Any]:
    """The config of a size with its keys, its layers and its ratios, 64 times narrower."""
    config = SIZES[size]
    return {
        **config,
        "vocab_size": 1280,
        "hidden_size": config["hidden_size"] // _WIDTH_DIVISOR,
        "intermediate_size": config["intermediate_size"] // _WIDTH_DIVISOR,
        "num_attention_heads": config["num_attention_heads"] // _HEAD_DIVISOR,
        "num_key_value_heads": config["num_key_value_heads"] // _HEAD_DIVISOR,
        "head_dim": _HEAD_DIM,
    }


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released checkpoint with this config."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embed_tokens.weight": (config["vocab_size"], hidden),
        "encoder.norm.weight": (hidden,),
        "diffusion_head.weight": (config["vocab_size"], hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{layer}."
        shapes |= {
            f"{name}input_layernorm.weight": (hidden,),
            f"{name}post_attention_layernorm.weight": (hidden,),
            f"{name}self_attn.q_proj.weight": (query, hidden),
            f"{name}self_attn.k_proj.weight": (kv, hidden),
            f"{name}self_attn.v_proj.weight": (kv, hidden),
            f"{name}self_attn.o_proj.weight": (hidden, query),
            f"{name}mlp.gate_proj.weight": (ffn, hidden),
            f"{name}mlp.up_proj.weight": (ffn, hidden),
            f"{name}mlp.down_proj.weight": (hidden, ffn),
        }
    return shapes


def lora_shapes(config: Mapping[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the drafter LoRA that instruct checkpoints bring, under PEFT's names."""
    query = config["num_attention_heads"] * config["head_dim"]
    name = "base_model.model.encoder.layers.{}.self_attn.o_proj.lora_{}.weight"
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(config["num_hidden_layers"]):
        shapes[name.format(layer, "A")] = (rank, query)
        shapes[name.format(layer, "B")] = (config["hidden_size"], rank)
    return shapes


def write_nld(folder: Path, size: str, *, shards: int = 1, lora: bool = False) -> Path:
    """Writes a narrow seeded checkpoint in the layout of a released one; returns the folder."""
    config = tiny_config(size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tekken_tokenizer().save(folder)
    write_weights(folder, seeded(tensor_shapes(config), seed=0), shards)
    if lora:
        write_lora(folder / LORA, seeded(lora_shapes(config, rank=4), seed=1))
    return folder


def seeded(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Matrices wide enough that every row's logits depend on what it sees; norms near one."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        tensor = 1 + 0.1 * noise if len(shape) == 1 else noise / shape[1] ** 0.5
        tensors[name] = tensor.to(torch.bfloat16)
    return tensors


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    """One file, or so many with an index, in the order in which the names sort."""
    if shards == 1:
        save_file(dict(tensors), str(folder / WEIGHTS), metadata={"format": "pt"})
        return
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number in range(shards):
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in part}, str(folder / file))
        places.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))


def write_lora(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """The folder as PEFT writes it, with keys that only PEFT reads."""
    folder.mkdir()
    rank = min(tensors[next(iter(tensors))].shape)
    config = {
        "peft_type": "LORA",
        "auto_mapping": None,
        "base_model_name_or_path": "nvidia/Nemotron-Labs-Diffusion",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 4 * rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "r": rank,
        "target_modules": ["o_proj"],
        "task_type": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(tensors), str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
