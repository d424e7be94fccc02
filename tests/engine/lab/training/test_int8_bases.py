"""The commands that start from a checkpoint start from one with int8 weights as well; what they
train is bf16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config import EngineSettings
from engine.engine import Engine
from engine.lab.training.commands import main
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import read_config
from tests.engine.lab.training.small_checkpoints import write_llama, write_repository
from tests.engine.nld import WEIGHTS
from tests.engine.seeded import CPU


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repo")


def as_int8(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    network = load_network(folder, read_config(folder), device=CPU, dtype=torch.float32)
    save_checkpoint(to, network, weights="int8")
    return to


def run(command: str, checkpoint: Path, data: Path, out: Path) -> Path:
    words = [command, str(checkpoint), "--data", str(data), "--out", str(out), "--tokens", "1000"]
    fixed = ["--batch-tokens", "500", "--dtype", "float32", "--threads", "1", "--holes", "0"]
    assert main([*words, *fixed]) == 0
    return out / "checkpoint"


def quantisation(folder: Path) -> object:
    return json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config")


@pytest.mark.parametrize("command", ["adapt", "convert"])
def test_trained_weights_are_stored_as_bf16(command: str, repository: Path, tmp_path: Path) -> None:
    base = as_int8(write_llama(tmp_path / "llama"), tmp_path / "int8")
    assert quantisation(base) is not None
    made = run(command, base, repository, tmp_path / "out")
    assert quantisation(made) is None
    assert {tensor.dtype for tensor in load_file(made / WEIGHTS).values()} == {torch.bfloat16}
    load_network(made, read_config(made), device=CPU, dtype=torch.float32)


def test_a_drafter_is_trained_beside_int8_weights(
    tiny_checkpoint: Path, repository: Path, tmp_path: Path
) -> None:
    base = as_int8(tiny_checkpoint, tmp_path / "int8")
    made = run("train-drafter", base, repository, tmp_path / "out")
    assert quantisation(made) == quantisation(base)
    assert (made / WEIGHTS).read_bytes() == (base / WEIGHTS).read_bytes()
    engine = Engine.load(EngineSettings(made, device="cpu", dtype="float32", threads=1))
    try:
        assert "linear_spec" in engine.info.modes
    finally:
        engine.close()
