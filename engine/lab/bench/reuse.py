"""What a reused suffix costs: right lines with it and without, on held-out holes.

    python -m engine.lab.bench.reuse --checkpoint FILE.gguf --lines 500 --drift 6 24 48

For each hole and drift, the prompt is first computed as it was when the last tokens before the hole
were not yet written, and then asked with its suffix reused; last, the same hole is asked afresh. A
line is right if it equals the original's, spaces at its ends aside. Text only: no times are taken.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.api import Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.lab.evaluation.suites import Task, held_out_sources, hole_tasks

KINDS = ("whole_line", "line_tail", "mid_word")
PREFIX_TOKENS, SUFFIX_TOKENS, TOKENS_MAX = 200, 100, 32
_PREFIX_CHARS_MIN, _SUFFIX_CHARS_MIN = 900, 300  # shorter texts have fewer tokens than are asked


@dataclass(frozen=True, slots=True)
class ReuseFigures:
    """Right first lines of `lines` holes: asked afresh, and by drift in tokens with the suffix
    reused; and how many texts were the same as the fresh one."""

    lines: int
    fresh: int
    right: dict[int, int]
    same: dict[int, int]


def drawn_tasks(count: int, seed: int) -> list[Task]:
    """Returns held-out holes of single lines with enough text around them, in random order."""
    tasks = [
        task
        for task in hole_tasks(held_out_sources(None, None), count, seed)
        if task.kind in KINDS
        and len(task.prefix) > _PREFIX_CHARS_MIN
        and len(task.suffix) > _SUFFIX_CHARS_MIN
        and task.reference.split("\n")[0].strip()
    ]
    order = np.random.default_rng(seed).permutation(len(tasks))
    return [tasks[index] for index in order[:count]]


def measure(engine: Engine, tasks: Sequence[Task], drifts: Sequence[int]) -> Iterator[ReuseFigures]:
    """Yields the figures after each hole."""
    fresh, right, same = 0, dict.fromkeys(drifts, 0), dict.fromkeys(drifts, 0)
    for number, task in enumerate(tasks, 1):
        prefix = engine.tokenizer.encode(task.prefix[-12 * PREFIX_TOKENS :])[-PREFIX_TOKENS:]
        after = ("\n" if task.ends_line else "") + task.suffix
        suffix = engine.tokenizer.encode(after[: 12 * SUFFIX_TOKENS])[:SUFFIX_TOKENS]
        texts: dict[int, str] = {}
        # Afresh comes last: what it leaves in the cache would spare the others their suffix.
        for drift in sorted(drifts, reverse=True):
            engine.generate(_request(engine, prefix[:-drift], suffix, tokens_max=0))
            reused = _request(engine, prefix, suffix, reuses_suffix=True)
            texts[drift] = engine.generate(reused).text
        text = engine.generate(_request(engine, prefix, suffix)).text
        wanted = task.reference.split("\n")[0].strip()
        fresh += text.strip() == wanted
        for drift in drifts:
            right[drift] += texts[drift].strip() == wanted
            same[drift] += texts[drift] == text
        yield ReuseFigures(number, fresh, dict(right), dict(same))


def _request(
    engine: Engine,
    prefix: Sequence[int],
    suffix: Sequence[int],
    *,
    tokens_max: int = TOKENS_MAX,
    reuses_suffix: bool = False,
) -> Request:
    infill = engine.tokenizer.infill
    assert infill is not None
    return Request(
        infill.prompt((), prefix, suffix),
        "ar",
        Limits(tokens_max),
        stop=("\n",),
        stop_token_ids=(*infill.end_ids, *engine.end_ids),
        suffix=infill.suffix((), prefix, suffix),
        reuses_suffix=reuses_suffix,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--drift", type=int, nargs="+", default=[6, 24, 48], metavar="TOKENS")
    parser.add_argument(
        "--skip", type=int, default=0, help="holes that an earlier run has measured"
    )
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--graphs", type=Path, help="folder of prepared graphs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = EngineSettings(checkpoint=options.checkpoint, threads=1, graphs=options.graphs)
    engine = Engine.load(settings)
    try:
        tasks = drawn_tasks(options.lines, options.seed)[options.skip :]
        for figures in measure(engine, tasks, options.drift):
            if figures.lines % 10 == 0:
                print(json.dumps(asdict(figures)), flush=True)
                if options.out is not None:
                    options.out.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
