"""A network from a GGUF file computes the same as transformers with the same weights, and every
stored type is read as by ggml's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.model.checkpoint import load_network
from engine.model.config import ModelConfig, parse_config, to_json
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.gguf_weights import GGUFWeights, halves
from engine.model.network import Network
from engine.model.weights import bytes_estimate
from tests.engine.gguf_files import (
    CLASSES,
    VOCABULARY,
    arrays_of,
    dequantizable,
    keys_of,
    llama3_factors,
    permuted,
    random_rows,
    seeded_peer,
    write_gguf,
    write_peer,
)
from tests.engine.seeded import CPU, causal_logits

TYPES = dequantizable()
DTYPES = (torch.float32, torch.bfloat16)
TOKENS = tuple(np.random.default_rng(1).integers(3, VOCABULARY, 200).tolist())


def config_of(path: Path) -> ModelConfig:
    return gguf_config(read_gguf(path))


def open_weights(path: Path) -> GGUFWeights:
    file = read_gguf(path)
    return GGUFWeights(file, gguf_config(file))


def load(path: Path, dtype: torch.dtype = torch.float32) -> Network:
    return load_network(path, config_of(path), device=CPU, dtype=dtype)


def check(path: Path, peer: Any) -> Network:
    """Checks that both networks have the same logits and the same number of weights."""
    network = load(path)
    with torch.inference_mode():
        expected = peer(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(causal_logits(network, TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert network.config.parameters() == sum(p.numel() for p in peer.parameters())
    return network


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", CLASSES)
def test_a_file_computes_what_transformers_computes(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    peer = seeded_peer(architecture, tie_word_embeddings=tied, rope_parameters=PLAIN)
    path = write_peer(tmp_path / "model.gguf", peer, architecture)
    config = check(path, peer).config
    assert config.tied_head == tied
    assert (config.mask_id, config.begin_id, config.end_ids) == (None, 1, (2,))
    assert (config.vocabulary, config.positions_max) == (VOCABULARY, 512)
    assert config.norm_eps == 1e-5
    assert parse_config(to_json(config)).rope == config.rope


# Ministral's class asks for a query scale, of which there is none before position 512.
PLAIN = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "llama_4_scaling_beta": 0.0,
    "original_max_position_embeddings": 512,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
MINISTRAL = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
SCALED: dict[str, Any] = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 64,
}


TEMPERATURE = {"attention__temperature_scale": 0.1}


@pytest.mark.parametrize(
    ("architecture", "rope", "keys", "attention_factor"),
    [
        ("llama", LINEAR, {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0}, 1.0),
        ("llama", LINEAR, {"rope__scaling__factor": 2.0}, 1.0),
        ("llama", LINEAR, {"rope__scale_linear": 2.0}, 1.0),
        *((name, YARN, SCALED, 1.1386) for name in ("llama", "qwen2", "qwen3")),
        ("mistral3", MINISTRAL, SCALED | TEMPERATURE, 1.0),
        (
            "mistral3",
            MINISTRAL,
            SCALED | TEMPERATURE | {"rope__scaling__yarn_log_multiplier": 1.0},
            1.0,
        ),
    ],
)
def test_scaled_positions_are_read(
    tmp_path: Path,
    architecture: str,
    rope: dict[str, Any],
    keys: dict[str, Any],
    attention_factor: float,
) -> None:
    """Linear scaling, YaRN with its attention factor, and Ministral's query scale without one."""
    peer = seeded_peer(architecture, rope_parameters=rope)
    found = check(write_peer(tmp_path / "m.gguf", peer, architecture, **keys), peer).config
    assert found.rope.attention_factor == pytest.approx(attention_factor, abs=1e-4)
    assert found.rope.query_scale_beta == (0.1 if architecture == "mistral3" else 0.0)
    assert parse_config(to_json(found)).rope == found.rope


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_llama3_frequency_factors_are_applied(tmp_path: Path, architecture: str) -> None:
    peer = seeded_peer(architecture, rope_parameters=LLAMA3)
    factors = llama3_factors(peer)
    assert len(set(factors.tolist())) > 4
    arrays = {**arrays_of(peer, architecture), "rope_freqs.weight": factors}
    path = write_gguf(tmp_path / "m.gguf", architecture, arrays, keys_of(peer, architecture))
    network = check(path, peer)
    torch.testing.assert_close(
        network.frequencies, peer.model.rotary_emb.inv_freq, rtol=1e-6, atol=0
    )
    assert parse_config(to_json(network.config)).rope == network.config.rope


