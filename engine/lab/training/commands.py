"""`adapt`, `convert` and `train-drafter`: make a new checkpoint from a user's checkpoint and files.

This module owns the order of the parts: data, memory, figures before, training, the result, figures
after. `--out` holds the run's state, and the engine loads `--out/checkpoint`. The checkpoint that a
run starts from is only read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.config import EngineSettings
from engine.device import default_threads
from engine.errors import ConfigError, EngineError
from engine.lab.data.repository import Data, read_data
from engine.lab.data.sampler import (
    HOLES,
    Draw,
    Example,
    ExampleSampler,
    prefix_tokens,
    prompt_tokens,
)
from engine.lab.evaluation.infill_eval import (
    InfillFigures,
    draw_single_lines,
    measure_checkpoint,
    to_comparison,
)
from engine.lab.run_folder import check_options
from engine.lab.tables import to_table
from engine.lab.training.batch.plain_text import PlainTexts
from engine.lab.training.jobs.acceptance import measure_acceptance
from engine.lab.training.jobs.adapt import AdaptJob
from engine.lab.training.jobs.convert import ConvertJob, ConvertOptions, diffusion_config
from engine.lab.training.jobs.drafter import DrafterJob, new_adapter
from engine.lab.training.jobs.lora import LowRank, parameters_at
from engine.lab.training.mask_adapter.command import train_mask_adapter
from engine.lab.training.memory import Demand, check_memory, compute_dtype, keep_freed_memory
from engine.lab.training.options import (
    BATCH_TOKENS,
    COMMANDS,
    EXAMPLES,
    OF_MASK_ADAPTERS,
    SUMMARIES,
    TrainingOptions,
    add_options,
)
from engine.lab.training.run import PLAN, Budget, Job, RunOptions, run_job
from engine.lab.training.special_tokens import (
    INFILLING,
    MASKING,
    Vocabulary,
    grown,
    marker_ids,
    with_tokens,
)
from engine.model.adapter import FOLDER as DRAFTER_FOLDER
from engine.model.adapter import save_adapter
from engine.model.checkpoint import free_memory_bytes, load_network, save_checkpoint
from engine.model.config import ModelConfig, read_config
from engine.model.families import NEMOTRON
from engine.model.network import Network
from engine.model.source import CheckpointSource, open_checkpoint
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.prompt import END, FAR_TOKENS_MAX, MASK, PREFIX_TOKENS_MAX, InfillFormat, prompt_of

_MINUTES = 60.0
# With a larger weight a model that has not yet learnt where ends belong ends at once, because the
# end is the most frequent first token of a middle (benchmarks/adapters.md).
_MIX = replace(HOLES, end_weight=0.7)
_BEFORE = "before.json"
_INTERRUPTED = 130
_ENDED = "Ended early. The same command goes on."
_DRAFTER_RANK = 128
# Keys of a config that are written again, or that name code beside it.
_REWRITTEN = ("vocab_size", "eos_token_id", "mask_token_id", "model_type", "auto_map")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 with the error on stderr, or 130 if it was ended early."""
    options = TrainingOptions.of(_parser().parse_args(arguments))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    keep_freed_memory()
    threads = 1 if options.command == "train-drafter" else default_threads()
    torch.set_num_threads(options.threads or threads)
    run = {"adapt": adapt, "convert": convert, "train-drafter": train_drafter}[options.command]
    try:
        return run(options)
    except EngineError as error:
        print(f"dlm-lsp {options.command}: {error}", file=sys.stderr)
        return 1


