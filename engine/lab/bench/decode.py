"""How fast every decoding mode is, beside `transformers.generate` on the same weights.

Held-out holes are filled greedily, each by all modes in turn, so that other load affects all modes
alike. No figure includes the prefill of the prompt. The machine is idle, or a second process
keeps one core busy. "auto" chooses as the host does, by the step times under the same condition and
its own record. `python -m engine.lab.bench.decode --out benchmarks` writes a table, JSON and plots;
with `--advise` it also writes the checkpoint's `decoding.json`, which "auto" starts from.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.api import BlockOptions
from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures, write_stats
from engine.auto.step_times import StepTimes, TimesFile
from engine.config import EngineSettings
from engine.device import resolve
from engine.engine import Engine
from engine.errors import EngineError
from engine.lab.bench.asking import AutoMode, idle, run_request, wait_for_curve
from engine.lab.bench.conditions import busy_core, machine
from engine.lab.bench.decode_report import DecodeReport, write
from engine.lab.bench.decode_rows import Condition, Timed, VariantRow, to_row
from engine.lab.bench.parity import Parity, compare
from engine.lab.data.holes import Hole, kinds_in_turn
from engine.lab.evaluation.infill_eval import draw_holes, to_request
from engine.lab.evaluation.suites import held_out_sources
from engine.lab.verify.peer import TransformersPeer
from engine.model.adapter import load_adapter
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.runner import ModelRunner

TOKENS_MAX = 64
PEER = "transformers.generate"
_HOLES_MIN = 2
_NEAR_TIES_LENGTH = 8  # of blocks: the steps of quadratic_spec grow with its square
_ON_PAR = 0.01  # the share of holes that block diffusion may fill less often than "ar"
_ON_PAR_HOLES_MIN = 100


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its settings."""

    mode: str
    length: int = 32
    threshold: float = 0.9

    @property
    def label(self) -> str:
        if self.mode in ("ar", "auto"):
            return self.mode
        at = f" at {self.threshold}" if self.mode == "block" else ""
        return f"{self.mode} {self.length}{at}"


