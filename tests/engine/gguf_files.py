"""Small GGUF files of seeded networks of transformers, written by ggml's own writer.

Names, keys and the order of rows follow llama.cpp's converter and are not derived from the reader
under test, so that a mistake of the reader cannot hide in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

F32 = TensorType.F32
Arrays = dict[str, NDArray[np.float32]]
VOCABULARY = 96
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
# transformers' configs and networks by GGUF's name of the architecture.
CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral3": ("Ministral3Config", "Ministral3ForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}
_PERMUTED = ("llama", "mistral3")
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def seeded_peer(architecture: str, **config: Any) -> Any:
    """A network of transformers whose vectors are seeded as well as its matrices."""
    torch.manual_seed(0)
    config_class, network_class = (getattr(transformers, name) for name in CLASSES[architecture])
    peer = network_class(config_class(**{**SHAPE, **config})).eval().requires_grad_(False)
    for name, parameter in peer.named_parameters():
        if parameter.dim() == 1:
            start = 0.0 if name.endswith("bias") else 1.0
            parameter.copy_(start + 0.2 * torch.randn(parameter.shape))
    return peer


def arrays_of(peer: Any, architecture: str) -> Arrays:
    """A network's weights by the names and in the order of rows that GGUF files have."""
    arrays: Arrays = {}
    heads = {"attn_q": peer.config.num_attention_heads, "attn_k": peer.config.num_key_value_heads}
    for name, tensor in peer.state_dict().items():
        if name == "lm_head.weight" and peer.config.tie_word_embeddings:
            continue
        array = tensor.numpy().copy()
        if name in _TOP:
            arrays[_TOP[name]] = array
            continue
        _, _, layer, *middle, kind = name.split(".")
        part = _PARTS[".".join(middle)]
        if architecture in _PERMUTED and part in heads:
            array = permuted(array, heads[part])
        arrays[f"blk.{layer}.{part}.{kind}"] = array
    return arrays


def permuted(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Each head's rows, taken from its two halves in turn, as llama.cpp's converter writes them."""
    half = len(array) // heads // 2
    return array.reshape(heads, 2, half, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def keys_of(peer: Any, architecture: str) -> dict[str, Any]:
    """The metadata of a network with plain rotary positions."""
    config = peer.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": head_dim,
    }
    return {
        **{f"{architecture}.{key}": value for key, value in keys.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.bos_token_id": 1,
    }


def write_gguf(
    path: Path,
    architecture: str,
    arrays: Mapping[str, NDArray[Any]],
    keys: Mapping[str, Any],
    types: Mapping[str, TensorType] | None = None,
) -> Path:
    """Writes a file.

    Args:
        arrays: float32, or bytes of rows where `types` names the type they are stored in.
        keys: ints become uint32, floats float32, lists arrays.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, array in arrays.items():
        writer.add_tensor(name, array, raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_peer(path: Path, peer: Any, architecture: str, **keys: Any) -> Path:
    """Writes a network in F32; `keys` are the architecture's, "__" for "."."""
    stated = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return write_gguf(
        path,
        architecture,
        arrays_of(peer, architecture),
        {**keys_of(peer, architecture), **stated},
    )


def write_quantized(path: Path, architecture: str, kinds: Sequence[str], **config: Any) -> Path:
    """Writes a seeded network whose matrices are of these types, in turn, with plain weights."""
    peer = seeded_peer(architecture, **config)
    arrays: dict[str, Any] = arrays_of(peer, architecture)
    types: dict[str, TensorType] = {}
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    for index, name in enumerate(matrices):
        kind = TensorType[kinds[index % len(kinds)]]
        if kind in _FACTORS:
            arrays[name] = seeded_blocks(arrays[name].shape, kind, index)
        elif kind != F32:
            arrays[name] = gguf.quantize(arrays[name], kind)
        types[name] = kind
    return write_gguf(path, architecture, arrays, keys_of(peer, architecture), types)


def random_rows(shape: tuple[int, ...], kind: TensorType, seed: int) -> NDArray[np.uint8]:
    """Random bytes for (rows, width) entries of a type."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    assert shape[-1] % block == 0
    generator = np.random.default_rng(seed)
    size = (*shape[:-1], shape[-1] // block * block_bytes)
    return generator.integers(0, 256, size, dtype=np.uint8)


# The powers of two, by type, of a block's factors with which entries are below 1: that of the
# scales, and that of the minima.
_FACTORS: dict[TensorType, tuple[int, ...]] = {
    TensorType.Q4_0: (-6,),
    TensorType.Q5_0: (-7,),
    TensorType.Q8_0: (-10,),
    TensorType.Q4_K: (-12, -9),
    TensorType.Q5_K: (-13, -9),
    TensorType.Q6_K: (-14,),
}


def seeded_blocks(shape: tuple[int, ...], kind: TensorType, seed: int) -> NDArray[np.uint8]:
    """As `random_rows`, with factors that make plain weights: finite, and below 1."""
    rows = random_rows(shape, kind, seed)
    blocks = rows.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    generator = np.random.default_rng(seed + 1)
    powers = _FACTORS[kind]
    factors = generator.uniform(1, 2, (len(blocks), len(powers))) * 2.0 ** np.array(powers)
    stored = factors.astype("<f2").view(np.uint8)
    if kind == TensorType.Q6_K:  # whose factor stands last
        blocks[:, -2:] = stored
    else:
        blocks[:, : stored.shape[1]] = stored
    return rows


def dequantizable() -> list[TensorType]:
    """Every type that the library dequantises."""
    kinds = []
    for kind, (_, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            continue
        kinds.append(kind)
    return kinds


def llama3_factors(peer: Any) -> NDArray[np.float32]:
    """The divisors of the frequencies in Llama 3.1's scaling."""
    rope = peer.config.rope_parameters
    head_dim = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    plain = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
