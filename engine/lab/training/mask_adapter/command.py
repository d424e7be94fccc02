"""`dlm-lsp train-drafter` for an autoregressive checkpoint, from source files to a served adapter.

Four stages, each kept in the run's folder, so that a run that was cut off goes on: prompts are cut
(`prompts.npz`), the model writes its own middles (`written/`), the adapter is trained on them
(`state.pt`, `log.jsonl`), and the result (`adapter/`) is measured through the engine beside the
adapter that the engine has used so far. If it is as good, or nothing was to be measured, it comes
where the engine finds it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from engine.config import EngineSettings
from engine.device import resolve
from engine.errors import ConfigError, MemoryExhausted
from engine.lab.data.corpus import HELD, TRAIN
from engine.lab.data.repository import Data
from engine.lab.rates import matrix_rate
from engine.lab.tables import to_table
from engine.lab.training.mask_adapter.adapter import AdapterOptions, MaskAdapter
from engine.lab.training.mask_adapter.export import Base, export
from engine.lab.training.mask_adapter.groups import LAYOUT
from engine.lab.training.mask_adapter.middles import (
    MiddleOptions,
    Writer,
    cut_prompts,
    infill_of,
    part_size,
    served_writer,
    torch_writer,
    written_middles,
)
from engine.lab.training.mask_adapter.served import Served, adapters_beside, measure_served
from engine.lab.training.mask_adapter.session import Session, SessionOptions
from engine.lab.training.mask_adapter.start import trained_adapter
from engine.lab.training.mask_adapter.teacher import Written
from engine.lab.training.memory import Demand, check_memory, compute_dtype
from engine.lab.training.options import (
    CURRENT,
    DRAFT_VOCABULARY,
    MARKOV_RANK,
    MEASURE_MINUTES,
    MIDDLE_TOKENS,
    MIDDLES,
    RANK,
    ROWS_ON_CPU,
    ROWS_ON_CUDA,
    TrainingOptions,
)
from engine.lab.training.run import Budget, RunOptions, run_job
from engine.model.checkpoint import build_network, free_memory_bytes
from engine.model.config import ModelConfig
from engine.model.mask_adapter import (
    CONFIG,
    EXTRAS,
    adapter_folder,
    adapter_stamp,
    fingerprint,
    read_mask_adapter,
)
from engine.model.network import Network
from engine.model.source import CheckpointSource
from engine.model.weights import network_tensors

logger = logging.getLogger(__name__)

ADAPTER, START, BEFORE = "adapter", "start", "before.json"
_MINUTES = 60.0
_SAVE_SECONDS = 300.0
_SERVED_PROMPTS = 6
# A rate of 3e-3 lost a quarter of a long run (benchmarks/mask_adapter.md); what is trained already
# needs less.
_RATE, _RATE_OF_TRAINED = 2e-3, 5e-4

Prompts = Sequence[Sequence[int]]


def train_mask_adapter(options: TrainingOptions, source: CheckpointSource, data: Data) -> bool:
    """Runs every stage that has not been run yet.

    Returns:
        Whether the run came to its end; False if it was ended early, with its state saved.

    Raises:
        EngineError: an option, the data or the checkpoint is wrong, or memory is too small.
        KeyboardInterrupt: the run was ended early while middles were written.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    run = _Run(options, source)
    started_from = run.started_from()
    # Before hours of writing: memory must do for what comes after it.
    training = run.training_options()
    prompts = cut_prompts(data, source, run.middles, options.out)
    # On a processor the network is made after the engine that writes is gone.
    network = run.network() if run.device.type == "cuda" else None

    def writer() -> Writer:
        if network is not None:
            return torch_writer(source, network, run.middles)
        return served_writer(source, run.engine, run.middles)

    written = written_middles(prompts, writer, part_size(run.device), options.out, run.device)
    served_on = run.served_prompts(written[HELD])
    before = run.before(served_on)
    network = network or run.network()
    adapter = run.adapter(network, written[TRAIN], started_from)
    served = (lambda: run.served_figures(adapter, served_on)) if served_on else None
    session = Session(network, adapter, written[TRAIN], written[HELD], training, served)
    if not run_job(session, run.budget(), options.out, run.watched(network)):
        return False
    session.use_average()
    run.finish(adapter, before, served_on)
    return True


