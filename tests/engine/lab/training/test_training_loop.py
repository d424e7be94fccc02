"""Training: both losses fall, an interrupted run ends as an undisturbed one, the schedule."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.lab.data.corpus import Source
from engine.lab.data.sampler import ExampleSampler
from engine.lab.data.vocabulary import train_tokenizer
from engine.lab.training.batch.prefetch import Prefetch
from engine.lab.training.batch.rows import Rows
from engine.lab.training.jobs.recipe_job import RecipeJob, StepDraw, drawing, held_out_batches
from engine.lab.training.loss.objective import Batch, evaluate, to_batch
from engine.lab.training.recipe import PRESETS, Recipe, Shape, model_config, preset
from engine.lab.training.run import Budget, RunOptions, run_job
from engine.lab.training.trainer import Trainer
from engine.model.network import Network
from engine.model.tokenizer import Tokenizer

CODE = """def area(width, height):
    if width < 0 or height < 0:
        raise ValueError("a side is negative")
    return width * height


def volume(width, height, depth):
    return area(width, height) * depth
"""
SOURCES = [Source("p", "shapes.py", CODE)]
TINY = Recipe(
    Shape(hidden=64, intermediate=128, layers=2, heads=2, kv_heads=1, vocabulary=300),
    learning_rate=1e-2,
    batch_tokens=600,
    batches=2,
    minutes=1,
    warmup_steps=5,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CODE], 300)


@pytest.fixture
def sampler(tokenizer: Tokenizer) -> ExampleSampler:
    return ExampleSampler(SOURCES, tokenizer)


def new_trainer(tokenizer: Tokenizer, recipe: Recipe = TINY) -> Trainer:
    shape = replace(recipe.shape, vocabulary=tokenizer.size)
    network = Network(model_config(shape))
    return Trainer(network, recipe, device=torch.device("cpu"), dtype=torch.float32)


def train(
    trainer: Trainer,
    draw: StepDraw,
    held_out: Sequence[Batch],
    budget: Budget,
    folder: Path,
    save_seconds: float = 300.0,
) -> bool:
    watched = RunOptions(save_seconds=save_seconds, measures_at_saves=True, matrix_rate=1e12)
    return run_job(RecipeJob(trainer, draw, held_out), budget, folder, watched)


def drawn(trainer: Trainer, sampler: ExampleSampler) -> StepDraw:
    return drawing(trainer.recipe, sampler, trainer.mask_id)


def log_rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def test_both_losses_fall_on_a_text_to_be_memorised(
    tokenizer: Tokenizer, sampler: ExampleSampler, tmp_path: Path
):
    trainer = new_trainer(tokenizer)
    held_out = held_out_batches(trainer, sampler, tokens=1200)
    before = evaluate(trainer.network, held_out)
    train(trainer, drawn(trainer, sampler), held_out, Budget(tokens=90_000), tmp_path)
    after = evaluate(trainer.network, held_out)
    assert after["ar"] < before["ar"] / 2
    # Where the middle ends is drawn at random, so that a block masked whole stays uncertain.
    assert after["diffusion"] < before["diffusion"] * 0.6
    rows = [row for row in log_rows(tmp_path) if "ar" in row]
    assert "diffusion" not in rows[0]  # stage 1
    assert rows[-1]["diffusion"] is not None  # stage 2
    assert rows[-1]["ar"] < rows[0]["ar"] / 2
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert all(row["share_of_matrix_rate"] > 0 for row in rows)
    assert 0 < trainer.position.joint_tokens < trainer.position.tokens


def test_an_interrupted_run_ends_with_the_same_weights(
    tokenizer: Tokenizer, sampler: ExampleSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    budget = Budget(tokens=16_000)

    def run(folder: Path) -> Trainer:
        folder.mkdir(exist_ok=True)
        trainer = new_trainer(tokenizer)
        held_out = held_out_batches(trainer, sampler, 600)
        train(trainer, drawn(trainer, sampler), held_out, budget, folder, save_seconds=0.0)
        return trainer

    whole = run(tmp_path / "whole")

    class Killed(Exception):
        pass

    step, steps = Trainer.step, [0]

    def step_or_die(self: Trainer, *arguments: object) -> object:
        steps[0] += 1
        if steps[0] in (4, 9):  # before and after stage 2 begins
            raise Killed
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", step_or_die)
    for _ in range(2):
        with pytest.raises(Killed):
            run(tmp_path / "broken")
    resumed = run(tmp_path / "broken")
    assert steps[0] > 9
    assert resumed.position.step == whole.position.step
    assert resumed.position.tokens == whole.position.tokens
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_held_out_losses_are_measured_at_intervals_and_not_when_ended_early(
    tokenizer: Tokenizer, sampler: ExampleSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(seconds: float) -> list[int]:
        trainer = new_trainer(tokenizer)
        folder = tmp_path / str(seconds)
        folder.mkdir(exist_ok=True)
        held_out = held_out_batches(trainer, sampler)
        job = RecipeJob(trainer, drawn(trainer, sampler), held_out)
        run_job(job, Budget(tokens=4800), folder, RunOptions(measure_seconds=seconds))
        return [int(row["step"]) for row in log_rows(folder) if "held_out_ar" in row]

    steps = run(0.0)
    assert steps == [*range(steps[-1] + 1), steps[-1]]  # and once more at the end
    assert len(steps) > 3
    assert run(1e9) == [0, steps[-1]]
    step = Trainer.step

    def step_and_signal(self: Trainer, *arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Trainer, "step", step_and_signal)
    assert run(1e8) == [0]


def test_steps_drawn_ahead_by_other_processes_are_the_same(
    tokenizer: Tokenizer, sampler: ExampleSampler
):
    draw = drawn(new_trainer(tokenizer), sampler)
    with Prefetch(draw, workers=2) as prefetch:
        for step in (*range(8), 20, 21):  # goes on from a state: elsewhere
            ours, theirs = draw(step, True), prefetch(step, True)
            for one, other in zip(ours, theirs, strict=True):
                assert np.array_equal(one.tokens, other.tokens)
                assert np.array_equal(one.block, other.block)
                assert one.segments == other.segments


def test_what_a_drawing_process_raises_is_raised():
    def broken(step: int, joint: bool) -> list[Rows]:
        raise ValueError(f"step {step}")

    with Prefetch(broken, workers=1) as prefetch, pytest.raises(ValueError, match="step 3"):
        prefetch(3, False)


@pytest.mark.slow  # a minute of a C++ compiler
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler is here")
def test_compiled_steps_learn_the_same(
    tokenizer: Tokenizer, sampler: ExampleSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler imports setuptools, which refuses where another test's library has imported the
    # standard distutils before it.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    trainers = [new_trainer(tokenizer), new_trainer(tokenizer)]
    trainers[1].compile()
    for step in range(2):
        rows = drawn(trainers[0], sampler)(step, True)
        found = []
        for trainer in trainers:
            batches = [to_batch(each, device=trainer.device, dtype=trainer.dtype) for each in rows]
            found.append(trainer.step(batches, 1e-3))
        assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert weights(trainers[0]).keys() == weights(trainers[1]).keys()
    held_out = held_out_batches(trainers[0], sampler, 600)
    after = [trainer.evaluate(held_out)["ar"] for trainer in trainers]
    assert after[0] == pytest.approx(after[1], rel=1e-4)


def test_a_finished_run_is_left_alone(
    tokenizer: Tokenizer, sampler: ExampleSampler, tmp_path: Path
):
    first = new_trainer(tokenizer)
    held_out = held_out_batches(first, sampler, 600)
    train(first, drawn(first, sampler), held_out, Budget(tokens=2000), tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    again = new_trainer(tokenizer)
    train(again, drawn(again, sampler), held_out, Budget(tokens=2000), tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert again.position == first.position


def test_a_state_of_another_shape_is_refused(
    tokenizer: Tokenizer, sampler: ExampleSampler, tmp_path: Path
):
    trainer = new_trainer(tokenizer)
    trainer.save(tmp_path / "state.pt")
    other = new_trainer(tokenizer, replace(TINY, shape=replace(TINY.shape, hidden=128)))
    with pytest.raises(ConfigError, match="another shape"):
        other.load(tmp_path / "state.pt")


def test_losses_of_several_batches_are_one_mean(tokenizer: Tokenizer, sampler: ExampleSampler):
    trainer = new_trainer(tokenizer)
    batches = held_out_batches(trainer, sampler, tokens=1800)
    assert len(batches) > 1
    alone = [evaluate(trainer.network, [batch]) for batch in batches]
    together = evaluate(trainer.network, batches)
    total = sum(batch.ar_total for batch in batches)
    expected = sum(v["ar"] * b.ar_total for v, b in zip(alone, batches, strict=True)) / total
    assert together["ar"] == pytest.approx(expected)


@pytest.mark.parametrize(("minutes", "tokens"), [(None, None), (1.0, 5), (0.0, None), (None, -1)])
def test_a_budget_is_minutes_or_tokens(minutes: float | None, tokens: int | None):
    with pytest.raises(ConfigError):
        Budget(minutes, tokens)


def test_the_schedule_warms_up_stays_and_falls_to_nothing():
    recipe = PRESETS["nano"]
    assert recipe.learning_rate_at(0, 0.0) < recipe.learning_rate / 50
    assert recipe.learning_rate_at(1000, 0.5) == recipe.learning_rate
    on = recipe.continued()
    assert on.learning_rate < recipe.learning_rate
    assert on.is_joint(0.1)
    late = [recipe.learning_rate_at(1000, share) for share in (0.7, 0.8, 0.9, 0.99, 1.0, 1.01)]
    assert late == sorted(late, reverse=True)
    assert late[-1] == 0.0
    assert not recipe.is_joint(0.0)
    assert recipe.is_joint(0.99)


@pytest.mark.parametrize(("name", "low", "high"), [("nano", 5e6, 10e6), ("small", 25e6, 35e6)])
def test_presets_have_the_sizes_they_promise(name: str, low: float, high: float):
    config = model_config(preset(name).shape)
    assert low < config.parameters() < high
    with torch.device("meta"):
        network = Network(config)
    assert sum(p.numel() for p in network.parameters()) == config.parameters()


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="huge"):
        preset("huge")
