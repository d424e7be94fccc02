"""The baseline for kernel work on a card, measured in one run of under ten minutes.

The run measures the bundled model in every mode, then whole steps and cycles at the released shapes
with seeded random weights, relative to the card's copy bandwidth and matrix rate, beside
transformers and a compiled network. The figures are written after every part, so that an
interrupted run keeps them; `engine.lab.bench.baseline_report` makes tables and plots of them.
`python -m engine.lab.bench.baseline --out FOLDER` needs a CUDA card; `--device cpu` tries the code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.api import Limits, Request
from engine.errors import EngineError
from engine.lab.bench.compiled import CompiledStep
from engine.lab.bench.conditions import machine
from engine.lab.bench.decode import VARIANTS, held_out_holes, measure
from engine.lab.bench.decode_rows import Condition
from engine.lab.bench.shapes import random_adapter, random_network, released_config
from engine.lab.bench.steps import (
    CONTEXTS,
    ROWS,
    measure_cycles,
    measure_steps,
    profile_step,
    seeded_tokens,
)
from engine.lab.rates import Rates, measure_rates, seconds_of
from engine.lab.verify.peer import TransformersPeer
from engine.model.config import ModelConfig
from engine.model.families import RELEASED
from engine.model.runner import ModelRunner

_PEER_TOKENS = 48
_BUNDLED_SECONDS = 90.0


class Baseline:
    """The figures so far, and the file that holds them."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "baseline.json"
        self._began = time.monotonic()
        self.device, self.dtype = device, dtype
        self.content: dict[str, Any] = {
            "conditions": machine() | {"device": device_name(device), "dtype": str(dtype)}
        }

    def add(self, part: str, value: Any) -> None:
        """Adds one part's figures and writes the file."""
        self.content.setdefault("seconds", {})[part] = round(time.monotonic() - self._began, 1)
        self.content[part] = value
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)
        print(f"{time.monotonic() - self._began:6.1f} s  {part}", file=sys.stderr, flush=True)

    def measure_shape(
        self, name: str, config: ModelConfig, rates: Rates, rows: Sequence[int], contexts: list[int]
    ) -> None:
        """Measures steps, cycles, peers and a profile of one shape.

        Raises:
            EngineError: The shape does not fit on the device.
        """
        network = random_network(config, device=self.device, dtype=self.dtype)
        adapter = random_adapter(config, device=self.device, dtype=self.dtype)
        model = ModelRunner(network, device=self.device, adapter=adapter)
        steps = [asdict(step) for step in measure_steps(model, rates, rows, contexts)]
        self.add(f"steps {name}", steps)
        self.add(f"cycles {name}", [asdict(cycle) for cycle in measure_cycles(model, contexts[0])])
        self.add(f"profile {name}", [asdict(each) for each in profile_step(model)])
        if self.device.type == "cuda":
            self.add(f"memory {name}", torch.cuda.max_memory_allocated(self.device))
        compiled = CompiledStep(network, contexts[0])
        for count in (1, 32):
            seconds = seconds_of(compiled.prepared(count), self.device)
            self.add(f"compiled {name} {count} rows", seconds * 1000)
        self.add(f"transformers {name}", self._transformers(model, contexts[0]))

    def _transformers(self, model: ModelRunner, context: int) -> dict[str, float]:
        """Milliseconds per token of greedy decoding with a static cache, compiled on CUDA."""
        peer = TransformersPeer.sharing(model.network)
        prompt = seeded_tokens(model, context)
        request = Request(prompt=prompt, mode="ar", limits=Limits(tokens_max=_PEER_TOKENS))
        peer.generate(request, static_cache=True)  # compiles
        done = peer.generate(request, static_cache=True)
        return {"ms_per_token": done.seconds * 1000 / max(1, len(done.tokens) - 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the baseline; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.lab.bench.baseline", description=__doc__
    )
    parser.add_argument("--sizes", nargs="*", choices=sorted(RELEASED), default=["8B", "3B", "14B"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--corpus", type=Path, help="the recipe's corpus folder; default: a new one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("engine.lab.bench.baseline: no CUDA device was found.", file=sys.stderr)
        return 1
    baseline = Baseline(options.out, torch.device(options.device), torch.bfloat16)
    try:
        rates = measure_rates(baseline.device, baseline.dtype)
        baseline.add("rates", asdict(rates))
        measure_bundled(baseline, options.corpus)
        for size in options.sizes:
            baseline.measure_shape(size, released_config(size), rates, ROWS, list(CONTEXTS))
            if baseline.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(baseline.device)
    except EngineError as error:
        print(f"engine.lab.bench.baseline: {error}", file=sys.stderr)
        return 1
    return 0


def measure_bundled(baseline: Baseline, corpus: Path | None) -> None:
    """Measures the bundled model in every mode on held-out holes.

    Raises:
        EngineError: No held-out package is installed, or the model does not load.
    """
    condition = Condition(1, is_busy=False, device=baseline.device.type)
    rows, _ = measure(None, held_out_holes(corpus, 10), condition, _BUNDLED_SECONDS, VARIANTS)
    baseline.add("bundled", [asdict(row) for row in rows])


def device_name(device: torch.device) -> str:
    """The card's name, or the kind of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    sys.exit(main())