def adapt(options: TrainingOptions) -> int:
    """Teaches the infilling layout; the LoRA is merged into a checkpoint of the same family.

    Raises:
        EngineError: An option, the data or the checkpoint is wrong, or memory is too small.
    """
    config, data = _begin(options)
    vocabulary = with_tokens(options.checkpoint, config, INFILLING)
    with torch.device("meta"):
        trained = parameters_at(Network(config), options.rank)
    _check_memory(options, config, trained=trained, frozen=config.parameters())
    before = _before(options, data)
    network = _with_ends(grown(_network(options, config, _dtype(options)), vocabulary), vocabulary)
    markers = marker_ids(vocabulary, INFILLING)
    low_rank = LowRank(network, options.rank, 2.0 * options.rank, markers)
    draws = _hole_draws(options, data, vocabulary.tokenizer)
    job = AdaptJob(network, low_rank, *draws, options.learning_rate or _lora_rate(config))
    if not _trained(options, job):
        return _INTERRUPTED
    low_rank.merge(network)
    raw = json.loads((options.checkpoint / "config.json").read_text("utf-8"))
    kept = {key: value for key, value in raw.items() if key not in _REWRITTEN}
    _save(options, network, vocabulary, {**kept, "training": _record(options, job)})
    return _after(options, data, before)


def convert(options: TrainingOptions) -> int:
    """Makes a diffusion model in NLD's layout by training all weights. Raises as `adapt`."""
    config, data = _begin(options)
    names = (*INFILLING, *MASKING) if options.infilling else MASKING
    vocabulary = with_tokens(options.checkpoint, config, names)
    _check_memory(options, config, trained=config.parameters(), frozen=0)
    before = _before(options, data)
    network = grown(_network(options, config, torch.float32), vocabulary)
    network = _with_ends(network, vocabulary)
    mask_id = vocabulary.tokenizer.id_of(MASK)
    assert mask_id is not None
    network.config = diffusion_config(network.config, mask_id, network.config.end_ids)
    draws = _mixed_draws(options, data, vocabulary.tokenizer, config.begin_id)
    rate = options.learning_rate or _whole_rate(config)
    settings = ConvertOptions(rate, options.batch_tokens, options.late)
    job = ConvertJob(network, *draws, settings, _dtype(options))
    if not _trained(options, job):
        return _INTERRUPTED
    _save(options, job.trainer.network, vocabulary, {"training": _record(options, job)})
    return _after(options, data, before)


def train_drafter(options: TrainingOptions) -> int:
    """Trains the drafter; the result is a copy of the checkpoint with the adapter beside it.

    For a checkpoint that fills no masks it is a mask adapter, which the engine finds by itself.

    Raises:
        EngineError: As `adapt`.
    """
    source = open_checkpoint(options.checkpoint)
    if source.config.mask_id is None:
        return _train_mask_adapter(options, source)
    for option in OF_MASK_ADAPTERS:
        if getattr(options, option) is not None:
            name = option.replace("_", "-")
            raise ConfigError(
                f"--{name} is for autoregressive checkpoints; {options.checkpoint} fills masks.",
                remedy=f"Leave --{name} out.",
                param=name,
            )
    options = replace(options, batch_tokens=options.batch_tokens or BATCH_TOKENS)
    rank = options.rank or _DRAFTER_RANK
    config, data = _begin(options)
    trained = config.layers * rank * (config.heads * config.head_dim + config.hidden)
    _check_memory(options, config, trained=trained, frozen=config.parameters())
    network = _network(options, config, _dtype(options))
    tokenizer = read_tokenizer(options.checkpoint)
    if isinstance(tokenizer.infill, InfillFormat) and tokenizer.id_of(END) is not None:
        draws = _hole_draws(options, data, tokenizer)
    else:
        draws = _plain_draws(options, data, tokenizer, config.begin_id)
    adapter = new_adapter(network, rank, 4.0 * rank)
    job = DrafterJob(network, adapter, *draws, options.learning_rate or _lora_rate(config))
    if not _trained(options, job):
        return _INTERRUPTED
    folder = _copied(options.checkpoint, options.out / "checkpoint")
    save_adapter(folder, adapter)
    _show_acceptance(options, job, data, tokenizer, config)
    return 0


