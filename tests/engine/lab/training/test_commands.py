"""The three commands from end to end at a tiny size: results, resuming, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine.config import EngineSettings
from engine.engine import Engine
from engine.lab.training.commands import main
from engine.lab.training.jobs.adapt import AdaptJob
from engine.lab.training.jobs.convert import ConvertJob
from engine.lab.training.jobs.drafter import DrafterJob
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import read_config
from engine.prompt import InfillFormat
from tests.engine.lab.training.small_checkpoints import write_llama, write_qwen3, write_repository
from tests.engine.nld import WEIGHTS
from tests.engine.seeded import CPU, causal_logits

FIXED = ("--batch-tokens", "500", "--dtype", "float32", "--threads", "1")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("data") / "repo")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def diffusion(llama: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Llama checkpoint converted, with infilling."""
    out = tmp_path_factory.mktemp("diffusion")
    assert run("convert", llama, repository, out) == 0
    return out / "checkpoint"


def run(
    command: str, checkpoint: Path, data: Path, out: Path, *more: str, tokens: str = "2000"
) -> int:
    words = [command, str(checkpoint), "--data", str(data), "--out", str(out), *FIXED]
    return main([*words, "--tokens", tokens, "--holes", "0", *more])


def digest(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_adapt_gives_a_checkpoint_of_the_same_family_that_knows_infilling(
    llama: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = digest(llama)
    assert run("adapt", llama, repository, tmp_path, "--holes", "1") == 0
    assert digest(llama) == before
    table = capsys.readouterr().out
    assert "| before | ar | prefix | 3 |" in table
    assert "| after | ar | both sides | 3 |" in table
    assert (tmp_path / "figures.md").read_text("utf-8").strip() in table
    engine = Engine.load(EngineSettings(checkpoint=tmp_path / "checkpoint", device="cpu"))
    try:
        assert isinstance(engine.tokenizer.infill, InfillFormat)
        assert "block" not in engine.info.modes
    finally:
        engine.close()
    held_out = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["held_out_ar"] for row in held_out if "held_out_ar" in row]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    # transformers reads it and computes the same
    folder = tmp_path / "checkpoint"
    network = load_network(folder, read_config(folder), device=CPU, dtype=torch.float32)
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tuple(range(3, network.config.vocabulary, 3))
    with torch.inference_mode():
        expected = peer(torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(causal_logits(network, tokens), expected, rtol=1e-3, atol=1e-4)


def test_convert_gives_a_diffusion_model_that_the_engine_runs_in_every_mode(diffusion: Path):
    config = read_config(diffusion)
    assert config.family.fills_masks
    engine = Engine.load(EngineSettings(checkpoint=diffusion, device="cpu"))
    try:
        assert {"ar", "block", "linear_spec"} <= set(engine.info.modes)
        assert isinstance(engine.tokenizer.infill, InfillFormat)
        assert engine.tokenizer.id_of("[MASK]") == config.mask_id
    finally:
        engine.close()


def test_convert_keeps_what_the_family_adds(repository: Path, tmp_path: Path):
    qwen = write_qwen3(tmp_path / "qwen")
    out = tmp_path / "out"
    assert run("convert", qwen, repository, out, "--infilling", "0", "--late", "0.1") == 0
    config = read_config(out / "checkpoint")
    assert config.family.qk_norm
    assert config.tied_head
    names = load_file(out / "checkpoint" / "model.safetensors").keys()
    assert "encoder.layers.0.self_attn.q_norm.weight" in names
    assert "diffusion_head.weight" not in names
    text = (out / "checkpoint" / "tokenizer.json").read_text("utf-8")
    assert "[MASK]" in text
    assert "[EOM]" not in text  # plain text only: no layout was taught


def test_a_diffusion_model_without_infilling_learns_it_by_adapt(
    llama: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("convert", llama, repository, tmp_path / "a", "--infilling", "0") == 0
    converted = tmp_path / "a" / "checkpoint"
    assert run("adapt", converted, repository, tmp_path / "b", "--holes", "1") == 0
    assert "| after | block | both sides |" in capsys.readouterr().out
    config = json.loads((tmp_path / "b" / "checkpoint" / "config.json").read_text("utf-8"))
    assert config["model_type"] == "nemotron_labs_diffusion"
    assert config["training"]["command"] == "adapt"
    assert str(tmp_path) not in json.dumps(config)


def test_the_drafter_comes_beside_the_checkpoint_in_peft_layout(
    diffusion: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = digest(diffusion)
    assert run("train-drafter", diffusion, repository, tmp_path, "--rank", "4", "--holes", "1") == 0
    folder = tmp_path / "checkpoint"
    assert digest(folder) == before == digest(diffusion)
    adapter = load_file(folder / "linear_spec_lora" / "adapter_model.safetensors")
    name = "base_model.model.encoder.layers.1.self_attn.o_proj.lora_B.weight"
    assert adapter[name].abs().sum() > 0
    settings = json.loads((folder / "linear_spec_lora" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 16.0)
    assert "| on | 3 |" in capsys.readouterr().out
    Engine.load(EngineSettings(checkpoint=folder, device="cpu")).close()


@pytest.mark.parametrize(
    ("command", "job"),
    [("adapt", AdaptJob), ("convert", ConvertJob), ("train-drafter", DrafterJob)],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    command: str,
    job: type,
    diffusion: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    more = ("--rank", "4") if command != "convert" else ()
    assert run(command, diffusion, repository, tmp_path / "whole", *more, tokens="5000") == 0
    step, steps = job.step, [0]

    def step_and_signal(self: object, share: float) -> object:
        steps[0] += 1
        if steps[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM if command == "convert" else signal.SIGINT)
        return step(self, share)

    monkeypatch.setattr(job, "step", step_and_signal)
    broken = tmp_path / "broken"
    assert run(command, diffusion, repository, broken, *more, tokens="5000") == 130
    assert steps[0] == 2  # the step under way was finished, no other begun
    assert not (broken / "checkpoint").exists()
    assert run(command, diffusion, repository, broken, *more, tokens="5000") == 0
    for path in (tmp_path / "whole" / "checkpoint").rglob("*.safetensors"):
        other = broken / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_another_run_in_the_same_folder_is_refused(
    llama: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("adapt", llama, repository, tmp_path) == 0
    assert run("adapt", llama, repository, tmp_path, "--rank", "3") == 1
    error = capsys.readouterr().err
    assert "rank was 16, now it is 3" in error
    assert "--out" in error


def test_a_finished_run_can_go_on_with_a_larger_budget(
    llama: Path, repository: Path, tmp_path: Path
):
    assert run("adapt", llama, repository, tmp_path) == 0
    first = (tmp_path / "checkpoint" / "model.safetensors").read_bytes()
    assert run("adapt", llama, repository, tmp_path, tokens="4000") == 0
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() != first


def test_a_causal_checkpoint_that_fills_no_holes_has_no_drafter(
    llama: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("train-drafter", llama, repository, tmp_path) == 1
    error = capsys.readouterr().err
    assert "no infilling tokens" in error
    assert "adapt first" in error


def test_options_of_mask_adapters_are_refused_for_a_checkpoint_that_fills_masks(
    diffusion: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("train-drafter", diffusion, repository, tmp_path, "--markov-rank", "8") == 1
    assert "Leave --markov-rank out" in capsys.readouterr().err


def test_too_little_memory_is_told_before_a_weight_is_read(
    llama: Path,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def unread(*arguments: object, **named: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("engine.lab.training.commands.free_memory_bytes", lambda device: 90 << 20)
    monkeypatch.setattr("engine.lab.training.commands.load_network", unread)
    monkeypatch.setattr("engine.lab.training.commands.measure_checkpoint", unread)
    assert run("convert", llama, repository, tmp_path, "--batch-tokens", "100000") == 1
    assert "--batch-tokens" in capsys.readouterr().err


def test_the_command_line_hands_over_and_ctrl_c_keeps_what_was_learnt(
    llama: Path, repository: Path, tmp_path: Path
):
    words = [sys.executable, "-P", "-m", "dlm_lsp", "adapt", str(llama), "--data", str(repository)]
    words += ["--out", str(tmp_path), *FIXED, "--minutes", "60", "--holes", "0"]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        log = tmp_path / "log.jsonl"
        while not (log.is_file() and len(log.read_text().splitlines()) >= 2):
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "The same command goes on" in errors
    assert torch.load(tmp_path / "state.pt", weights_only=True)["position"]["step"] >= 10


def as_int8(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    network = load_network(folder, read_config(folder), device=CPU, dtype=torch.float32)
    save_checkpoint(to, network, weights="int8")
    return to


def quantisation(folder: Path) -> object:
    return json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config")


@pytest.mark.parametrize("command", ["adapt", "convert"])
def test_weights_trained_from_int8_ones_are_stored_as_bf16(
    command: str, llama: Path, repository: Path, tmp_path: Path
):
    base = as_int8(llama, tmp_path / "int8")
    assert quantisation(base) is not None
    assert run(command, base, repository, tmp_path / "out", tokens="1000") == 0
    made = tmp_path / "out" / "checkpoint"
    assert quantisation(made) is None
    assert {tensor.dtype for tensor in load_file(made / WEIGHTS).values()} == {torch.bfloat16}
    load_network(made, read_config(made), device=CPU, dtype=torch.float32)


def test_a_drafter_is_trained_beside_int8_weights(
    tiny_checkpoint: Path, repository: Path, tmp_path: Path
):
    base = as_int8(tiny_checkpoint, tmp_path / "int8")
    assert run("train-drafter", base, repository, tmp_path / "out", tokens="1000") == 0
    made = tmp_path / "out" / "checkpoint"
    assert quantisation(made) == quantisation(base)
    assert (made / WEIGHTS).read_bytes() == (base / WEIGHTS).read_bytes()
    engine = Engine.load(EngineSettings(made, device="cpu", dtype="float32", threads=1))
    try:
        assert "linear_spec" in engine.info.modes
    finally:
        engine.close()
