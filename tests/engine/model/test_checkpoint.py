"""Checkpoints are read back as they were written, and errors name what is wrong with a folder."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError, EngineError, MemoryExhausted
from engine.model import checkpoint
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import parse_config, read_config, to_json
from tests.engine.nld import NLD_8B
from tests.engine.seeded import CONFIG, CPU, causal_logits, prompt_of, seeded_network

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, seeded_network(), metadata={"training": {"tokens": 1}})
    return tmp_path


def load(folder: Path):
    return load_network(folder, read_config(folder), device=CPU, dtype=torch.bfloat16)


def test_a_saved_checkpoint_computes_the_same(folder: Path) -> None:
    tokens = prompt_of(30)
    expected = causal_logits(seeded_network().to(torch.bfloat16), tokens)
    assert torch.equal(causal_logits(load(folder), tokens), expected)
    assert read_config(folder) == CONFIG


@pytest.mark.parametrize("before", [None, 4096, 8192])
@pytest.mark.parametrize("after", [None, 4096, 8192])
def test_no_file_of_an_earlier_checkpoint_stays(
    tmp_path: Path, before: int | None, after: int | None
) -> None:
    save_checkpoint(tmp_path, seeded_network(1), shard_bytes=before)
    network = seeded_network(2).to(torch.bfloat16)
    save_checkpoint(tmp_path, network, shard_bytes=after)
    tokens = prompt_of(20)
    assert torch.equal(causal_logits(load(tmp_path), tokens), causal_logits(network, tokens))
    stored = [name for file in tmp_path.glob("*.safetensors") for name in load_file(file)]
    assert sorted(stored) == sorted(network.state_dict())


def test_a_tied_head_needs_no_tensor_of_its_own(tmp_path: Path) -> None:
    network = seeded_network(config=replace(CONFIG, tied_head=True))
    save_checkpoint(tmp_path, network)
    assert "diffusion_head.weight" not in load_file(tmp_path / WEIGHTS)
    loaded = load(tmp_path)
    assert torch.equal(loaded.diffusion_head.weight, loaded.encoder.embed_tokens.weight)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, str(folder / WEIGHTS))


def lose_shard(folder: Path) -> None:
    save_checkpoint(folder, seeded_network(), shard_bytes=30_000)
    next(folder.glob("model-00002-*")).unlink()


def escape(folder: Path) -> None:
    save_checkpoint(folder, seeded_network(), shard_bytes=30_000)
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00001", "../model-00001"))


def only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


NORM = "encoder.norm.weight"
BREAKAGES = {
    "missing tensor": (lambda f: edit_weights(f, lambda t: t.pop(NORM)), NORM),
    "wrong shape": (
        lambda f: edit_weights(f, lambda t: t.update({NORM: torch.ones(5)})),
        rf"{NORM} has shape \[5\], config.json says \[32\]",
    ),
    "unknown tensor": (
        lambda f: edit_weights(f, lambda t: t.update({"lm_head.weight": torch.ones(5)})),
        "lm_head.weight",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "neither"),
    "pickle weights": (only_pickle, "pickle"),
    "missing shard": (lose_shard, "model-00002-of-0000"),
    "shard outside the folder": (escape, r"\.\./model-00001"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_checkpoint_is_named(folder: Path, breakage: str) -> None:
    break_it, named = BREAKAGES[breakage]
    break_it(folder)
    with pytest.raises(CheckpointError, match=named) as error:
        load(folder)
    assert error.value.param


def test_too_little_memory_is_named_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "available_memory_bytes", lambda: 1000)
    with pytest.raises(MemoryExhausted, match="GiB") as error:
        load(folder)
    assert "smaller checkpoint" in error.value.remedy


def test_the_released_config_is_read() -> None:
    config = parse_config(NLD_8B)
    assert round(config.parameters() / 1e9, 2) == 8.49
    assert (config.mask_id, config.end_ids, config.block_length) == (100, (11,), 32)
    assert config.rope.attention_factor == 1.0
    assert parse_config(to_json(config)) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"head_dim": 7}, "head_dim"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"mask_token_id": 131072}, "mask_token_id"),
        ({"rope_parameters": None}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "longrope"}}, "rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "original_max"),
    ],
)
def test_wrong_and_missing_keys_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(EngineError, match=named):
        parse_config({**NLD_8B, **change})
    key = next(iter(change))
    without = {name: value for name, value in NLD_8B.items() if name != key}
    if key in ("vocab_size", "hidden_size", "num_hidden_layers", "rope_parameters"):
        with pytest.raises(EngineError, match=key):
            parse_config(without)


def test_the_older_rope_keys_are_read() -> None:
    older = {name: value for name, value in NLD_8B.items() if name != "rope_parameters"}
    rope = dict(NLD_8B["rope_parameters"])
    older.update(rope_theta=rope.pop("rope_theta"), rope_scaling=rope)
    assert parse_config(older) == parse_config(NLD_8B)
