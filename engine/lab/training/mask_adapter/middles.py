"""Prompts cut out of source files, and what the model writes after them, in files that are kept.

Prompts are cut once (`prompts.npz`). Middles are written in parts (`written/`), so that a run that
was cut off goes on after the last whole part.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from engine.config import EngineSettings
from engine.errors import ConfigError
from engine.lab.data.corpus import HELD, TRAIN, Source
from engine.lab.data.repository import Data
from engine.lab.training.mask_adapter.prompts import build_prompts
from engine.lab.training.mask_adapter.teacher import Written, write
from engine.lab.training.mask_adapter.writer import WrittenArrays, cache_tokens, write_served
from engine.model.network import Network
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.source import CheckpointSource
from engine.prompt import Infill

PROMPTS, WRITTEN = "prompts.npz", "written"
_SEED = 1
_SKIPPED = ("json", "css")
_PART_ON_CPU, _PART_ON_CUDA = 64, 1024

Prompts = Mapping[str, NDArray[np.int32]]
Writer = Callable[[NDArray[np.int32]], WrittenArrays]


@dataclass(frozen=True, slots=True)
class MiddleOptions:
    """How many middles are written, and how long.

    Attributes:
        sequences, held_out: prompts to train and to measure on, at most.
        tokens: of each middle, at most.
    """

    sequences: int
    held_out: int
    tokens: int


def cut_prompts(
    data: Data, source: CheckpointSource, options: MiddleOptions, folder: Path
) -> Prompts:
    """Prompts by split and length, "train_160" and so on, each (N, length) int32; cut once.

    Raises:
        ConfigError: the checkpoint has no infilling tokens, or no file is long enough.
    """
    path = folder / PROMPTS
    if not path.is_file():
        rng = np.random.default_rng(_SEED)
        found: dict[str, NDArray[np.int32]] = {}
        for split, sources, count in (
            (TRAIN, data.train, options.sequences),
            (HELD, data.held_out, options.held_out),
        ):
            found.update(_cut(split, sources, count, source, rng))
        for split, count in ((TRAIN, options.sequences), (HELD, options.held_out)):
            if count and not any(len(found[name]) for name in found if name.startswith(split)):
                raise ConfigError(
                    f"No file is long enough for a prompt, of those to {_PURPOSES[split]}.",
                    remedy="Give more or larger source files with --data.",
                    param="data",
                )
        _save(path, found)
    return _arrays(path)


_PURPOSES = {TRAIN: "train on", HELD: "measure on"}


def _cut(
    split: str,
    sources: Sequence[Source],
    count: int,
    source: CheckpointSource,
    rng: np.random.Generator,
) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """About `count` prompts of one split, by name."""
    texts = [each.text for each in sources if each.language not in _SKIPPED]
    order = rng.permutation(len(texts))[: 2 * count]
    holes = max(1, -(-2 * count // max(1, len(texts))))
    chosen = (texts[index] for index in order)
    cut = build_prompts(chosen, source.tokenizer.encode, infill_of(source), rng, holes)
    total = sum(len(rows) for rows in cut.values())
    for length, rows in cut.items():
        kept = -(-count * len(rows) // max(1, total))
        # Files follow one another: those that are left out are drawn from all of them.
        yield f"{split}_{length}", rows[rng.permutation(len(rows))[:kept]]


def infill_of(source: CheckpointSource) -> Infill:
    """The checkpoint's infilling tokens. Raises ConfigError if it has none."""
    infill = source.tokenizer.infill
    if infill is None:
        raise ConfigError(
            f"{source.path} has no infilling tokens.",
            remedy="Use a checkpoint that was trained to fill holes, or teach it with adapt first.",
            param="checkpoint",
        )
    return infill


def written_middles(
    prompts: Prompts, writer: Callable[[], Writer], part: int, folder: Path, device: torch.device
) -> dict[str, list[Written]]:
    """By split, the prompts with what the model writes after them; every part is written once.

    Args:
        writer: makes what writes; called only if there is something left to write.
        part: prompts of one file.
    """
    parts = folder / WRITTEN
    parts.mkdir(parents=True, exist_ok=True)
    made: Writer | None = None
    found: dict[str, list[Written]] = {TRAIN: [], HELD: []}
    total = sum(map(len, prompts.values()))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("writing middles", total=total)
        # Held-out middles first: they are few, and figures need them.
        for name in sorted(prompts):
            rows, pieces = prompts[name], list[WrittenArrays]()
            while (done := sum(len(each.ends) for each in pieces)) < len(rows):
                path = parts / f"{name}_{done:06d}.npz"
                if not path.is_file():
                    made = made or writer()
                    _save(path, _fields(made(rows[done : done + part])))
                pieces.append(_loaded(path))
                bar.advance(task, len(pieces[-1].ends))
            if pieces:
                split, _, length = name.rpartition("_")
                found[split].append(_joined(pieces, int(length), device))
    return found


def served_writer(
    source: CheckpointSource, settings: EngineSettings, options: MiddleOptions
) -> Writer:
    """Writes by the CPU's engine.

    Args:
        settings: resolved settings of that engine.

    Raises:
        EngineError: the engine cannot be loaded.
    """
    runtime = OnnxRuntime.load(source, settings)
    end_ids = infill_of(source).end_ids

    def written(prompts: NDArray[np.int32]) -> WrittenArrays:
        cache = runtime.new_cache(cache_tokens(prompts.shape[1] + options.tokens))
        return write_served(runtime.model, cache, prompts, options.tokens, end_ids)

    return written


def torch_writer(source: CheckpointSource, network: Network, options: MiddleOptions) -> Writer:
    """Writes by the network itself, on its device."""
    device = network.encoder.embed_tokens.weight.device
    end_ids = infill_of(source).end_ids

    def written(prompts: NDArray[np.int32]) -> WrittenArrays:
        rows = torch.from_numpy(prompts).long().to(device)
        found = write(network, rows, options.tokens, end_ids)
        tokens, greedy, ends = (
            each.cpu().numpy() for each in (found.tokens, found.greedy, found.ends)
        )
        return WrittenArrays(tokens, greedy, ends)

    return written


def part_size(device: torch.device) -> int:
    """Prompts that are written between two saves: minutes of a CPU, one batch of a card."""
    return _PART_ON_CUDA if device.type == "cuda" else _PART_ON_CPU


def _joined(pieces: Sequence[WrittenArrays], start: int, device: torch.device) -> Written:
    tokens, greedy, ends = (
        torch.from_numpy(np.concatenate(arrays)).to(device)
        for arrays in zip(*((each.tokens, each.greedy, each.ends) for each in pieces), strict=True)
    )
    return Written(tokens, greedy, start, ends)


def _fields(written: WrittenArrays) -> Mapping[str, NDArray[np.generic]]:
    return {"tokens": written.tokens, "greedy": written.greedy, "ends": written.ends}


def _loaded(path: Path) -> WrittenArrays:
    stored = _arrays(path, ("tokens", "greedy", "ends"))
    return WrittenArrays(stored["tokens"], stored["greedy"], stored["ends"])


def _arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a file, those of these names or all. Raises ConfigError."""
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in names or stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}.",
            remedy="Remove it, and the same command writes it again.",
            param="out",
        ) from None


def _save(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Writes arrays whole, by rename."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    os.replace(partial, path)
