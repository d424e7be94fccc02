"""`train-drafter` for an autoregressive checkpoint: from sources to an adapter that is served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.lab.training.mask_adapter.middles as middles
from dlm_lsp.client.paths import adapters_folder
from engine.config import EngineSettings
from engine.device import resolve
from engine.engine import Engine
from engine.lab.training.commands import main
from engine.lab.training.mask_adapter.middles import MiddleOptions, served_writer, torch_writer
from engine.lab.training.mask_adapter.session import Session
from engine.model.checkpoint import build_network
from engine.model.mask_adapter import read_mask_adapter
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.source import open_checkpoint
from tests.engine.lab.training.small_checkpoints import CODE, write_qwen2_coder

_BATCH = 512  # rows: one sequence


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_coder(tmp_path_factory.mktemp("model") / "coder")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `build_corpus` writes it."""
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "held_out"):
        text = "".join(CODE.format(index) for index in range(8))
        rows = [{"package": "p", "path": f"{i}.py", "text": text} for i in range(4)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, "utf-8")
    return folder


def run(checkpoint: Path, corpus: Path, out: Path, *more: str, rows: int = _BATCH) -> int:
    words = ["train-drafter", str(checkpoint), "--data", str(corpus), "--out", str(out)]
    words += ["--middles", "6", "--middle-tokens", "10", "--holes", "3", "--threads", "1"]
    words += ["--batch-tokens", str(_BATCH), "--dtype", "float32", "--tokens", str(rows)]
    return main([*words, *more])


def of_new(out: Path) -> tuple[str, ...]:
    """Options of a run that starts afresh, with adapters of its own folder."""
    return ("--rank", "4", "--draft-vocabulary", "200", "--adapters", str(out / "adapters"))


