"""Trains a mask adapter for a checkpoint: `python -m engine.lab.training.mask_adapter --help`.

Three stages, each kept in the output folder, so that a run that was cut off goes on: prompts are
cut out of a corpus (`prompts.npz`), the model writes its own middles (`written.npz`), and the
adapter is trained on them (`state.pt`, `log.jsonl`). The result is `adapter/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.errors import ConfigError, EngineError
from engine.lab.data.corpus import HELD, TRAIN, read_sources
from engine.lab.training.mask_adapter.adapter import AdapterOptions, MaskAdapter
from engine.lab.training.mask_adapter.export import Base, export
from engine.lab.training.mask_adapter.prompts import build_prompts
from engine.lab.training.mask_adapter.session import Session, SessionOptions
from engine.lab.training.mask_adapter.teacher import Written, write
from engine.lab.training.run import Budget, RunOptions, run_job
from engine.model.checkpoint import build_network
from engine.model.network import Network
from engine.model.source import CheckpointSource, open_checkpoint

PROMPTS, WRITTEN, ADAPTER = "prompts.npz", "written.npz", "adapter"
_KEYS = ("tokens", "greedy", "ends")
_NOTHING = np.zeros(0, np.int32)
_SKIPPED = ("json", "css")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(
        prog="python -m engine.lab.training.mask_adapter",
        description="Teach an autoregressive checkpoint to draft: LoRA at mask rows alone.",
    )
    add = found.add_argument
    add("--checkpoint", type=Path, required=True, help="a GGUF file or a checkpoint's folder")
    add("--name", required=True, help="what the adapter calls the checkpoint")
    add("--corpus", type=Path, required=True, help="a folder that `make train` built of sources")
    add("--out", type=Path, required=True, help="where everything goes; a run there is continued")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--rows", type=float, default=2e6, help="mask rows to train on, in all")
    add("--sequences", type=int, default=4096, help="middles that the model writes")
    add("--held-out", type=int, default=768, help="held-out prompts to measure on, at most")
    add("--tokens", type=int, default=128, help="of each middle, at most")
    add("--batch", type=int, default=8, help="sequences of a training step")
    add("--rate", type=float, default=2e-3, help="peak learning rate")
    add("--rank", type=int, default=32)
    add("--draft-vocabulary", type=int, default=24_576, help="tokens that may be drafted")
    add("--save-minutes", type=float, default=5.0)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    asked = parser().parse_args(arguments)
    try:
        _train(asked)
    except EngineError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    return 0


def _train(asked: argparse.Namespace) -> None:
    asked.out.mkdir(parents=True, exist_ok=True)
    source = open_checkpoint(asked.checkpoint)
    prompts = _prompts(asked, source)
    device = torch.device(asked.device)
    dtype = torch.bfloat16 if asked.device == "cuda" else torch.float32
    network = build_network(source.weights, source.config, device=device, dtype=dtype)
    written = _written(asked, source, network, prompts)
    train, held = ([each for each in written[split] if len(each.tokens)] for split in (TRAIN, HELD))
    options = AdapterOptions(rank=asked.rank, alpha=float(asked.rank))
    adapter = MaskAdapter(network, options, _draft_ids(asked, source, train))
    session = Session(
        network, adapter, train, held, SessionOptions(rate=asked.rate, sequences=asked.batch)
    )
    watched = RunOptions(
        label=asked.name, save_seconds=60 * asked.save_minutes, measures_at_saves=True
    )
    if run_job(session, Budget(tokens=int(asked.rows)), asked.out, watched):
        session.use_average()
        export(adapter, Base(asked.name, source.config, source.weights), asked.out / ADAPTER)


def _prompts(asked: argparse.Namespace, source: CheckpointSource) -> dict[str, np.ndarray]:
    """Prompts by split and length, "train_160" and so on; cut once."""
    path = asked.out / PROMPTS
    if not path.is_file():
        tokenizer = source.tokenizer
        if tokenizer.infill is None:
            raise ConfigError(
                f"{asked.checkpoint} has no infilling tokens.",
                remedy="Use a checkpoint that was trained to fill holes.",
                param="checkpoint",
            )
        rng = np.random.default_rng(1)
        found: dict[str, np.ndarray] = {}
        for split, count in ((TRAIN, asked.sequences), (HELD, asked.held_out)):
            sources = read_sources(asked.corpus, split)
            texts = [each.text for each in sources if each.language not in _SKIPPED]
            holes = max(1, 2 * count // max(1, len(texts)))
            order = rng.permutation(len(texts))[: 2 * count]
            cut = build_prompts(
                (texts[index] for index in order), tokenizer.encode, tokenizer.infill, rng, holes
            )
            total = sum(len(rows) for rows in cut.values())
            for length, rows in cut.items():
                kept = -(-count * len(rows) // max(1, total))
                found[f"{split}_{length}"] = rows[:kept]
        np.savez_compressed(path, **found)  # pyright: ignore[reportArgumentType]
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _written(
    asked: argparse.Namespace,
    source: CheckpointSource,
    network: Network,
    prompts: dict[str, np.ndarray],
) -> dict[str, list[Written]]:
    """By split, the prompts with what the model writes after them; written once."""
    path = asked.out / WRITTEN
    infill, device = source.tokenizer.infill, next(network.parameters()).device
    assert infill is not None
    end_ids = infill.end_ids
    if not path.is_file():
        stored: dict[str, np.ndarray] = {}
        for name, rows in prompts.items():
            parts = [
                write(network, torch.from_numpy(part).long().to(device), asked.tokens, end_ids)
                for part in np.array_split(rows, max(1, len(rows) // _at_once(device)))
                if len(part)
            ]
            for key in _KEYS:
                values = [getattr(part, key).cpu().numpy() for part in parts]
                stored[f"{name}_{key}"] = np.concatenate(values) if values else _NOTHING
        np.savez_compressed(path, **stored)  # pyright: ignore[reportArgumentType]
    found: dict[str, list[Written]] = {TRAIN: [], HELD: []}
    with np.load(path) as kept:
        for name in prompts:
            split, _, length = name.rpartition("_")
            arrays = [torch.from_numpy(kept[f"{name}_{key}"]).to(device) for key in _KEYS]
            tokens, greedy, ends = arrays
            found[split].append(Written(tokens, greedy, int(length), ends))
    return found


def _at_once(device: torch.device) -> int:
    return 1024 if device.type == "cuda" else 16


def _draft_ids(
    asked: argparse.Namespace, source: CheckpointSource, train: Sequence[Written]
) -> np.ndarray:
    """The most frequent tokens of what the model read and wrote, ascending."""
    counts = np.zeros(source.config.vocabulary, dtype=np.int64)
    for written in train:
        counts += np.bincount(written.tokens.flatten().cpu().numpy(), minlength=len(counts))
    return np.sort(np.argsort(-counts, kind="stable")[: asked.draft_vocabulary])


if __name__ == "__main__":
    sys.exit(main())
