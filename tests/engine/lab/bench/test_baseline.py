"""The card's baseline, tried on the CPU at a tiny shape: every part runs and is kept at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine.lab.bench.baseline import Baseline, main

import engine.lab.rates
from engine.lab.bench import baseline_report
from engine.lab.bench.compiled import CompiledStep
from engine.lab.bench.shapes import random_network, released_config, weight_bytes
from engine.lab.bench.steps import measure_steps
from engine.lab.rates import Rates, measure_rates, seconds_of
from engine.model.families import RELEASED
from engine.model.runner import ModelRunner
from tests.engine.seeded import CPU, causal_logits

TINY = replace(
    released_config("3B"), vocabulary=96, hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2,
    head_dim=16, mask_id=3, end_ids=(2,),
)  # fmt: skip


@pytest.mark.parametrize(("size", "billions"), [("3B", 3.83), ("8B", 8.49), ("14B", 13.51)])
def test_released_shapes_have_the_released_number_of_parameters(size: str, billions: float) -> None:
    assert released_config(size).parameters() / 1e9 == pytest.approx(billions, abs=0.006)
    assert size in RELEASED


def test_weights_read_are_all_but_the_embedding() -> None:
    network = random_network(TINY, device=CPU, dtype=torch.bfloat16)
    embedding = network.encoder.embed_tokens.weight
    every = sum(parameter.numel() for parameter in network.parameters())
    assert weight_bytes(TINY, torch.bfloat16) == 2 * (every - embedding.numel())


def test_a_compiled_step_computes_what_a_plain_pass_does() -> None:
    network = random_network(TINY, device=CPU, dtype=torch.float32)
    compiled = CompiledStep(network, 0, backend="eager")
    logits = compiled.prepared(6)()
    expected = causal_logits(network, tuple(range(6)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_every_part_is_measured_and_kept_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: eager(f, backend="eager"))
    baseline = Baseline(tmp_path, CPU, torch.bfloat16)
    baseline.add("rates", {"copy": 1e9, "matrix": 1e12, "dtype": "bfloat16"})
    baseline.measure_shape("tiny", TINY, Rates(1e9, 1e12, "bfloat16"), (1, 8), [24, 48])
    content = json.loads((tmp_path / "baseline.json").read_text("utf-8"))
    assert [(s["rows"], s["context"]) for s in content["steps tiny"]] == [
        (1, 24), (8, 24), (1, 48), (8, 48),
    ]  # fmt: skip
    assert all(step["milliseconds"] > 0 for step in content["steps tiny"])
    modes = [cycle["mode"] for cycle in content["cycles tiny"]]
    assert modes == ["ar", "block", "linear_spec", "quadratic_spec", "copy_spec"]
    assert all(cycle["cycles_per_second"] > 0 for cycle in content["cycles tiny"])
    assert content["transformers tiny"]["ms_per_token"] > 0
    assert content["profile tiny"][0]["milliseconds"] > 0

    assert baseline_report.main([str(tmp_path)]) == 0
    table = (tmp_path / "baseline.md").read_text("utf-8")
    assert "## tiny" in table
    assert "quadratic_spec" in table
    assert (tmp_path / "baseline.svg").stat().st_size > 1000


def test_the_share_of_reading_is_of_the_weights_at_half_the_copy_bandwidth() -> None:
    model = ModelRunner(random_network(TINY, device=CPU, dtype=torch.bfloat16), device=CPU)
    (step,) = measure_steps(model, Rates(2e6, 1e9, "bfloat16"), (4,), (16,))
    reading_ms = weight_bytes(TINY, torch.bfloat16) / 1e6 * 1000
    assert step.weights_share == pytest.approx(reading_ms / step.milliseconds)


def test_rates_count_bytes_read_and_written_and_multiplications_and_additions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.5, 4.0])
    monkeypatch.setattr(engine.lab.rates, "seconds_of", lambda run, device: next(seconds))
    assert measure_rates(CPU, torch.bfloat16) == Rates(2 * 2**26 / 0.5, 2 * 1024**3 / 4, "bfloat16")


def test_seconds_are_the_median_of_the_runs_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(engine.lab.rates.time, "perf_counter", lambda: next(clock))
    runs: list[None] = []
    assert seconds_of(lambda: runs.append(None), CPU, repeats=3) == 2.0
    assert len(runs) > 3


def test_without_a_card_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert main(["--out", str(tmp_path)]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_figures_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline_report.main([str(tmp_path)]) == 1
    assert "baseline.json" in capsys.readouterr().err