class _Run:
    """One run's options, and the parts of it that depend on them."""

    def __init__(self, options: TrainingOptions, source: CheckpointSource) -> None:
        self.options, self.source = options, source
        self.device = torch.device(options.device)
        self._measured: tuple[str, Mapping[str, float]] = ("", {})
        path = source.path
        name = options.name or (path.stem if path.is_file() else path.resolve().name)
        self.name = _plain(name)
        self.base = Base(name, source.config, source.weights)
        self.middles = MiddleOptions(
            options.middles or MIDDLES, options.holes, options.middle_tokens or MIDDLE_TOKENS
        )
        # What the user's own requests are answered with, on the processor.
        self.engine = resolve(
            EngineSettings(
                source.path,
                "cpu",
                threads=options.threads or 1,
                backend="onnx",
                graphs=options.graphs or options.out / "graphs",
                adapters=options.adapters,
            )
        )

    def started_from(self) -> Path | None:
        """The folder of the adapter to start from, copied when the run began.

        Raises:
            ConfigError: there is none.
        """
        given, kept = self.options.start_from, self.options.out / START
        if given is None or (kept / CONFIG).is_file():
            return kept if given is not None else None
        if self.options.draft_vocabulary is not None:
            raise ConfigError(
                "--start-from and --draft-vocabulary are both given.",
                remedy="Leave --draft-vocabulary out: the adapter has one.",
                param="draft-vocabulary",
            )
        folder: Path | None = Path(given).expanduser()
        if given == CURRENT:
            config, weights = self.source.config, self.source.weights
            folder = adapter_folder(config, weights, self.options.adapters)
        if folder is None or not (folder / CONFIG).is_file():
            what = f"{self.name} has no adapter yet" if given == CURRENT else f"{given} has none"
            raise ConfigError(
                f"--start-from {given}: {what}.",
                remedy=f"Give a folder with {CONFIG}, or leave --start-from out.",
                param="start-from",
            )
        read_mask_adapter(folder, self.source.config, self.source.weights)
        _copy(folder, kept)
        return kept

    def training_options(self) -> SessionOptions:
        """How the adapter is trained, as fits into the memory that is free now.

        Raises:
            MemoryExhausted: not even one sequence fits.
        """
        options, config = self.options, self.source.config
        dtype = compute_dtype(options.device, options.dtype)
        rows = sum(LAYOUT)
        trained = _numbers(options, config)
        demand = Demand(config, trained, config.parameters(), rows, dtype.itemsize)
        free = free_memory_bytes(self.device)
        check_memory(demand, free, self.device)
        per_step = ROWS_ON_CPU if self.device.type == "cpu" else ROWS_ON_CUDA
        sequences = at_once = max(1, (options.batch_tokens or per_step) // rows)
        if self.device.type == "cpu":
            at_once = 1  # a processor is busy with one
        while at_once > 1 and replace(demand, batch_tokens=at_once * rows).total_bytes > free:
            at_once -= 1
        rate = options.learning_rate or (_RATE if options.start_from is None else _RATE_OF_TRAINED)
        return SessionOptions(rate, sequences, at_once)

    def network(self) -> Network:
        """The frozen network on the device."""
        dtype = compute_dtype(self.options.device, self.options.dtype)
        source = self.source
        return build_network(source.weights, source.config, device=self.device, dtype=dtype)

    def adapter(
        self, network: Network, train: Sequence[Written], started_from: Path | None
    ) -> MaskAdapter:
        """The adapter to begin with."""
        options, source = self.options, self.source
        if started_from is None:
            rank = options.rank or RANK
            markov = MARKOV_RANK if options.markov_rank is None else options.markov_rank
            made = AdapterOptions(rank, float(rank), markov_rank=markov)
            count = options.draft_vocabulary or DRAFT_VOCABULARY
            return MaskAdapter(network, made, draft_ids(source.config.vocabulary, train, count))
        weights = read_mask_adapter(started_from, source.config, source.weights)
        return trained_adapter(network, weights, options.rank or None, options.markov_rank)

    def budget(self) -> Budget:
        """When training ends."""
        minutes, tokens = self.options.minutes, self.options.tokens
        return Budget(_MINUTES if minutes is None and tokens is None else minutes, tokens)

    def watched(self, network: Network) -> RunOptions:
        """How the run is watched."""
        minutes = self._measure_minutes()
        dtype = network.encoder.embed_tokens.weight.dtype
        return RunOptions(
            label=self.options.command,
            save_seconds=_SAVE_SECONDS,
            measure_seconds=60 * minutes if minutes else float("inf"),
            matrix_rate=matrix_rate(self.device, dtype),
        )

    def served_prompts(self, held_out: Sequence[Written]) -> Prompts:
        """A few held-out prompts of every length; none if nothing is to be measured."""
        if not self._measure_minutes():
            return []
        numbered = [
            (index, prompt)
            for each in held_out
            for index, prompt in enumerate(each.tokens[:_SERVED_PROMPTS, : each.start].tolist())
        ]
        first = sorted(numbered, key=lambda pair: pair[0])[:_SERVED_PROMPTS]
        return [prompt for _, prompt in first]

    def served(self, settings: EngineSettings, prompts: Prompts) -> Served | None:
        """The figures of an engine, or None where memory is too small for it beside training."""
        try:
            end_ids = infill_of(self.source).end_ids
            return measure_served(self.source, settings, prompts, end_ids)
        except MemoryExhausted as error:
            logger.warning("not measured through the engine: %s", error)
            return None

    def served_figures(self, adapter: MaskAdapter, prompts: Prompts) -> Mapping[str, float]:
        """The adapter as it is now, exported and served; measured once for the same numbers."""
        beside = adapters_beside(self.engine, self.options.out / "served")
        assert beside.adapters is not None
        folder = beside.adapters / self.name
        export(adapter, self.base, folder)
        stamp = adapter_stamp(folder)
        if self._measured[0] != stamp:
            found = self.served(beside, prompts)
            figures = (
                {}
                if found is None
                else {
                    "served_tokens_per_forward": found.per_forward,
                    "served_drafts_per_forward": found.per_forward - 1,
                }
            )
            self._measured = (stamp, figures)
        return self._measured[1]

    def before(self, prompts: Prompts) -> float | None:
        """Tokens per forward with the adapter that the engine has used so far, measured once."""
        path = self.options.out / BEFORE
        if not prompts:
            return None
        if not path.is_file():
            found = self.served(self.engine, prompts)
            if found is None:
                return None
            path.write_text(json.dumps({"tokens_per_forward": found.per_forward}) + "\n", "utf-8")
        return float(json.loads(path.read_text("utf-8"))["tokens_per_forward"])

    def finish(self, adapter: MaskAdapter, before: float | None, prompts: Prompts) -> None:
        """Writes the result, reports it, and puts it where the engine finds it."""
        options, result = self.options, self.options.out / ADAPTER
        export(adapter, self.base, result)
        figures = self.served_figures(adapter, prompts) if prompts else {}
        shutil.rmtree(options.out / "served", ignore_errors=True)
        after = figures.get("served_tokens_per_forward")
        if before is not None and after is not None:
            rows = [
                ("before", len(prompts), f"{before:.3f}"),
                ("after", len(prompts), f"{after:.3f}"),
            ]
            table = "\n".join(to_table(("adapter", "prompts", "tokens/forward"), rows))
            (options.out / "figures.md").write_text(table + "\n", encoding="utf-8")
            print(table)
        if options.adapters is None:
            print(f"\n{result} is ready.", file=sys.stderr)
            return
        place = self._place(options.adapters)
        if before is not None and after is not None and after < before:
            print(
                f"\n{result} is no better than what the engine uses, so that stays. To use it "
                f"nevertheless, copy it to {place}.",
                file=sys.stderr,
            )
            return
        try:
            _copy(result, place)
        except OSError as error:
            raise ConfigError(
                f"{result} cannot be copied to {place}: {error.strerror or error}.",
                remedy="Copy it there yourself, or set DLM_LSP_MODELS to a folder of yours.",
                param="adapters",
            ) from None
        print(f"\n{place} is ready; engines that start from now on use it.", file=sys.stderr)

    def _place(self, adapters: Path) -> Path:
        """Where the adapter goes: a folder of its name, unless another model's adapter has it."""
        place, own = adapters / self.name, fingerprint(self.base.config, self.base.weights)
        try:
            other = json.loads((place / CONFIG).read_text("utf-8"))[EXTRAS]["base"]["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return place
        return place if other == own else adapters / f"{self.name}-{own[:8]}"

    def _measure_minutes(self) -> float:
        given = self.options.measure_minutes
        return MEASURE_MINUTES if given is None else given


def _numbers(options: TrainingOptions, config: ModelConfig) -> int:
    """Trained numbers of an adapter with these options, with the usual ones where they are left
    open."""
    lora = sum(
        sum(shape)
        for name, shape in network_tensors(config).items()
        if len(shape) == 2 and ".layers." in name
    )
    vocabulary = options.draft_vocabulary or DRAFT_VOCABULARY
    markov = MARKOV_RANK if options.markov_rank is None else options.markov_rank
    return lora * (options.rank or RANK) + 2 * vocabulary * markov


def draft_ids(vocabulary: int, train: Sequence[Written], count: int) -> np.ndarray:
    """(count,) int64: the most frequent tokens of what the model read and wrote, ascending."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for written in train:
        known = torch.arange(written.tokens.shape[1], device=written.ends.device)
        seen = written.tokens[known < written.ends[:, None]].cpu().numpy()
        counts += np.bincount(seen, minlength=len(counts))
    return np.sort(np.argsort(-counts, kind="stable")[:count])


def _copy(folder: Path, to: Path) -> None:
    """Copies an adapter so that `to` is always whole."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    os.utime(partial / CONFIG)  # the newest adapter is the one that is used
    shutil.rmtree(to, ignore_errors=True)
    partial.rename(to)


def _plain(name: str) -> str:
    """A name that every file system accepts and that hides no folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "_"
