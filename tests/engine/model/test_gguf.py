"""GGUF files: the network that is read computes what transformers computes with the same weights,
and every stored type is read as ggml's own library reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType

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
    """The same logits, and as many weights."""
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
MINISTRAL = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
SCALED: dict[str, Any] = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 64,
}


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


@pytest.mark.parametrize(
    "keys",
    [
        {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0},
        {"rope__scaling__factor": 2.0},
        {"rope__scale_linear": 2.0},
    ],
)
def test_linear_scaling_is_applied(tmp_path: Path, keys: dict[str, Any]) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    peer = seeded_peer("llama", rope_parameters=rope)
    network = check(write_peer(tmp_path / "m.gguf", peer, "llama", **keys), peer)
    assert parse_config(to_json(network.config)).rope == network.config.rope


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_yarn_is_applied_with_its_attention_factor(tmp_path: Path, architecture: str) -> None:
    peer = seeded_peer(architecture, rope_parameters=YARN)
    network = check(write_peer(tmp_path / "m.gguf", peer, architecture, **SCALED), peer)
    assert network.config.rope.attention_factor == pytest.approx(1.1386, abs=1e-4)
    assert parse_config(to_json(network.config)).rope == network.config.rope


@pytest.mark.parametrize("more", [{}, {"rope__scaling__yarn_log_multiplier": 1.0}])
def test_ministral_has_a_query_scale_and_no_attention_factor(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    peer = seeded_peer("mistral3", rope_parameters=MINISTRAL)
    keys = {**SCALED, **more, "attention__temperature_scale": 0.1}
    network = check(write_peer(tmp_path / "m.gguf", peer, "mistral3", **keys), peer)
    assert network.config.rope.attention_factor == 1.0
    assert network.config.rope.query_scale_beta == 0.1


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


def test_a_row_outside_the_matrix_is_an_error(tmp_path: Path) -> None:
    weights = open_weights(write_peer(tmp_path / "m.gguf", seeded_peer("qwen2"), "qwen2"))
    for rows in ([-1], [VOCABULARY], range(90, 97), range(-1, 3)):
        with pytest.raises(IndexError):
            weights.rows("encoder.embed_tokens.weight", rows)
    with pytest.raises(KeyError):
        weights.read("encoder.layers.2.mlp.up_proj.weight")


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
        ({"eos_token_id": 2}, None, (2, 3, 4, 5, 6)),  # kinds are not told
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


Change = Callable[[dict[str, Any], dict[str, Any]], object]
# What is changed in keys and arrays of a Qwen 2 file, and the key or tensor that is named.
BREAKAGES: dict[str, tuple[Change, str]] = {
    "unknown architecture": (
        lambda k, _: k.update({"general.architecture": "mamba"}),
        "general.architecture",
    ),
    "no layers told": (lambda k, _: k.pop("qwen2.block_count"), "qwen2.block_count"),
    "layers in text": (lambda k, _: k.update({"qwen2.block_count": "2"}), "qwen2.block_count"),
    "no layer": (lambda k, _: k.update({"qwen2.block_count": 0}), "qwen2.block_count"),
    "endless layers": (lambda k, _: k.update({"qwen2.block_count": 2**30}), "qwen2.block_count"),
    "heads by layer": (
        lambda k, _: k.update({"qwen2.attention.head_count_kv": [2, 2]}),
        "qwen2.attention.head_count_kv",
    ),
    "heads that do not divide": (
        lambda k, _: k.update({"qwen2.attention.head_count_kv": 3}),
        "qwen2.attention.head_count_kv",
    ),
    "half rotary": (
        lambda k, _: k.update({"qwen2.rope.dimension_count": 32}),
        "qwen2.rope.dimension_count",
    ),
    "experts": (lambda k, _: k.update({"qwen2.expert_count": 8}), "qwen2.expert_count"),
    "no causal attention": (
        lambda k, _: k.update({"qwen2.attention.causal": False}),
        "qwen2.attention.causal",
    ),
    "longrope": (
        lambda k, _: k.update({"qwen2.rope.scaling.type": "longrope"}),
        "qwen2.rope.scaling.type",
    ),
    "no end": (
        lambda k, _: k.pop("tokenizer.ggml.eos_token_id"),
        "tokenizer.ggml.eos_token_id",
    ),
    "end outside": (
        lambda k, _: k.update({"tokenizer.ggml.eos_token_id": VOCABULARY}),
        "tokenizer.ggml.eos_token_id",
    ),
    "nan": (
        lambda k, _: k.update({"qwen2.attention.layer_norm_rms_epsilon": float("nan")}),
        "qwen2.attention.layer_norm_rms_epsilon",
    ),
    "adapter": (lambda k, _: k.update({"general.type": "adapter"}), "general.type"),
    "part": (lambda k, _: k.update({"split.count": 3}), "split.count"),
    "no embeddings": (lambda _, a: a.pop("token_embd.weight"), "token_embd.weight"),
    "missing tensor": (lambda _, a: a.pop("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight"),
    "missing bias": (lambda _, a: a.pop("blk.0.attn_k.bias"), "blk.0.attn_k.bias"),
    "misshapen tensor": (
        lambda _, a: a.update({"blk.1.ffn_up.weight": a["blk.1.ffn_up.weight"].T.copy()}),
        "blk.1.ffn_up.weight",
    ),
    "unknown tensor": (
        lambda _, a: a.update({"blk.1.attn_sinks.weight": np.ones(4, np.float32)}),
        "blk.1.attn_sinks.weight",
    ),
    "type that is no number": (
        lambda _, a: a.update({"output_norm.weight": np.ones(256, np.int32)}),
        "output_norm.weight",
    ),
    "factors of another count": (
        lambda _, a: a.update({"rope_freqs.weight": np.ones(31, np.float32)}),
        "rope_freqs.weight",
    ),
    "factors of zero": (
        lambda _, a: a.update({"rope_freqs.weight": np.zeros(32, np.float32)}),
        "rope_freqs.weight",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, breakage: str) -> None:
    change, named = BREAKAGES[breakage]
    peer = seeded_peer("qwen2")
    keys, arrays = keys_of(peer, "qwen2"), dict(arrays_of(peer, "qwen2"))
    change(keys, arrays)
    architecture = keys.pop("general.architecture", "qwen2")
    path = write_gguf(tmp_path / "m.gguf", architecture, arrays, keys)
    with pytest.raises(CheckpointError, match=r"m\.gguf") as error:
        open_weights(path)
    assert error.value.param == named
    assert named in error.value.message
    assert error.value.remedy
