"""How fast each decoding mode is, beside `transformers.generate` with the same weights in one run.

Holes of held-out packages, greedily, one request at a time; the prompt's prefill is left out of
every figure, theirs and ours. Measured with the machine idle and with a second process keeping one
core busy. Knows nothing of quality.
`python -m engine.bench.decode --out benchmarks` writes a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from engine.api import BlockOptions
from engine.bench.peer import TransformersPeer
from engine.bench.quality import Hole, decode, draw_holes, to_request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import EngineError
from engine.training.corpus import HELD, build_corpus, default_roots, read_sources

_TOKENS_MAX = 64
_PEER = "transformers.generate"


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its knobs."""

    mode: str
    length: int = 32
    threshold: float = 0.9

    @property
    def label(self) -> str:
        if self.mode == "ar":
            return "ar"
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
class Timed:
    """One decoded hole: what came behind the prefill."""

    tokens: int
    forwards: int
    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One variant under one condition, over all holes.

    Attributes:
        condition: CPU threads, and whether another process keeps one core busy.
        tokens_per_second: tokens behind the first over the seconds behind the prefill, all holes
            summed.
        against_ar: that, over the figure of "ar" in the same condition.
        tokens_per_forward: tokens behind the first over forwards behind the prefill.
        same_as_ar: share of holes with exactly the text of "ar".
    """

    condition: str
    variant: str
    tokens_per_second: float
    against_ar: float
    tokens_per_forward: float
    same_as_ar: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.decode", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model")
    parser.add_argument("--corpus", type=Path, help="the recipe's corpus folder; default: made")
    parser.add_argument("--holes", type=int, default=10, help="holes of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args(arguments)
    try:
        holes = held_out_holes(options.corpus, options.holes)
        rows: list[Row] = []
        for threads in options.threads:
            for is_busy in (False, True):
                rows += measure(options.checkpoint, holes, threads, is_busy)
    except EngineError as error:
        print(f"engine.bench.decode: {error}", file=sys.stderr)
        return 1
    write(options.out, rows, len(holes))
    return 0


def held_out_holes(corpus: Path | None, per_kind: int) -> list[Hole]:
    """Holes in held-out packages: of a corpus made before, or of what is installed here."""
    if corpus is not None:
        return draw_holes(read_sources(corpus, HELD), per_kind)
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(default_roots(), Path(folder))
        return draw_holes(read_sources(Path(folder), HELD), per_kind)


def measure(
    checkpoint: Path | None, holes: Sequence[Hole], threads: int, is_busy: bool
) -> Iterator[Row]:
    """One row per variant, and one for transformers, under one condition."""
    condition = f"{threads} thread{'s' * (threads > 1)}, {'one core busy' if is_busy else 'idle'}"
    settings = EngineSettings(checkpoint, device="cpu", threads=threads)
    engine = Engine.load(settings)
    peer = TransformersPeer(settings)
    results: dict[str, list[Timed]] = {}
    try:
        with busy_core() if is_busy else idle():
            for variant in VARIANTS:
                results[variant.label] = [_ours(engine, hole, variant) for hole in holes]
            results[_PEER] = [_theirs(engine, peer, hole) for hole in holes]
    finally:
        engine.close()
    reference = results["ar"]
    for name, timed in results.items():
        tokens = sum(max(each.tokens - 1, 0) for each in timed)
        same = sum(one.text == other.text for one, other in zip(timed, reference, strict=True))
        yield Row(
            condition=condition,
            variant=name,
            tokens_per_second=_speed(timed),
            against_ar=_speed(timed) / _speed(reference),
            tokens_per_forward=tokens / max(1, sum(each.forwards for each in timed)),
            same_as_ar=same / len(timed),
        )


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


def write(folder: Path, rows: Sequence[Row], num_holes: int) -> None:
    """`decode.json` and `decode.md`, with the conditions."""
    conditions = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "holes": num_holes,
        "tokens_max": _TOKENS_MAX,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=1)
    (folder / "decode.json").write_text(text + "\n", encoding="utf-8")
    facts = ", ".join(f"{name} {value}" for name, value in conditions.items())
    lines = [
        "# Decoding modes, measured side by side",
        "",
        f"{facts}. Greedy, prefill left out, one request at a time.",
    ]
    for condition in dict.fromkeys(row.condition for row in rows):
        chosen = [row for row in rows if row.condition == condition]
        lines += ["", f"## {condition}", "", *to_table(chosen)]
    (folder / "decode.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_table(rows: Sequence[Row]) -> list[str]:
    """Markdown lines."""
    return [
        "| mode | tokens/s | against ar | tokens per forward | same text as ar |",
        "|---|---|---|---|---|",
        *(
            f"| {row.variant} | {row.tokens_per_second:.0f} | {row.against_ar:.2f} "
            f"| {row.tokens_per_forward:.2f} | {row.same_as_ar:.0%} |"
            for row in rows
        ),
    ]


def _ours(engine: Engine, hole: Hole, variant: Variant) -> Timed:
    request = to_request(engine, hole.pieces, variant.mode, _TOKENS_MAX)
    done = decode(engine, replace(request, block=BlockOptions(variant.length, variant.threshold)))
    seconds = (done.usage.total_ms - done.usage.prefill_ms) / 1000
    return Timed(done.usage.tokens, done.usage.forwards, seconds, done.text)


def _theirs(engine: Engine, peer: TransformersPeer, hole: Hole) -> Timed:
    done = peer.generate(to_request(engine, hole.pieces, "ar", _TOKENS_MAX))
    forwards = max(len(done.tokens) - 1, 0)
    return Timed(len(done.tokens), forwards, done.seconds, engine.tokenizer.decode(done.tokens))


def _speed(timed: Sequence[Timed]) -> float:
    tokens = sum(max(each.tokens - 1, 0) for each in timed)
    return tokens / max(1e-9, sum(each.seconds for each in timed))


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
