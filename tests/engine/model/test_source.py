"""One interface for every checkpoint: a folder with one file, with shards or with int8, and a GGUF
file. Rows that are read separately equal the rows of the whole tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.api import Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import CheckpointError
from engine.model import source
from engine.model.checkpoint import save_checkpoint
from engine.model.families import FAMILIES
from engine.model.network import Network
from engine.model.source import open_checkpoint, open_weights
from engine.model.tokenizer import Tokenizer
from engine.model.weights import Weights, bytes_estimate, network_tensors, selection
from tests.engine.gguf_files import seeded_peer, write_peer
from tests.engine.seeded import CONFIG, seeded_network
from tests.tiny import byte_tokenizer

DOWN = "encoder.layers.1.mlp.down_proj.weight"
FILE = "model.safetensors"


def check_rows(weights: Weights) -> None:
    """Compares `rows` with `read` for every matrix."""
    with pytest.raises(KeyError):
        weights.read("encoder.layers.99.mlp.up_proj.weight")
    for name in weights.names():
        whole = weights.read(name)
        assert whole.dtype == np.float32
        assert whole.flags.c_contiguous
        whole[:1] += 1  # a new array each time
        whole = weights.read(name)
        if whole.ndim == 2:
            last = len(whole) - 1
            np.testing.assert_array_equal(weights.rows(name, [last, 0, 3, 3]), whole[[-1, 0, 3, 3]])
            np.testing.assert_array_equal(weights.rows(name, range(2, 9)), whole[2:9])
            np.testing.assert_array_equal(weights.rows(name, range(9, 2, -2)), whole[9:2:-2])
            assert weights.rows(name, ()).shape == (0, whole.shape[1])
            for outside in ([-1], [last + 1], range(last, last + 2)):
                with pytest.raises(IndexError):
                    weights.rows(name, outside)


@pytest.mark.parametrize("shard_bytes", [None, 3000])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_read_by_the_networks_own_names(
    tmp_path: Path, family: str, tied: bool, shard_bytes: int | None
) -> None:
    config = replace(CONFIG, family=FAMILIES[family], tied_head=tied)
    network = seeded_network(config=config).bfloat16()
    save_checkpoint(tmp_path, network, shard_bytes=shard_bytes)
    weights = open_weights(tmp_path, config)
    state = network.state_dict()
    if tied:
        state.pop("diffusion_head.weight")
    assert weights.names() == state.keys() == network_tensors(config).keys()
    for name, tensor in state.items():
        assert network_tensors(config)[name] == tuple(tensor.shape)
        np.testing.assert_array_equal(weights.read(name), tensor.float().numpy())
    check_rows(weights)
    assert bytes_estimate(config, "bfloat16") == sum(tensor.nbytes for tensor in state.values())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_dtype_is_widened(tmp_path: Path, kind: torch.dtype) -> None:
    save_checkpoint(tmp_path, seeded_network())
    tensors = {name: tensor.to(kind) for name, tensor in load_file(tmp_path / FILE).items()}
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-40, 3e38]).to(kind)
    tensors["encoder.norm.weight"][:6] = special
    save_file(tensors, str(tmp_path / FILE))
    weights = open_weights(tmp_path, CONFIG)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(weights.read(name), tensor.float().numpy())
    check_rows(weights)


def test_int8_is_multiplied_out(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, seeded_network(), weights="int8", shard_bytes=3000)
    weights = open_weights(tmp_path, CONFIG)
    stored = {k: v for file in tmp_path.glob("*.safetensors") for k, v in load_file(file).items()}
    expected = stored[DOWN].float() * stored[f"{DOWN}_scale"]
    np.testing.assert_array_equal(weights.read(DOWN), expected.numpy())
    assert weights.names() == network_tensors(CONFIG).keys()
    check_rows(weights)


def test_a_file_that_is_cut_short_is_damaged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, seeded_network())
    data = (tmp_path / FILE).read_bytes()
    for length in (0, 4, 8, 100, len(data) - 1):
        (tmp_path / FILE).write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            open_weights(tmp_path, CONFIG)


def test_rows_that_follow_each_other_are_a_view() -> None:
    assert selection(range(2, 5), 9) == slice(2, 5)
    assert selection(range(5, 2), 9) == slice(5, 5)
    picked = selection((4, 4, 0), 5)
    assert isinstance(picked, np.ndarray)
    assert picked.tolist() == [4, 4, 0]


def test_a_folder_is_opened_whole(tiny_checkpoint: Path) -> None:
    opened = open_checkpoint(tiny_checkpoint)
    assert opened.path == tiny_checkpoint
    assert opened.config.layers == 2
    assert opened.tokenizer.size <= opened.config.vocabulary
    assert opened.metadata["model_type"] == "nemotron_labs_diffusion"
    assert opened.bytes_estimate("float32") == 4 * opened.config.parameters()
    with torch.device("meta"):
        assert opened.weights.names() == Network(opened.config).state_dict().keys()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none is not a folder") as error:
        open_checkpoint(tmp_path / "none")
    assert error.value.param == "engine.checkpoint"
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(CheckpointError, match=r"notes\.txt is not a GGUF file"):
        open_checkpoint(tmp_path / "notes.txt")


@pytest.fixture
def gguf_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file whose tokenizer is a byte-level one, whatever its metadata says."""

    def tokenizer(metadata: Any, path: str) -> Tokenizer:
        assert metadata["general.architecture"] == "qwen2"
        assert path.endswith("model.gguf")
        return byte_tokenizer(infilling=False)

    monkeypatch.setattr(source, "tokenizer_from_gguf", tokenizer)
    peer = seeded_peer("qwen2", vocab_size=320)
    return write_peer(tmp_path / "model.gguf", peer, "qwen2")


def test_a_gguf_file_is_opened_whole(gguf_path: Path) -> None:
    opened = open_checkpoint(gguf_path)
    assert opened.config.family.model_type == "qwen2"
    assert opened.metadata["qwen2.block_count"] == 2
    assert opened.weights.names() == network_tensors(opened.config).keys()
    assert opened.bytes_estimate("int8") < opened.bytes_estimate("bfloat16")
    check_rows(opened.weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_serves_a_gguf_file(gguf_path: Path, dtype: str) -> None:
    engine = Engine.load(EngineSettings(gguf_path, device="cpu", dtype=dtype, threads=1))
    request = Request(tuple(engine.tokenizer.encode("def f(x):")), "ar", Limits(tokens_max=5))
    try:
        assert engine.generate(request).usage.tokens == 5
    finally:
        engine.close()


def test_more_ids_than_embeddings_are_named(
    gguf_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = seeded_peer("qwen2")
    write_peer(gguf_path, peer, "qwen2")
    with pytest.raises(CheckpointError, match="the table of embeddings 96"):
        open_checkpoint(gguf_path)