VARIANTS = (
    Variant("ar"),
    *(Variant("block", length, at) for length in (8, 16, 32) for at in (0.5, 0.7, 0.9)),
    *(Variant("linear_spec", length) for length in (8, 16, 32)),
    *(Variant("quadratic_spec", length) for length in (4, 8)),
    *(Variant("copy_spec", length) for length in (8, 16, 32)),
    Variant("auto"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m engine.lab.bench.decode", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model")
    parser.add_argument(
        "--corpus", type=Path, help="the recipe's corpus folder; default: a new one"
    )
    parser.add_argument("--holes", type=int, default=25, help="holes of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--seconds",
        type=float,
        default=240,
        help="time per condition; the holes filled by then count",
    )
    parser.add_argument("--advise", action="store_true", help="also write decoding.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args(arguments)
    conditions = [Condition(n, is_busy) for n in options.threads for is_busy in (False, True)]
    settings = EngineSettings(options.checkpoint, device="cpu", threads=options.threads[0])
    try:
        holes = held_out_holes(options.corpus, options.holes)
        rows: list[VariantRow] = []
        curves: dict[str, StepTimes] = {}
        for condition in conditions:
            measured, curves[condition.label] = measure(
                options.checkpoint, holes, condition, options.seconds, VARIANTS
            )
            rows += measured
            print(f"{condition.label}: {measured[0].holes} holes", file=sys.stderr)
            if options.advise and condition == conditions[0]:
                write_stats(settings.checkpoint_path(), stats_of(measured))
        parity = near_ties(settings, holes)
    except EngineError as error:
        print(f"engine.lab.bench.decode: {error}", file=sys.stderr)
        return 1
    write(options.out, DecodeReport({**machine(), "tokens_max": TOKENS_MAX}, rows, curves, parity))
    return 0


def held_out_holes(corpus: Path | None, per_kind: int) -> list[Hole]:
    """Holes in held-out packages of a corpus, or of what is installed here; their kinds in turn."""
    return kinds_in_turn(draw_holes(held_out_sources(corpus, None), per_kind), per_kind)


def measure(
    checkpoint: Path | None,
    holes: Sequence[Hole],
    condition: Condition,
    seconds: float,
    variants: Sequence[Variant],
) -> tuple[list[VariantRow], StepTimes]:
    """A row for each variant and one for transformers under one condition, and its step times.

    Args:
        holes: taken in order until `seconds` are spent, at least two. The first one is decoded once
            before, to warm up.

    Raises:
        EngineError: The checkpoint cannot be run.
    """
    settings = EngineSettings(checkpoint, device=condition.device, threads=condition.threads)
    with busy_core() if condition.is_busy else idle(), tempfile.TemporaryDirectory() as folder:
        engine = Engine.load(settings, TimesFile(Path(folder) / "times.json", "bench", "bench"))
        try:
            times = wait_for_curve(engine)
            runs: dict[str, Callable[[Hole], Timed]] = {
                one.label: _ours(engine, one, times) for one in variants
            }
            runs[PEER] = _theirs(engine, settings)
            results = _in_turn(runs, holes, seconds)
        finally:
            engine.close()
    rows = [to_row(condition, name, timed, results["ar"]) for name, timed in results.items()]
    return rows, times


def near_ties(settings: EngineSettings, holes: Sequence[Hole]) -> list[Parity]:
    """How often the fast speculative modes differ from "ar", and whether at near-ties.

    Raises:
        EngineError: The checkpoint cannot be run.
    """
    settings = resolve(replace(settings, backend="torch"))
    network = _network(settings)
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    adapter = load_adapter(settings.checkpoint_path(), network.config, device=device, dtype=dtype)
    engine = Engine.load(settings)
    try:
        greedy = (to_request(engine, hole.pieces, "ar", TOKENS_MAX) for hole in holes)
        block = BlockOptions(_NEAR_TIES_LENGTH)
        requests = [replace(request, block=block) for request in greedy]
    finally:
        engine.close()
    torch.set_num_threads(settings.threads or 1)
    return compare(ModelRunner(network, device=device, adapter=adapter), requests)


def stats_of(rows: Sequence[VariantRow]) -> CheckpointStats:
    """The checkpoint's figures from the rows of one condition, at the usual block length.

    Block diffusion is on par with "ar" only if enough holes were filled to tell.
    """
    by_name = {row.variant: row for row in rows}
    length = Variant("block").length
    modes = {
        mode: ModeFigures(row.tokens_per_forward, row.rows_per_forward)
        for mode in ("copy_spec", "linear_spec", "block")
        if (row := by_name.get(Variant(mode, length).label)) is not None
    }
    block, reference = by_name.get(Variant("block").label), by_name["ar"]
    is_on_par = (
        block is not None
        and block.holes >= _ON_PAR_HOLES_MIN
        and block.exact >= reference.exact - _ON_PAR
    )
    return CheckpointStats(modes, length, is_on_par)


def _ours(engine: Engine, variant: Variant, times: StepTimes) -> Callable[[Hole], Timed]:
    auto = AutoMode(engine, times)
    block = BlockOptions(variant.length, variant.threshold)

    def run(hole: Hole) -> Timed:
        mode, wanted = variant.mode, hole.pieces.middle
        request = to_request(engine, hole.pieces, "ar" if mode == "auto" else mode, TOKENS_MAX)
        request = replace(request, block=block)
        return auto(request, wanted) if mode == "auto" else run_request(engine, request, wanted)

    return run


def _network(settings: EngineSettings) -> Network:
    """The checkpoint's network; the settings are resolved."""
    folder = settings.checkpoint_path()
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    return load_network(folder, read_config(folder), device=device, dtype=dtype)


def _theirs(engine: Engine, settings: EngineSettings) -> Callable[[Hole], Timed]:
    settings = resolve(replace(settings, backend="torch"))
    peer, threads = TransformersPeer.sharing(_network(settings)), settings.threads or 1

    def run(hole: Hole) -> Timed:
        request = to_request(engine, hole.pieces, "ar", TOKENS_MAX)
        done = peer.generate(request, threads=threads)
        text = engine.tokenizer.decode(done.tokens)
        tokens = len(done.tokens)
        has_ended = tokens < TOKENS_MAX
        decided = max(tokens - 1, 0) + has_ended
        return Timed(
            mode=PEER,
            tokens=tokens,
            decided=decided,
            cycles=tokens + has_ended,
            forwards=decided,
            rows=decided,
            seconds=done.seconds,
            text=text,
            is_exact=text == hole.pieces.middle,
        )

    return run


def _in_turn(
    runs: dict[str, Callable[[Hole], Timed]], holes: Sequence[Hole], seconds: float
) -> dict[str, list[Timed]]:
    """Every run on every hole until the time is over; each hole begins with another run."""
    for run in runs.values():
        run(holes[0])
    names = list(runs)
    results: dict[str, list[Timed]] = {name: [] for name in names}
    until = time.monotonic() + seconds
    for index, hole in enumerate(holes):
        if index >= _HOLES_MIN and time.monotonic() > until:
            break
        turn = index % len(names)
        for name in (*names[turn:], *names[:turn]):
            results[name].append(runs[name](hole))
    return results


if __name__ == "__main__":
    sys.exit(main())
