"""How fast every decoding mode is, beside `transformers.generate` on the same weights.

Fills held-out holes greedily, every mode in turn on each hole, so that whatever the machine does
meets all of them alike; the prompt's prefill is left out of every figure, theirs and ours. Measured
with the machine idle and with a second process keeping one core busy. Knows nothing of quality.
`python -m engine.bench.decode --out benchmarks` writes a table, JSON and a plot.
"""

from __future__ import annotations

import argparse
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.api import LAST_EVENTS, BlockOptions, Event, Finished, Request
from engine.bench.conditions import machine
from engine.bench.decode_report import Report, Row, write
from engine.bench.peer import TransformersPeer
from engine.bench.quality import Hole, draw_holes, to_request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import EngineError, EngineFailure
from engine.training.corpus import HELD, build_corpus, default_roots, read_sources

TOKENS_MAX = 64
PEER = "transformers.generate"
_HOLES_MIN = 2
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its knobs."""

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
    *(Variant("copy_spec", length) for length in (8, 16)),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """How the machine is used: CPU threads, and whether another process keeps one core busy."""

    threads: int
    is_busy: bool
    device: str = "cpu"

    @property
    def label(self) -> str:
        if self.device != "cpu":
            return self.device
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{threads}, {'one core busy' if self.is_busy else 'idle'}"


@dataclass(frozen=True, slots=True)
class Timed:
    """One decoded hole, behind its prefill; `cycles` are the forwards that emitted something."""

    tokens: int
    cycles: int
    forwards: int
    seconds: float
    text: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.decode", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model")
    parser.add_argument("--corpus", type=Path, help="the recipe's corpus folder; default: made")
    parser.add_argument("--holes", type=int, default=10, help="holes of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--seconds", type=float, default=300, help="per condition; what is done by then counts"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args(arguments)
    conditions = [Condition(n, is_busy) for n in options.threads for is_busy in (False, True)]
    try:
        holes = held_out_holes(options.corpus, options.holes)
        rows: list[Row] = []
        for condition in conditions:
            rows += measure(options.checkpoint, holes, condition, options.seconds)
            print(f"{condition.label}: {rows[-1].holes} holes", file=sys.stderr)
    except EngineError as error:
        print(f"engine.bench.decode: {error}", file=sys.stderr)
        return 1
    write(options.out, Report({**machine(), "tokens_max": TOKENS_MAX}, rows))
    return 0


def held_out_holes(corpus: Path | None, per_kind: int) -> list[Hole]:
    """Holes in held-out packages, kinds in turn: of a corpus made before, or of what is here."""
    if corpus is not None:
        holes = draw_holes(read_sources(corpus, HELD), per_kind)
    else:
        with tempfile.TemporaryDirectory() as folder:
            build_corpus(default_roots(), Path(folder))
            holes = draw_holes(read_sources(Path(folder), HELD), per_kind)
    kinds = len(holes) // per_kind
    return [holes[kind * per_kind + index] for index in range(per_kind) for kind in range(kinds)]


def measure(
    checkpoint: Path | None,
    holes: Sequence[Hole],
    condition: Condition,
    seconds: float,
    variants: Sequence[Variant] = VARIANTS,
) -> list[Row]:
    """One row per variant, and one for transformers, under one condition.

    Args:
        holes: taken in order until `seconds` are spent, two at least. The first is decoded once
            more before, to warm up, and not counted.
    """
    settings = EngineSettings(checkpoint, device=condition.device, threads=condition.threads)
    engine = Engine.load(settings)
    peer = TransformersPeer.load(settings)
    runs: dict[str, Callable[[Hole], Timed]] = {
        variant.label: _ours(engine, variant) for variant in variants
    }
    runs[PEER] = _theirs(engine, peer)
    names = list(runs)
    results: dict[str, list[Timed]] = {name: [] for name in names}
    try:
        with busy_core() if condition.is_busy else idle():
            for run in runs.values():
                run(holes[0])
            until = time.monotonic() + seconds
            for index, hole in enumerate(holes):
                if index >= _HOLES_MIN and time.monotonic() > until:
                    break
                turn = index % len(names)
                for name in (*names[turn:], *names[:turn]):
                    results[name].append(runs[name](hole))
    finally:
        engine.close()
    return [_row(condition, name, timed, results["ar"]) for name, timed in results.items()]


@contextmanager
def idle() -> Iterator[None]:
    """Nothing beside the measurement."""
    yield


@contextmanager
def busy_core() -> Iterator[None]:
    """A second process that computes without end."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_request(engine: Engine, request: Request) -> Timed:
    """Decodes a request to its end.

    Raises:
        EngineFailure: it failed.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(request, events.put)
    cycles, tokens = 0, 0
    event = events.get()
    while True:
        usage = getattr(event, "usage", None)
        if usage is not None and usage.tokens > tokens:
            cycles, tokens = cycles + 1, usage.tokens
        if isinstance(event, LAST_EVENTS):
            break
        event = events.get()
    if not isinstance(event, Finished):
        raise EngineFailure(f"The engine answered {event}.")
    usage = event.usage
    seconds = (usage.total_ms - usage.prefill_ms) / 1000
    return Timed(usage.tokens, cycles, usage.forwards, seconds, event.text)


def _ours(engine: Engine, variant: Variant) -> Callable[[Hole], Timed]:
    def run(hole: Hole) -> Timed:
        request = to_request(engine, hole.pieces, variant.mode, TOKENS_MAX)
        block = BlockOptions(variant.length, variant.threshold)
        return run_request(engine, replace(request, block=block))

    return run


def _theirs(engine: Engine, peer: TransformersPeer) -> Callable[[Hole], Timed]:
    def run(hole: Hole) -> Timed:
        done = peer.generate(to_request(engine, hole.pieces, "ar", TOKENS_MAX))
        forwards = max(len(done.tokens) - 1, 0)
        text = engine.tokenizer.decode(done.tokens)
        return Timed(len(done.tokens), len(done.tokens), forwards, done.seconds, text)

    return run


def _row(
    condition: Condition, name: str, timed: Sequence[Timed], reference: Sequence[Timed]
) -> Row:
    low, high = _ratio_range(timed, reference)
    same = sum(one.text == other.text for one, other in zip(timed, reference, strict=True))
    tokens = sum(map(_behind_first, timed))
    return Row(
        condition=condition.label,
        variant=name,
        holes=len(timed),
        tokens_per_second=_speed(timed),
        against_ar=_speed(timed) / _speed(reference),
        against_ar_range=(low, high),
        tokens_per_forward=tokens / max(1, sum(each.forwards for each in timed)),
        accepted_per_cycle=tokens / max(1, sum(max(each.cycles - 1, 0) for each in timed)),
        forwards=sum(each.forwards for each in timed) / len(timed),
        same_as_ar=same / len(timed),
    )


def _ratio_range(timed: Sequence[Timed], reference: Sequence[Timed]) -> tuple[float, float]:
    """The middle 95 % of the ratio of speeds over resampled holes, each with both its runs."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(len(timed), size=len(timed))
        theirs = _speed([reference[index] for index in chosen])
        ratios.append(_speed([timed[index] for index in chosen]) / max(theirs, 1e-9))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _speed(timed: Sequence[Timed]) -> float:
    """Tokens behind the first, which the prefill brings, per second behind the prefill."""
    tokens = sum(map(_behind_first, timed))
    return max(tokens, 1e-9) / max(1e-9, sum(each.seconds for each in timed))


def _behind_first(timed: Timed) -> int:
    return max(timed.tokens - 1, 0)


if __name__ == "__main__":
    sys.exit(main())