def test_rows_of_llamas_queries_and_keys_are_put_back_in_halves(tmp_path: Path) -> None:
    peer = seeded_peer("llama")
    weights = open_weights(write_peer(tmp_path / "m.gguf", peer, "llama"))
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        original = peer.get_parameter(f"model.layers.1.self_attn.{part}.weight").numpy()
        name = f"encoder.layers.1.self_attn.{part}.weight"
        np.testing.assert_array_equal(weights.read(name), original)
        np.testing.assert_array_equal(weights.rows(name, [33, 0, 127]), original[[33, 0, 127]])
    # A head of six rows: the file has 0, 3, 1, 4, 2, 5.
    rows = np.arange(12, dtype=np.float32)[:, None]
    assert permuted(rows, 2)[:6, 0].tolist() == [0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(permuted(rows, 2)[halves(12, 6)], rows)


def all_matrices(peer: Any, architecture: str, kind: TensorType) -> tuple[dict, dict]:
    """The arrays of a file with random bytes for matrices of one type, and which those are."""
    arrays: dict[str, Any] = arrays_of(peer, architecture)
    types = {name: kind for name, array in arrays.items() if array.ndim == 2}
    for index, name in enumerate(types):
        arrays[name] = random_rows(arrays[name].shape, kind, index)
    return arrays, types


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_is_read_as_ggmls_library_reads_it(tmp_path: Path, kind: TensorType) -> None:
    peer = seeded_peer("llama", num_hidden_layers=1)
    arrays, types = all_matrices(peer, "llama", kind)
    path = write_gguf(tmp_path / "m.gguf", "llama", arrays, keys_of(peer, "llama"), types)
    weights = open_weights(path)
    names = {"encoder.embed_tokens.weight": "token_embd.weight"}
    names["encoder.layers.0.mlp.down_proj.weight"] = "blk.0.ffn_down.weight"
    with np.errstate(all="ignore"):
        expected = {ours: gguf.dequantize(arrays[name], kind) for ours, name in names.items()}
    for name, whole in expected.items():
        read = weights.read(name)
        assert read.dtype == np.float32
        assert read.flags.writeable
        np.testing.assert_array_equal(read, whole)
    for name in weights.names():
        read = weights.read(name)
        if read.ndim == 2:
            picked = [len(read) - 1, 0, 3, 3, 17]
            np.testing.assert_array_equal(weights.rows(name, picked), read[picked])
            np.testing.assert_array_equal(weights.rows(name, range(5, 9)), read[5:9])
            assert weights.rows(name, []).shape == (0, read.shape[1])
    state = load(path).state_dict()
    for name in weights.names():
        np.testing.assert_array_equal(state[name].numpy(), weights.read(name))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind",
    [TensorType.Q8_0, TensorType.Q4_0, TensorType.Q5_1, TensorType.BF16, TensorType.F16],
    ids=lambda kind: kind.name,
)
def test_a_quantised_file_computes_what_its_dequantised_weights_do(
    tmp_path: Path, kind: TensorType, dtype: torch.dtype
) -> None:
    peer = seeded_peer("qwen2")
    arrays: dict[str, Any] = arrays_of(peer, "qwen2")
    types = {name: kind for name, array in arrays.items() if array.ndim == 2}
    stored = {**arrays, **{name: gguf.quantize(arrays[name], kind) for name in types}}
    back = {name: gguf.dequantize(stored[name], kind) for name in types}
    keys = keys_of(peer, "qwen2")
    path = write_gguf(tmp_path / "stored.gguf", "qwen2", stored, keys, types)
    plain = write_gguf(tmp_path / "plain.gguf", "qwen2", {**arrays, **back}, keys)
    logits = causal_logits(load(path, dtype), TOKENS)
    assert torch.equal(logits, causal_logits(load(plain, dtype), TOKENS))
    original = write_peer(tmp_path / "original.gguf", peer, "qwen2")
    if kind != TensorType.BF16 or dtype != torch.bfloat16:
        assert not torch.equal(logits, causal_logits(load(original, dtype), TOKENS))


def test_memory_is_estimated_before_loading(tmp_path: Path) -> None:
    peer = seeded_peer("qwen2")
    config = config_of(write_peer(tmp_path / "m.gguf", peer, "qwen2"))
    sizes = [parameter.numel() for parameter in peer.parameters()]
    assert bytes_estimate(config, "float32") == 4 * sum(sizes)
    assert bytes_estimate(config, "bfloat16") == 2 * sum(sizes)
    rows = sum(len(p) for p in peer.parameters() if p.dim() == 2)
    vectors = sum(p.numel() for p in peer.parameters() if p.dim() == 1)
    matrices = sum(sizes) - vectors
    assert bytes_estimate(config, "int8") == matrices + 4 * rows + 4 * vectors