def _train_mask_adapter(options: TrainingOptions, source: CheckpointSource) -> int:
    """Raises as `train_drafter`."""
    try:
        if train_mask_adapter(options, source, _data(options)):
            return 0
    except KeyboardInterrupt:  # while middles were written, of which whole parts are kept
        pass
    print(_ENDED, file=sys.stderr)
    return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dlm-lsp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        child = commands.add_parser(
            command,
            help=SUMMARIES[command],
            epilog=EXAMPLES[command],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(child, command)
    return parser


def _begin(options: TrainingOptions) -> tuple[ModelConfig, Data]:
    """The checkpoint's config and `_data`."""
    return read_config(options.checkpoint), _data(options)


def _data(options: TrainingOptions) -> Data:
    """The data, once the options are checked; `check_options` for the run."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch finds no usable CUDA device.",
            remedy="Install a CUDA build of torch and its driver, or leave --device out.",
            param="device",
        )
    data = read_data(options.data)
    check_options(options.out / PLAN, options.plan())
    dropped = ", ".join(f"{reason} {count}" for reason, count in data.dropped.items())
    print(
        f"{len(data.train)} files to train on, {len(data.held_out)} to measure on"
        + (f"; left out: {dropped}" if dropped else ""),
        file=sys.stderr,
    )
    return data


def _check_memory(
    options: TrainingOptions, config: ModelConfig, *, trained: int, frozen: int
) -> None:
    device = torch.device(options.device)
    demand = Demand(config, trained, frozen, options.batch_tokens, _dtype(options).itemsize)
    check_memory(demand, free_memory_bytes(device), device)


def _network(options: TrainingOptions, config: ModelConfig, dtype: torch.dtype) -> Network:
    device = torch.device(options.device)
    return load_network(options.checkpoint, config, device=device, dtype=dtype)


def _with_ends(network: Network, vocabulary: Vocabulary) -> Network:
    """The network, whose texts also end with `</s>` if that token is new to it."""
    ends = network.config.end_ids
    end = vocabulary.added.get(END)
    if end is not None:
        network.config = replace(network.config, end_ids=(*ends, end))
    return network


def _dtype(options: TrainingOptions) -> torch.dtype:
    return compute_dtype(options.device, options.dtype)


def _hole_draws(options: TrainingOptions, data: Data, tokenizer: Tokenizer) -> tuple[Draw, Draw]:
    train, held_out = (ExampleSampler(files, tokenizer) for files in (data.train, data.held_out))
    tokens = options.batch_tokens
    return (lambda rng: train.batch(rng, tokens, _MIX)), (
        lambda rng: held_out.batch(rng, tokens, _MIX)
    )


def _plain_draws(
    options: TrainingOptions, data: Data, tokenizer: Tokenizer, begin: int | None
) -> tuple[Draw, Draw]:
    train, held_out = (PlainTexts(files, tokenizer, begin) for files in (data.train, data.held_out))
    tokens = options.batch_tokens
    return (lambda rng: train.batch(rng, tokens)), (lambda rng: held_out.batch(rng, tokens))


def _mixed_draws(
    options: TrainingOptions, data: Data, tokenizer: Tokenizer, begin: int | None
) -> tuple[Draw, Draw]:
    """Holes and plain text to train on; plain text, which the checkpoint knew, to measure on."""
    plain, held_out = _plain_draws(options, data, tokenizer, begin)
    if not options.infilling:
        return plain, held_out
    sampler, texts = ExampleSampler(data.train, tokenizer), PlainTexts(data.train, tokenizer, begin)
    tokens = int(options.infilling * options.batch_tokens)

    def draw(rng: np.random.Generator) -> list[Example]:
        holes = sampler.batch(rng, tokens, _MIX)
        rest = options.batch_tokens - tokens
        return holes + (texts.batch(rng, rest) if options.infilling < 1 else [])

    return draw, held_out


def _trained(options: TrainingOptions, job: Job) -> bool:
    minutes = options.minutes
    if minutes is None and options.tokens is None:
        minutes = _MINUTES
    budget = Budget(minutes, options.tokens)
    done = run_job(job, budget, options.out, RunOptions(options.command))
    if not done:
        print(_ENDED, file=sys.stderr)
    return done


def _lora_rate(config: ModelConfig) -> float:
    """2e-4 for 8 B parameters, as is usual for LoRA; it grows with the fourth root for fewer."""
    return min(2e-3, 2e-4 * (8e9 / config.parameters()) ** 0.25)


def _whole_rate(config: ModelConfig) -> float:
    """1e-3 for 5 M parameters, a third of the recipe's peak; it falls with the root for more."""
    return min(1e-3, 1e-3 * (5e6 / config.parameters()) ** 0.5)


def _record(options: TrainingOptions, job: Job) -> dict[str, object]:
    """What config.json says about the run, without any path."""
    position = asdict(job.position)
    return {"command": options.command, "steps": position["step"], "rows": position["tokens"]}


def _save(
    options: TrainingOptions,
    network: Network,
    vocabulary: Vocabulary,
    metadata: Mapping[str, Any],
) -> None:
    folder = options.out / "checkpoint"
    if network.config.family.model_type == NEMOTRON.model_type:
        own = ("architectures", "rope_parameters", "training", "dlm_paradigm")
        metadata = {key: value for key, value in metadata.items() if key in own}
    save_checkpoint(folder, network, metadata=dict(metadata))
    (folder / "tokenizer.json").write_text(vocabulary.json, encoding="utf-8")


def _before(options: TrainingOptions, data: Data) -> list[InfillFigures]:
    """The figures of the original checkpoint, measured once however often a run is resumed."""
    path = options.out / _BEFORE
    if path.is_file():
        return [InfillFigures(**row) for row in json.loads(path.read_text("utf-8"))]
    holes = draw_single_lines(data.held_out, options.holes)
    figures = measure_checkpoint(_engine_settings(options, options.checkpoint), holes)
    path.write_text(json.dumps([asdict(each) for each in figures]) + "\n", encoding="utf-8")
    return figures


def _after(options: TrainingOptions, data: Data, before: Sequence[InfillFigures]) -> int:
    holes = draw_single_lines(data.held_out, options.holes)
    after = measure_checkpoint(_engine_settings(options, options.out / "checkpoint"), holes)
    _report(options, to_comparison({"before": before, "after": after}))
    return 0


def _engine_settings(options: TrainingOptions, checkpoint: Path) -> EngineSettings:
    dtype = options.dtype or "auto"
    # The torch backend, as in training: no graph is built and nothing is computed in int8.
    return EngineSettings(
        checkpoint, options.device, dtype, threads=options.threads, backend="torch"
    )


def _show_acceptance(
    options: TrainingOptions,
    job: DrafterJob,
    data: Data,
    tokenizer: Tokenizer,
    config: ModelConfig,
) -> None:
    prompts: list[tuple[int, ...]] = []
    ends = config.end_ids
    infill = tokenizer.infill
    if infill is not None:
        ends = (*ends, *infill.end_ids)
    for hole in draw_single_lines(data.held_out, options.holes):
        if infill is not None:
            pieces = hole.pieces
            prompts.append(prompt_tokens(pieces, tokenizer, PREFIX_TOKENS_MAX, FAR_TOKENS_MAX))
        else:
            tokens = prefix_tokens(hole.pieces.prefix, tokenizer, PREFIX_TOKENS_MAX)
            prompts.append(prompt_of(None, config.begin_id, prefix=tokens))
    # In the compute dtype, as in the engine.
    network = _network(options, config, _dtype(options))
    adapter = job.adapter.to(network.encoder.embed_tokens.weight.dtype)
    rows = []
    for name, tested in (("off", None), ("on", adapter)):
        done = measure_acceptance(network, tested, prompts, ends)
        rows.append((name, len(prompts), f"{done.per_cycle:.3f}", f"{done.per_forward:.3f}"))
    names = ("drafter", "prompts", "tokens/cycle", "tokens/forward")
    _report(options, "\n".join(to_table(names, rows)))


def _report(options: TrainingOptions, table: str) -> None:
    (options.out / "figures.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    print(f"\n{options.out / 'checkpoint'} is ready.", file=sys.stderr)


def _copied(checkpoint: Path, folder: Path) -> Path:
    """A copy of the checkpoint without its drafter; weights are hard links if possible."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if not path.is_file():
            continue
        target = folder / path.name
        target.unlink(missing_ok=True)
        try:
            if path.suffix != ".safetensors":
                raise OSError
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)
    shutil.rmtree(folder / DRAFTER_FOLDER, ignore_errors=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
