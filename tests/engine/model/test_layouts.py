"""Checkpoints in the layouts of the released 3B, 8B and 14B: narrow ones run, and full ones are
compared by names and shapes. Errors name the tensor or the file."""

from __future__ import annotations

import json
from contextlib import closing
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.api import MODES, BlockOptions, Finished, Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import CheckpointError
from engine.model.config import parse_config
from engine.model.network import Network
from engine.model.safetensors_file import SafetensorsWeights
from engine.model.weights import expected_tensors
from tests.engine.nld import (
    INDEX,
    LORA,
    NLD_8B,
    SIZES,
    tensor_shapes,
    tiny_config,
    write_nld,
)

PARAMETERS = {"3B": 3.83, "8B": 8.49, "14B": 13.51}  # billions, as published or recomputed
KV_BYTES = {"3B": 106, "8B": 139, "14B": 164}  # thousands, a token in bf16
PROMPT = "def mean(values):\n    return"


@pytest.mark.parametrize("size", SIZES)
def test_the_full_size_has_the_released_names_shapes_and_counts(size: str) -> None:
    config, published = parse_config(SIZES[size]), tensor_shapes(SIZES[size])
    assert expected_tensors(config) == published
    assert sum(map(prod, published.values())) == config.parameters()
    with torch.device("meta"):
        network = Network(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == config.parameters()
    assert round(config.parameters() / 1e9, 2) == PARAMETERS[size]
    kv_bytes = 2 * config.layers * config.kv_heads * config.head_dim * 2
    assert round(kv_bytes / 1000) == KV_BYTES[size]
    assert (config.mask_id, config.begin_id, config.end_ids) == (100, 1, (11,))


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_every_mode_runs_on_every_layout(
    tmp_path: Path, size: str, shards: int, lora: bool, backend: str
) -> None:
    folder = write_nld(tmp_path, size, shards=shards, lora=lora)
    assert (folder / INDEX).is_file() == (shards > 1)
    assert (folder / LORA).is_dir() == lora
    finished: dict[str, Finished] = {}
    with closing(load(folder, backend)) as engine:
        assert engine.info.modes == MODES
        assert not engine.info.infilling
        prompt = (1, *engine.tokenizer.encode(PROMPT))
        for mode in MODES:
            request = Request(prompt, mode, Limits(tokens_max=9), block=BlockOptions(length=4))
            finished[mode] = engine.generate(request)
    assert {event.usage.tokens for event in finished.values()} == {9}
    texts = {mode: event.text for mode, event in finished.items() if mode != "block"}
    assert set(texts.values()) == {texts["ar"]}


def remove(folder: Path, name: str) -> None:
    """Removes a tensor from the folder's single weight file."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, str(path))


def test_a_missing_tensor_of_the_lora_is_named(tmp_path: Path) -> None:
    name = "base_model.model.encoder.layers.33.self_attn.o_proj.lora_B.weight"
    folder = write_nld(tmp_path, "8B", lora=True)
    remove(folder / LORA, name)
    with pytest.raises(CheckpointError, match=name) as error:
        load(folder)
    assert error.value.param == name
    assert error.value.remedy


def test_another_size_s_config_is_noticed(tmp_path: Path) -> None:
    folder = write_nld(tmp_path, "3B")
    (folder / "config.json").write_text(json.dumps(tiny_config("8B")))
    with pytest.raises(CheckpointError, match=r"config\.json says"):
        load(folder)


def test_nothing_is_read_of_a_checkpoint_whose_last_tensor_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_nld(tmp_path, "3B")
    remove(folder, "encoder.norm.weight")
    for read in ("read", "rows"):
        monkeypatch.setattr(SafetensorsWeights, read, lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight"):
        load(folder)


def test_the_sibling_that_reads_images_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = write_nld(tmp_path, "8B")
    text = {key: value for key, value in NLD_8B.items() if key not in ("model_type", "vocab_size")}
    vision = {"model_type": "nemotron_labs_diffusion_vlm", "text_config": text, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(vision))
    with pytest.raises(CheckpointError, match="nemotron_labs_diffusion_vlm") as error:
        load(folder)
    assert error.value.param == "model_type"
    assert "Nemotron-Labs-Diffusion-8B" in error.value.remedy


def load(folder: Path, backend: str = "auto") -> Engine:
    settings = EngineSettings(folder, device="cpu", dtype="float32", threads=1, backend=backend)
    return Engine.load(settings)