def log_rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained(checkpoint: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("run")
    assert run(checkpoint, corpus, out, *of_new(out), rows=12 * _BATCH) == 0
    return out


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_engine_finds_the_adapter_by_itself(
    backend: str, checkpoint: Path, trained: Path
) -> None:
    source = open_checkpoint(checkpoint)
    adapter = read_mask_adapter(trained / "adapters" / "coder", source.config, source.weights)
    assert adapter.name == "coder"
    assert len(adapter.draft_ids) == 200
    settings = EngineSettings(checkpoint, "cpu", "float32", threads=1, backend=backend)
    engine = Engine.load(replace(settings, adapters=trained / "adapters"))
    try:
        assert "pruned_spec" in engine.info.modes
    finally:
        engine.close()
    without = Engine.load(settings)
    try:
        assert "pruned_spec" not in without.info.modes
    finally:
        without.close()


def test_a_graph_belongs_to_its_adapter_and_goes_with_it(
    checkpoint: Path, trained: Path, tmp_path: Path
) -> None:
    """As after a further training: the graph of the adapter before takes half a gigabyte."""
    adapters, graphs = tmp_path / "adapters", tmp_path / "graphs"
    settings = resolve(EngineSettings(checkpoint, "cpu", threads=1, graphs=graphs))
    with_one = replace(settings, adapters=adapters)
    source = open_checkpoint(checkpoint)

    def graph() -> list[Path]:
        runtime = OnnxRuntime.load(source, with_one)
        assert bool(runtime.draft_masks) == adapters.exists()
        return [path.parent for path in graphs.glob("*/*/graph.onnx")]

    (without,) = graph()
    shutil.copytree(trained / "adapters", adapters)
    (first,) = graph()
    assert first != without
    assert graph() == [first]
    raw = json.loads((adapters / "coder" / "adapter_config.json").read_text("utf-8"))
    raw["dlm"]["sha256"] = "0" * 64
    (adapters / "coder" / "adapter_config.json").write_text(json.dumps(raw), "utf-8")
    (second,) = graph()
    assert second != first


def test_another_models_adapter_of_the_same_name_stays(
    checkpoint: Path, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "adapters" / "coder"
    shutil.copytree(trained / "adapters" / "coder", other)
    config = other / "adapter_config.json"
    raw = json.loads(config.read_text("utf-8"))
    raw["dlm"]["base"]["fingerprint"] = "f" * 64
    config.write_text(json.dumps(raw), "utf-8")
    assert run(checkpoint, corpus, tmp_path, *of_new(tmp_path), "--measure-minutes", "0") == 0
    assert json.loads(config.read_text("utf-8")) == raw
    source = open_checkpoint(checkpoint)
    (beside,) = [path for path in other.parent.iterdir() if path != other]
    assert read_mask_adapter(beside, source.config, source.weights).name == "coder"


def test_the_log_has_rates_and_figures_through_the_engine(trained: Path) -> None:
    rows = log_rows(trained)
    steps = [row for row in rows if "tokens_per_second" in row]
    measured = [row for row in rows if "held_out_drafts" in row]
    assert all(row["cross_entropy"] > 0 and row["share_of_matrix_rate"] > 0 for row in steps)
    assert [row["tokens"] for row in measured] == [0, 12 * _BATCH]
    for row in measured:
        served = row["held_out_served_tokens_per_forward"]
        assert served >= 1
        assert row["held_out_served_drafts_per_forward"] == pytest.approx(served - 1)
    figures = (trained / "figures.md").read_text("utf-8")
    # No adapter was there before, and a forward without one gives one token.
    assert "| before | 3 | 1.000 |" in figures
    assert f"| after | 3 | {measured[-1]['held_out_served_tokens_per_forward']:.3f} |" in figures
    assert not (trained / "served").exists()


def test_an_interrupted_run_ends_with_the_same_adapter(
    checkpoint: Path, corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while middles are written, and once while the adapter is trained."""
    monkeypatch.setattr(middles, "_PART_ON_CPU", 2)
    written: list[int] = []
    write = middles.write_served

    def write_and_signal(*arguments: object) -> object:
        written.append(len(written))
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(middles, "write_served", write_and_signal)
    arguments = (checkpoint, corpus, tmp_path, *of_new(tmp_path))
    assert run(*arguments, rows=12 * _BATCH) == 130
    kept = sorted((tmp_path / "written").glob("*.npz"))
    assert len(kept) == 1
    step = Session.step
    steps: list[float] = []

    def step_and_signal(self: Session, share: float) -> object:
        steps.append(share)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, share)

    monkeypatch.setattr(Session, "step", step_and_signal)
    before = kept[0].stat().st_mtime_ns
    assert run(*arguments, rows=12 * _BATCH) == 130
    assert len(steps) == 5
    assert kept[0].stat().st_mtime_ns == before
    assert not (tmp_path / "adapter").exists()
    assert run(*arguments, rows=12 * _BATCH) == 0
    whole, broken = (each / "adapter" / "adapter_model.safetensors" for each in (trained, tmp_path))
    assert whole.read_bytes() == broken.read_bytes()


def test_a_run_starts_from_the_current_adapter_at_lower_ranks(
    checkpoint: Path, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    adapters = tmp_path / "adapters"
    shutil.copytree(trained / "adapters", adapters)
    more = ("--start-from", "current", "--rank", "2", "--markov-rank", "3")
    out = tmp_path / "out"
    assert run(checkpoint, corpus, out, *more, "--adapters", str(adapters)) == 0
    source = open_checkpoint(checkpoint)
    old, new = (
        read_mask_adapter(folder, source.config, source.weights)
        for folder in (trained / "adapter", out / "adapter")
    )
    assert np.array_equal(old.draft_ids, new.draft_ids)
    assert new.before.shape[1] == 3
    assert len(new.factors("encoder.layers.0.mlp.up_proj").down) == 2
    started = read_mask_adapter(out / "start", source.config, source.weights)
    assert np.array_equal(started.before, old.before)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--start-from", "current"), "has no adapter yet"),
        (("--start-from", "nowhere"), "adapter_config.json"),
        (("--start-from", "nowhere", "--draft-vocabulary", "9"), "Leave --draft-vocabulary out"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    more: tuple[str, ...],
    message: str,
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(checkpoint, corpus, tmp_path, *more) == 1
    assert message in capsys.readouterr().err


def test_a_larger_rank_than_the_trained_one_is_refused(
    checkpoint: Path,
    corpus: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ("--start-from", str(trained / "adapter"), "--rank", "5")
    assert run(checkpoint, corpus, tmp_path, *start) == 1
    error = capsys.readouterr().err
    assert "--rank is 5" in error
    assert "has 4" in error


def test_an_adapter_that_is_worse_is_not_put_in_place(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "before.json").write_text('{"tokens_per_forward": 9.5}', "utf-8")
    assert run(checkpoint, corpus, tmp_path, *of_new(tmp_path)) == 0
    assert not (tmp_path / "adapters").exists()
    assert (tmp_path / "adapter").is_dir()
    assert "no better" in capsys.readouterr().err


def test_torch_and_the_engine_write_the_same_middles(checkpoint: Path, corpus: Path) -> None:
    """A card writes by torch, a processor by the engine, in float32 for so small a model."""
    source = open_checkpoint(checkpoint)
    network = build_network(
        source.weights, source.config, device=torch.device("cpu"), dtype=torch.float32
    )
    options = MiddleOptions(sequences=5, held_out=0, tokens=12)
    given = EngineSettings(checkpoint, "cpu", threads=1, backend="onnx")
    rng = np.random.default_rng(2)
    prompts = rng.integers(10, source.config.vocabulary, (5, 40)).astype(np.int32)
    by_torch = torch_writer(source, network, options)(prompts)
    by_engine = served_writer(source, resolve(given), options)(prompts)
    assert np.array_equal(by_torch.ends, by_engine.ends)
    for row, end in enumerate(by_torch.ends):
        assert np.array_equal(by_torch.tokens[row, :end], by_engine.tokens[row, :end])
        assert np.array_equal(by_torch.greedy[row, :end], by_engine.greedy[row, :end])


def test_the_command_line_knows_where_the_engine_looks(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """The whole command, as it is typed; it gives way to everything else on the machine."""
    words = [sys.executable, "-P", "-m", "dlm_lsp", "train-drafter", str(checkpoint)]
    words += ["--data", str(corpus), "--out", str(tmp_path / "out"), "--rank", "2"]
    words += ["--middles", "3", "--middle-tokens", "6", "--holes", "1", "--tokens", "512"]
    store = tmp_path / "models"
    store.mkdir()
    environment = {**os.environ, "DLM_LSP_MODELS": str(store)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(store / "adapters" / "coder") in done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_LSP_MODELS", str(store))
        settings = EngineSettings(checkpoint, "cpu", threads=1, adapters=adapters_folder())
    engine = Engine.load(settings)
    try:
        assert "pruned_spec" in engine.info.modes
    finally:
        engine.close()
