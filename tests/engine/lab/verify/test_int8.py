"""An examination of a checkpoint with int8 weights: right ones pass, wrong ones are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import EngineSettings
from engine.lab.verify.examination import examine
from engine.lab.verify.report import Check
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import read_config
from tests.engine.nld import WEIGHTS

UP = "encoder.layers.0.mlp.up_proj.weight"
SCALE = f"{UP}_scale"


@pytest.fixture(scope="module")
def int8(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
    cpu = torch.device("cpu")
    network = load_network(folder, read_config(folder), device=cpu, dtype=torch.float32)
    save_checkpoint(folder, network, shard_bytes=None, weights="int8")
    return folder


def examined(folder: Path, *, dtype: str = "float32") -> dict[str, Check]:
    sections = examine(EngineSettings(folder, device="cpu", dtype=dtype, threads=1), 1)
    return {f"{part.title}: {check.name}": check for part in sections for check in part.checks}


def failures(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.state == "failed"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_pass_and_are_told(int8: Path, dtype: str) -> None:
    checks = examined(int8, dtype=dtype)
    assert failures(checks) == []
    config = read_config(int8)
    assert checks["tensors: stored as"].figures["int8"] == 2 + 7 * config.layers
    assert checks["tensors: parameters"].figures["parameters"] == config.parameters()
    assert "tensors I8" in checks["tensors: files"].found
    assert "equal to Ministral3ForCausalLM" in checks["network: activations"].found
    assert checks["modes: block"].state == "ok"


def test_weights_that_are_not_quantised_are_told(tiny_checkpoint: Path) -> None:
    checks = examined(tiny_checkpoint)
    assert checks["tensors: stored as"].found == "not quantised"


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, str(folder / WEIGHTS))

    return apply


def restate(stated: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        raw["quantization_config"] = stated
        (folder / "config.json").write_text(json.dumps(raw))

    return apply


BREAKAGES = {
    "missing scale": (edit(lambda t: t.pop(SCALE)), "tensors: missing", SCALE),
    "misshapen scale": (
        edit(lambda t: t.update({SCALE: t[SCALE].flatten()})),
        "tensors: misshapen",
        SCALE,
    ),
    "negative scale": (edit(lambda t: t[SCALE].neg_()), "loading: weights", SCALE),
    "scale left over": (
        edit(lambda t: t.update({UP: t[UP].bfloat16()})),
        "tensors: unexpected",
        SCALE,
    ),
    "not said": (restate(None), "tensors: stored as", "no quantization_config"),
    "another kind": (restate({"quant_method": "awq"}), "tensors: stored as", "quant_method"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_wrong_is_named(int8: Path, tmp_path: Path, breakage: str) -> None:
    break_it, failed, named = BREAKAGES[breakage]
    folder = tmp_path / "broken"
    shutil.copytree(int8, folder)
    break_it(folder)
    checks = examined(folder)
    assert failed in failures(checks)
    assert named in checks[failed].found
    assert checks[failed].remedy
