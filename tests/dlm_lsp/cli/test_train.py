"""What the command line finds out for the training program about a model's name."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dlm_lsp.cli.train import found_out
from dlm_lsp.store.errors import StoreError
from engine.config import BUNDLED_CHECKPOINT
from engine.lab.training.options import TrainingOptions, add_options


def parsed(checkpoint: str) -> TrainingOptions:
    """The options as the training program reads them."""
    parser = argparse.ArgumentParser()
    add_options(parser, "train-drafter")
    words = [checkpoint, "--data", "app", "--out", "run", *found_out(checkpoint)]
    return TrainingOptions.of(parser.parse_args(words, argparse.Namespace(command="train-drafter")))


def test_a_checkpoint_from_elsewhere_is_its_path(tmp_path: Path, own_models: Path) -> None:
    options = parsed(str(tmp_path / "model.gguf"))
    assert options.checkpoint == tmp_path / "model.gguf"
    assert options.name is None
    assert options.adapters == own_models / "adapters"
    assert options.graphs == own_models / "graphs"


def test_the_bundled_model_has_its_name() -> None:
    options = parsed("nano")
    assert options.checkpoint == BUNDLED_CHECKPOINT
    assert options.name == "nano"


@pytest.mark.parametrize(
    ("name", "remedy"), [("qwen2.5-coder-0.5b", "model pull"), ("qwen2.5-coder-0.5", "mean")]
)
def test_a_name_that_is_not_pulled_says_how_to_get_it(name: str, remedy: str) -> None:
    with pytest.raises(StoreError) as error:
        found_out(name)
    assert remedy in str(error.value.remedy)