NAMES = {3: "<|im_end|>", 4: "<|endoftext|>", 5: "</s>", 6: "<|eot_id|>", 7: "<|im_end|> "}


@pytest.mark.parametrize(
    ("keys", "kinds", "expected"),
    [
        ({"eos_token_id": 3}, {3: 3, 4: 3}, (3, 4)),
        ({"eos_token_id": 9, "eot_token_id": 3, "eom_token_id": 8}, {}, (9, 3, 8)),
        ({"eos_token_id": 4, "eot_token_id": 4}, {3: 4, 6: 3}, (4, 3, 6)),
        ({"eos_token_id": 2**32 - 1}, {5: 3}, (5,)),
        ({"eos_token_id": 2}, None, (2, 3, 4, 5, 6)),  # a file without token types
    ],
)
def test_every_token_that_ends_a_text_is_found(
    tmp_path: Path, keys: dict[str, int], kinds: dict[int, int] | None, expected: tuple[int, ...]
) -> None:
    peer = seeded_peer("qwen2")
    stated = keys_of(peer, "qwen2")
    stated.pop("tokenizer.ggml.eos_token_id")
    stated |= {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    tokens = [NAMES.get(index, f"t{index}") for index in range(VOCABULARY)]
    stated["tokenizer.ggml.tokens"] = tokens
    if kinds is not None:
        stated["tokenizer.ggml.token_type"] = [kinds.get(i, 1) for i in range(VOCABULARY)]
    path = write_gguf(tmp_path / "m.gguf", "qwen2", arrays_of(peer, "qwen2"), stated)
    assert config_of(path).end_ids == expected
    assert list(read_gguf(path).metadata["tokenizer.ggml.tokens"]) == tokens


def test_a_window_of_attention_bounds_the_positions(tmp_path: Path) -> None:
    peer = seeded_peer("llama")
    path = write_peer(tmp_path / "m.gguf", peer, "llama", attention__sliding_window=128)
    assert config_of(path).positions_max == 128


# A key or tensor of a Qwen 2 file and what is put in its place; None removes it.
BROKEN_KEYS: list[tuple[str, object]] = [
    ("general.architecture", "mamba"),
    ("general.type", "adapter"),
    ("split.count", 3),
    ("qwen2.block_count", None),
    ("qwen2.block_count", "2"),
    ("qwen2.block_count", 0),
    ("qwen2.block_count", 2**30),
    ("qwen2.attention.head_count_kv", [2, 2]),  # a number for each layer
    ("qwen2.attention.head_count_kv", 3),  # does not divide the number of heads
    ("qwen2.attention.causal", False),
    ("qwen2.attention.layer_norm_rms_epsilon", float("nan")),
    ("qwen2.rope.dimension_count", 32),  # half of a head
    ("qwen2.rope.scaling.type", "longrope"),
    ("qwen2.expert_count", 8),
    ("tokenizer.ggml.eos_token_id", None),
    ("tokenizer.ggml.eos_token_id", VOCABULARY),
]
BROKEN_TENSORS: list[tuple[str, NDArray[Any] | None]] = [
    ("token_embd.weight", None),
    ("blk.1.ffn_up.weight", None),
    ("blk.0.attn_k.bias", None),
    ("blk.1.ffn_up.weight", np.ones((256, 512), np.float32)),  # its transpose
    ("blk.1.attn_sinks.weight", np.ones(4, np.float32)),  # unknown
    ("output_norm.weight", np.ones(256, np.int32)),
    ("rope_freqs.weight", np.ones(31, np.float32)),  # one too few
    ("rope_freqs.weight", np.zeros(32, np.float32)),
]


@pytest.mark.parametrize(("name", "value"), [*BROKEN_KEYS, *BROKEN_TENSORS])
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, name: str, value: object) -> None:
    peer = seeded_peer("qwen2")
    keys, arrays = keys_of(peer, "qwen2"), arrays_of(peer, "qwen2")
    changed: dict[str, Any] = arrays if name.endswith((".weight", ".bias")) else keys
    if value is None:
        changed.pop(name)
    else:
        changed[name] = value
    architecture = keys.pop("general.architecture", "qwen2")
    path = write_gguf(tmp_path / "m.gguf", architecture, arrays, keys)
    with pytest.raises(CheckpointError, match=r"m\.gguf") as error:
        open_weights(path)
    assert error.value.param == name
    assert name in error.value.message
    assert error.value.remedy
