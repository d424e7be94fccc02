"""`python -m engine.lab.training`: makes a model from source trees, from end to end.

This module owns the command line and the order of the stages; a stage whose result is in the output
folder is not run again. The result is a checkpoint folder with its model card.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from engine.config import EngineSettings
from engine.device import default_threads
from engine.engine import Engine
from engine.errors import EngineError
from engine.lab.data.corpus import HELD, TRAIN, build_corpus, default_roots, read_sources
from engine.lab.data.sampler import ExampleSampler
from engine.lab.data.vocabulary import train_tokenizer
from engine.lab.evaluation.infill_eval import draw_holes, measure
from engine.lab.rates import matrix_rate
from engine.lab.training.batch.prefetch import Prefetch
from engine.lab.training.export import (
    export_checkpoint,
    measure_storage,
    read_record,
    write_card,
)
from engine.lab.training.jobs.recipe_job import RecipeJob, drawing, held_out_batches
from engine.lab.training.loss.objective import Batch, rows_multiple
from engine.lab.training.memory import compute_dtype, keep_freed_memory
from engine.lab.training.recipe import PRESETS, Recipe, model_config, preset
from engine.lab.training.run import Budget, RunOptions, run_job
from engine.lab.training.trainer import Trainer
from engine.model.checkpoint import WEIGHTS, load_network
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.prompt import MASK

# The languages that the held-out packages have enough of for the card's figures.
MEASURED = ("python", "javascript", "typescript")
STAGES = ("corpus", "tokenizer", "ar", "joint", "export")
_SAVE_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the recipe; returns 0, or 1 with the error on stderr."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads or default_threads())
    try:
        run(options)
    except EngineError as error:
        print(f"engine.lab.training: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m engine.lab.training", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="nano")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument(
        "--from",
        type=Path,
        dest="base",
        metavar="CHECKPOINT",
        help="continue from these weights and this tokenizer, with a shorter schedule",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        action="append",
        help="a source tree, repeatable; default: this Python's library and packages",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="training time; default: the preset's")
    budget.add_argument("--tokens", type=int, help="training tokens, instead of a time")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as the engine")
    parser.add_argument(
        "--compile", action="store_true", help="compile the layers; needs a C++ compiler"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--shard-megabytes",
        type=int,
        help="largest size of a weights file; default: one file for all weights",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=WEIGHTS[0],
        help="how matrices are stored; int8 halves the file; default: bf16",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw batches ahead; default: 0"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 if native"
    )
    parser.add_argument("--stage", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--holes", type=int, default=100, help="held-out holes of each kind")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Runs every stage up to `options.stage` that has not been run yet.

    Raises:
        EngineError: An option, a source tree or a stored result is wrong.
    """
    recipe = preset(options.preset)
    if options.base is not None:
        recipe = recipe.continued()
    last = STAGES.index(options.stage)
    out: Path = options.out
    corpus = out / "corpus"
    if not (corpus / "manifest.json").is_file():
        build_corpus(options.corpus or default_roots(), corpus)
    if last == 0:
        return
    sources = read_sources(corpus, TRAIN)
    if not (out / "tokenizer.json").is_file():
        if options.base is None:
            train_tokenizer((source.text for source in sources), recipe.shape.vocabulary).save(out)
        else:
            read_tokenizer(options.base).save(out)
    tokenizer = read_tokenizer(out)
    if last == 1:
        return
    mask_id = tokenizer.id_of(MASK)
    assert mask_id is not None
    multiple = rows_multiple(torch.device(options.device))
    draw = drawing(recipe, ExampleSampler(sources, tokenizer), mask_id, multiple)
    # Before the trainer: its processes have to be forked before CUDA starts.
    with Prefetch(draw, options.workers) if options.workers else nullcontext(draw) as drawn:
        trainer = new_trainer(recipe, tokenizer, options)
        if options.compile:
            trainer.compile()
        held_out = held_out_batches(trainer, ExampleSampler(read_sources(corpus, HELD), tokenizer))
        minutes = options.minutes
        if minutes is None and options.tokens is None:
            minutes = recipe.minutes
        budget = Budget(minutes, options.tokens)
        until = 1.0 - recipe.joint_share if STAGES[last] == "ar" else 1.0
        watched = RunOptions(
            until=until,
            save_seconds=_SAVE_SECONDS,
            measures_at_saves=True,
            matrix_rate=matrix_rate(trainer.device, trainer.dtype),
        )
        done = run_job(RecipeJob(trainer, drawn, held_out), budget, out, watched)
    if not done:
        logging.getLogger(__name__).info("stopped; the same command goes on from here")
        return
    if options.stage == "export":
        export(options, trainer, tokenizer, held_out)


def export(
    options: argparse.Namespace,
    trainer: Trainer,
    tokenizer: Tokenizer,
    batches: Sequence[Batch],
) -> None:
    """Writes `checkpoint/` with weights, measures them through the engine, then writes the card.

    Args:
        batches: held-out batches that measure what int8 costs.

    Raises:
        EngineError: The engine cannot run what was written.
    """
    out: Path = options.out
    folder = out / "checkpoint"
    record = replace(read_record(out, options.preset, options.base), weights=options.weights)
    if options.weights != WEIGHTS[0]:
        record = replace(record, stored=measure_storage(trainer.network, batches))
    shard_bytes = options.shard_megabytes * 2**20 if options.shard_megabytes else None
    export_checkpoint(folder, trainer.network, tokenizer, record, shard_bytes)
    engine = Engine.load(EngineSettings(checkpoint=folder, device=options.device, backend="torch"))
    held_out = read_sources(out / "corpus", HELD)
    try:
        figures = {
            language: measure(
                engine, draw_holes([s for s in held_out if s.language == language], options.holes)
            )
            for language in MEASURED
            if any(source.language == language for source in held_out)
        }
    finally:
        engine.close()
    manifest = json.loads((out / "corpus" / "manifest.json").read_text("utf-8"))
    write_card(folder, manifest, trainer.recipe, record, figures)


def new_trainer(recipe: Recipe, tokenizer: Tokenizer, options: argparse.Namespace) -> Trainer:
    """A trainer with fresh weights, or those of `--from`.

    Raises:
        EngineError: The checkpoint of `--from` cannot be read.
    """
    dtype = compute_dtype(options.device, options.dtype)
    device = torch.device(options.device)
    if options.base is None:
        # The tokenizer of a small corpus may be smaller than the recipe's vocabulary.
        shape = replace(recipe.shape, vocabulary=tokenizer.size)
        return Trainer(Network(model_config(shape)), recipe, device=device, dtype=dtype)
    config = read_config(options.base)
    base = load_network(
        options.base, config, device=torch.device("cpu"), dtype=torch.float32
    ).state_dict()
    trainer = Trainer(Network(config), recipe, device=device, dtype=dtype)
    trainer.set_weights(base)
    return trainer


if __name__ == "__main__":
    sys.exit(main())
