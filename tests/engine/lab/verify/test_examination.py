"""An examination passes what is right, names what is wrong, and says what it could not look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional

from engine.config import BUNDLED_CHECKPOINT, EngineSettings
from engine.decoders import STRATEGIES
from engine.decoders.linear_spec import LinearSpec
from engine.lab.verify import network_checks, peer
from engine.lab.verify.examination import examine
from engine.lab.verify.report import Check, Section
from engine.model import runner
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import read_config
from engine.model.network import MLP
from tests.engine.gguf_files import seeded_peer
from tests.engine.nld import LORA, WEIGHTS, write_nld
from tests.engine.seeded import CPU
from tests.tiny import sentinel_tokenizer

TITLES = [
    "config",
    "tensors",
    "drafter LoRA",
    "tokenizer",
    "loading",
    "network",
    "infilling",
    "modes",
    "memory",
]
Break = Callable[[Path], object]


def examined(folder: Path, *, dtype: str = "float32", holes: int = 3) -> list[Section]:
    settings = EngineSettings(folder, device="cpu", dtype=dtype, threads=1)
    return list(examine(settings, holes))


def checks(sections: list[Section]) -> Mapping[str, Check]:
    return {f"{part.title}: {check.name}": check for part in sections for check in part.checks}


def failures(sections: list[Section]) -> list[str]:
    return [name for name, check in checks(sections).items() if check.state == "failed"]


@pytest.fixture(scope="module")
def nld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nld(tmp_path_factory.mktemp("nld"), "3B", shards=3, lora=True)


@pytest.fixture(scope="module")
def int8(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
    network = load_network(folder, read_config(folder), device=CPU, dtype=torch.float32)
    save_checkpoint(folder, network, weights="int8")
    return folder


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = sentinel_tokenizer()
    peer = seeded_peer("qwen2", tie_word_embeddings=True, vocab_size=tokenizer.size)
    peer.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def test_a_released_layout_passes(nld: Path) -> None:
    sections = examined(nld, dtype="bfloat16", holes=1)
    assert [section.title for section in sections] == TITLES
    assert failures(sections) == []
    found = checks(sections)
    assert found["drafter LoRA: linear_spec_lora"].found.startswith("found: rank 4, scale 4")
    assert found["tokenizer: mask id"].figures["mask_id"] == 100
    assert found["infilling: format"].state == "skipped"
    assert "[SUFFIX]" in found["infilling: format"].found
    assert "28 equal to Ministral3ForCausalLM" in found["network: activations"].found
    for mode in ("ar", "block", "linear_spec", "quadratic_spec", "copy_spec"):
        assert found[f"modes: {mode}"].figures["tokens"] == 96


def test_a_checkpoint_of_another_family_passes(qwen2: Path) -> None:
    sections = examined(qwen2)
    assert failures(sections) == []
    found = checks(sections)
    assert "4 equal to Qwen2ForCausalLM" in found["network: activations"].found
    assert found["tokenizer: infilling format"].figures["format"] == "SentinelFormat"
    skipped = [name for name, check in found.items() if check.state == "skipped"]
    assert set(skipped) >= {"drafter LoRA: linear_spec_lora", "modes: block", "modes: linear_spec"}


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Ministral3", "Qwen3"])
def test_every_other_family_is_compared_with_its_own_class(family: str, tmp_path: Path) -> None:
    tokenizer = sentinel_tokenizer()
    tokenizer.save(tmp_path)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        tie_word_embeddings=False,
        **({"sliding_window": None} if family == "Mistral" else {}),
    )
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path)
    sections = examined(tmp_path)
    assert failures(sections) == []
    found = checks(sections)["network: activations"].found
    assert f"4 equal to {family}ForCausalLM" in found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_pass(int8: Path, dtype: str) -> None:
    sections = examined(int8, dtype=dtype, holes=1)
    assert failures(sections) == []
    found, config = checks(sections), read_config(int8)
    assert found["tensors: stored as"].figures["int8"] == 2 + 7 * config.layers
    assert found["tensors: parameters"].figures["parameters"] == config.parameters()
    assert "tensors I8" in found["tensors: files"].found
    assert "equal to Ministral3ForCausalLM" in found["network: activations"].found
    assert found["modes: block"].state == "ok"


def test_the_bundled_model_passes_and_its_infilling_format_works() -> None:
    sections = examined(BUNDLED_CHECKPOINT, dtype="bfloat16", holes=12)
    assert failures(sections) == []
    format_check = checks(sections)["infilling: format"]
    assert format_check.state == "ok"
    assert format_check.figures["works"] is True
    assert checks(sections)["tensors: stored as"].found == "not quantised"


def test_everything_can_be_written_as_json(tiny_checkpoint: Path) -> None:
    for section in examined(tiny_checkpoint, holes=0):
        assert json.loads(json.dumps(section.to_object()))["title"] == section.title


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, str(folder / WEIGHTS))

    return apply


def change_config(**changes: object) -> Break:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def lose_five(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(5):
        tensors.pop(f"encoder.layers.{layer}.mlp.up_proj.weight")


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.norm.weight"][3] = float("nan")


NORM = "encoder.norm.weight"
# What is done to the folder, the check that fails, and what it says.
BREAKAGES: dict[str, tuple[Break, str, str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "config: config.json",
        "has no config.json",
    ),
    "images": (
        change_config(model_type="nemotron_labs_diffusion_vlm"),
        "config: config.json",
        "nemotron_labs_diffusion_vlm",
    ),
    "five missing": (
        change_weights(lose_five),
        "tensors: missing",
        "5 of 237: encoder.layers.0.mlp.up_proj.weight; encoder.layers.1.mlp.up_proj.weight; "
        "encoder.layers.2.mlp.up_proj.weight; 2 more",
    ),
    "unexpected": (
        change_weights(lambda t: t.update({"vision_tower.x": torch.ones(2)})),
        "tensors: unexpected",
        "1 of 238: vision_tower.x",
    ),
    "misshapen": (
        change_weights(lambda t: t.update({NORM: torch.ones(5)})),
        "tensors: misshapen",
        f"{NORM} [5], config.json says [48]",
    ),
    "truncated": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "tensors: files",
        "truncated or damaged",
    ),
    "no number": (change_weights(spoil), "loading: finite", NORM),
    "lora": (
        lambda folder: (folder / LORA / "adapter_model.safetensors").unlink(),
        "drafter LoRA: linear_spec_lora",
        "adapter_model.safetensors",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer: tokenizer.json",
        "no tokenizer.json",
    ),
    "mask is a letter": (
        change_config(mask_token_id=1100),
        "tokenizer: mask id",
        "1100 is the ordinary token",
    ),
    "end is a letter": (change_config(eos_token_id=1100), "tokenizer: end ids", "1100"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_broken_is_named_and_the_rest_left_out(tmp_path: Path, breakage: str) -> None:
    break_it, name, told = BREAKAGES[breakage]
    break_it(write_nld(tmp_path, "3B", lora=True))
    sections = examined(tmp_path)
    assert failures(sections) == [name]
    check = checks(sections)[name]
    assert told in check.found
    assert check.remedy
    for part in ("network", "infilling", "modes"):
        assert checks(sections)[f"computing: {part}"].state == "skipped"


UP = "encoder.layers.0.mlp.up_proj.weight"
SCALE = f"{UP}_scale"
INT8_BREAKAGES: dict[str, tuple[Break, str, str]] = {
    "missing scale": (change_weights(lambda t: t.pop(SCALE)), "tensors: missing", SCALE),
    "misshapen scale": (
        change_weights(lambda t: t.update({SCALE: t[SCALE].flatten()})),
        "tensors: misshapen",
        SCALE,
    ),
    "negative scale": (change_weights(lambda t: t[SCALE].neg_()), "loading: weights", SCALE),
    "scale left over": (
        change_weights(lambda t: t.update({UP: t[UP].bfloat16()})),
        "tensors: unexpected",
        SCALE,
    ),
    "not said": (
        change_config(quantization_config=None),
        "tensors: stored as",
        "no quantization_config",
    ),
    "another kind": (
        change_config(quantization_config={"quant_method": "awq"}),
        "tensors: stored as",
        "quant_method",
    ),
}


@pytest.mark.parametrize("breakage", INT8_BREAKAGES)
def test_what_is_wrong_with_int8_weights_is_named(
    int8: Path, tmp_path: Path, breakage: str
) -> None:
    break_it, name, told = INT8_BREAKAGES[breakage]
    folder = Path(shutil.copytree(int8, tmp_path / "broken"))
    break_it(folder)
    sections = examined(folder, holes=1)
    assert name in failures(sections)
    assert told in checks(sections)[name].found
    assert checks(sections)[name].remedy


def test_a_folder_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    sections = examined(tmp_path / "none")
    assert failures(sections) == ["config: folder"]


def test_a_network_that_computes_something_else_is_found_where_it_begins(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MLP, "forward", lambda self, x, draft: self.down_proj(functional.gelu(self.gate_proj(x)))
    )
    sections = examined(tiny_checkpoint, holes=0)
    assert failures(sections) == [
        "network: activations",
        "network: logits",
        "network: cached steps",
    ]
    assert checks(sections)["network: activations"].figures["at"] == "layer 0"


def test_a_cache_that_mixes_rows_up_is_found(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = runner.step_attention

    def reversed_heads(query: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return attention(query.flip(1), *rest)

    monkeypatch.setattr(runner, "step_attention", reversed_heads)
    assert failures(examined(tiny_checkpoint, holes=0)) == ["network: cached steps"]


class Careless(LinearSpec):
    """Emits what it drafted, verified or not: the mask's neighbour instead of ar's token."""

    def resolve(self, state, step, readings):
        wrong = [replace(each, token=each.best[-1][0]) for each in readings]
        return super().resolve(state, step, wrong)


def test_a_mode_that_emits_something_else_is_found(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "linear_spec", Careless())
    sections = examined(tiny_checkpoint, holes=0)
    assert failures(sections) == ["modes: linear_spec"]
    figures = checks(sections)["modes: linear_spec"].figures
    assert figures["differ"] == 3
    assert float(str(figures["gap"])) > 2 * float(str(figures["noise"]))


def test_without_transformers_the_rest_is_examined(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(peer, "_transformers", missing)
    sections = examined(tiny_checkpoint, holes=0)
    check = checks(sections)["network: transformers"]
    assert (check.state, check.found) == ("skipped", "transformers is not installed.")
    assert check.remedy.startswith("pip install")
    assert checks(sections)["network: cached steps"].state == "ok"
    assert failures(sections) == []


def test_without_memory_for_a_second_copy_it_says_how_much_is_needed(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_checks, "free_memory_bytes", lambda device: 1 << 10)
    sections = examined(tiny_checkpoint, holes=0)
    check = checks(sections)["network: transformers"]
    assert check.state == "skipped"
    needed = read_config(tiny_checkpoint).parameters() * 4 / 2**10
    assert f"needs {needed:.1f} KiB; 1.0 KiB are free on cpu" in check.found
    assert f"Free {needed - 1:.1f} KiB" in check.remedy
    assert failures(sections) == []
