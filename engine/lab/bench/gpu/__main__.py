"""Checks, measures and tunes on a CUDA card in one run of under ten minutes.

Without a card it writes the roofline, which is arithmetic, and says so. What is worth most comes
first, and every figure is in the file as soon as it is there, so that a run that is cut short is
still worth something. `--device cpu --shapes tiny` tries all of it without a card; such figures say
nothing, and are never written into benchmarks/.

    make bench-gpu          measures and tunes
    make gpu                runs the tests that need a card first
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError, EngineError
from engine.lab.bench.conditions import installed, machine
from engine.lab.bench.decode import VARIANTS, held_out_holes, measure
from engine.lab.bench.decode_rows import Condition
from engine.lab.bench.gpu import networks, roofline_report
from engine.lab.bench.gpu.cards import card_named, card_state
from engine.lab.bench.gpu.checks import run_checks
from engine.lab.bench.gpu.networks import Shape, Weights, runners
from engine.lab.bench.gpu.sections import FORMAT, Sections
from engine.lab.bench.gpu.stored import STORAGES
from engine.lab.bench.shapes import SHAPES
from engine.lab.bench.steps import CONTEXTS, ROWS
from engine.lab.rates import Rates, measure_rates
from engine.model.config import ModelConfig

_SECONDS = 540.0
_BENCHMARKS = Path(__file__).parents[4] / "benchmarks"
# What a section may take of the run at most.
_CHECKS, _KERNELS, _STEPS, _PEERS, _TUNING = 0.25, 0.2, 0.12, 0.2, 0.35
_FIGURES = "gpu.json"
_QUANTIZED = 2  # of the shapes, the first ones, are timed with quantised weights too


def tiny(config: ModelConfig) -> ModelConfig:
    """A shape's family at a size that a processor computes at once."""
    return replace(
        config,
        vocabulary=96,
        hidden=32,
        intermediate=256,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        mask_id=None if config.mask_id is None else 3,
        end_ids=(2,),
    )


TINY = {"tiny NLD": tiny(SHAPES["8B"]), "tiny qwen": tiny(SHAPES["qwen 0.5B"])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 with the error on stderr, or if a check failed."""
    options = _parser().parse_args(arguments)
    try:
        if options.report:
            return _report(options.out)
        if options.roofline or (options.device == "cuda" and not torch.cuda.is_available()):
            roofline_report.write(options.out)
            if not options.roofline:
                print(
                    "No CUDA card was found, so nothing was measured. The roofline, which is "
                    f"computed, is in {options.out / 'roofline.md'}.",
                    file=sys.stderr,
                )
            return int(
                bool(options.check) and not options.roofline
            )  # what was asked for is not done
        return _Bench(options).run()
    except EngineError as error:
        print(f"engine.lab.bench.gpu: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.lab.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of the whole run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--shapes", nargs="+", choices=("tiny", *SHAPES), default=[*SHAPES], help="in this order"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=runners(), default=[*runners()], help="how steps are run"
    )
    parser.add_argument(
        "--weights", nargs="+", choices=STORAGES, default=[*reversed(STORAGES)],
        help="of the first shapes; bf16 is timed in any case",
    )  # fmt: skip
    parser.add_argument(
        "--kernels", choices=("triton", "torch"), help="what runs; default: as the device has it"
    )
    parser.add_argument("--operations", nargs="+", default=[], help="kernels; default: all")
    parser.add_argument("--check", nargs="+", metavar="TESTS", help="tests to run first")
    parser.add_argument("--corpus", type=Path, help="the recipe's corpus; default: a new one")
    parser.add_argument("--roofline", action="store_true", help="write the roofline alone")
    parser.add_argument("--report", action="store_true", help="write gpu.md of gpu.json again")
    return parser


def _report(folder: Path) -> int:
    """Writes page and plot of the figures in a folder.

    Raises:
        ConfigError: there are none, or in another format.
    """
    from engine.lab.bench.gpu.report import write  # matplotlib is an extra

    try:
        content: Any = json.loads((folder / _FIGURES).read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / _FIGURES} cannot be read: {error}.", remedy="Run it first.", param="report"
        ) from None
    write(folder, content)
    return 0


class _Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises ConfigError for figures that do not belong where they are to be written."""
        self._options = options
        self._device = device_of(options.device)
        self._dtype = torch.bfloat16
        self._is_card = options.device == "cuda"
        self._is_tiny = "tiny" in options.shapes
        is_real = self._is_card and not self._is_tiny
        if not is_real and options.out.resolve() == _BENCHMARKS:
            raise ConfigError(
                "Only figures of a card at real shapes belong into benchmarks/.",
                remedy="Give another --out.",
                param="out",
            )
        self._name = torch.cuda.get_device_name(self._device) if self._is_card else "a processor"
        self._card = card_named(self._name)
        self._sections = Sections(options.out / _FIGURES, self._conditions(), options.seconds)

    def run(self) -> int:
        """Measures section after section, then writes page and plot."""
        options, sections = self._options, self._sections
        if not self._is_tiny:
            roofline_report.write(options.out)
        if options.check:
            limit = _CHECKS * options.seconds
            checks = partial(run_checks, options.check, options.device, limit)
            sections.measure("checks", checks)
        sections.measure("rates", lambda: [asdict(measure_rates(self._device, self._dtype))])
        found = sections.entries("rates")
        if not found:
            return 1  # said in the file and on stderr
        rates = Rates(**found[0])
        sections.measure("kernels", partial(self._kernels, rates, "kernels"), share=_KERNELS)
        shapes = self._shapes()
        for shape in shapes:
            self._network(shape, rates, peers=False)
        for shape in shapes[:_QUANTIZED]:
            for storage in self._options.weights:
                if storage != "bf16":
                    self._network(replace(shape, storage=storage), rates, peers=False)
        self._network(shapes[0], rates, peers=True)
        sections.measure("tuning", partial(self._kernels, rates, "tuning"), share=_TUNING)
        for shape in shapes[1:]:
            self._network(shape, rates, peers=True)
        if not self._is_tiny:
            sections.measure("bundled", self._bundled)
        _report(options.out)
        return int(any(each["failed"] for each in sections.entries("checks")))

    def _conditions(self) -> dict[str, Any]:
        shapes = self._options.shapes
        return machine() | {
            "cuda": torch.version.cuda,
            "triton": installed("triton"),
            "transformers": installed("transformers"),
            "kind": self._options.device,
            "device": self._name,
            "dtype": str(self._dtype).removeprefix("torch."),
            "steps": ", ".join(self._options.steps),
            "shapes": ", ".join(TINY if self._is_tiny else shapes),
            **(card_state() if self._is_card else {}),
        }

    def _shapes(self) -> list[Shape]:
        if self._is_tiny:
            return [
                Shape(name=name, config=config, rows=(1, 8), contexts=(24, 48), card=None, tokens=6)
                for name, config in TINY.items()
            ]
        return [
            Shape(name=name, config=SHAPES[name], rows=ROWS, contexts=CONTEXTS, card=self._card)
            for name in self._options.shapes
        ]

    def _kernels(self, rates: Rates, what: str) -> Iterator[dict[str, Any]]:
        """Times or tunes the kernels, which need Triton."""
        from engine.lab.bench.gpu.kernels import Bench, measure_kernels
        from engine.lab.bench.gpu.tuning import measure_tuning

        bench = Bench(
            device=self._device,
            dtype=self._dtype,
            rates=rates,
            bandwidth=None if self._card is None else self._card.bandwidth,
            path=self._options.kernels,
            is_small=self._is_tiny,
            names=tuple(self._options.operations),
        )
        yield from measure_kernels(bench) if what == "kernels" else measure_tuning(bench)

    def _network(self, shape: Shape, rates: Rates, *, peers: bool) -> None:
        """Steps and cycles of one shape, or its peers, on weights that are made for it."""
        sections = self._sections
        made: list[Weights] = []

        def make() -> Iterator[dict[str, Any]]:
            made.append(Weights(shape.config, self._device, self._dtype, shape.storage))
            yield {"parameters": shape.config.parameters()}

        sections.measure(f"weights {'for peers of ' * peers}{shape.label}", make)
        if not made:
            return  # they do not fit, or the time is up: said in the file
        if peers:
            measured = partial(networks.on, made[0], "clear", networks.time_peers, shape)
            sections.measure(f"peers {shape.name}", measured, share=_PEERS)
        else:
            for runner in self._options.steps:
                self._runner(made[0], runner, shape, rates)
        made.clear()
        if self._is_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    def _runner(self, weights: Weights, runner: str, shape: Shape, rates: Rates) -> None:
        """Steps, cycles and a profile of one way to run steps."""
        label = f"{shape.label}, {runner}"
        for part, time in (
            ("steps", partial(networks.time_steps, rates=rates)),
            ("cycles", networks.time_cycles),
            ("profile", networks.profile),
        ):
            measured = partial(networks.on, weights, runner, time, shape)
            self._sections.measure(f"{part} {label}", measured, share=_STEPS)

    def _bundled(self) -> Iterator[dict[str, Any]]:
        """The bundled model in every mode on held-out holes, with what is left of the time."""
        condition = Condition(1, is_busy=False, device=self._device.type)
        seconds = max(self._sections.left - 15, 5)  # it ends with the round that is under way
        holes = held_out_holes(self._options.corpus, 10)
        rows, _ = measure(None, holes, condition, seconds, VARIANTS)
        yield from (asdict(row) for row in rows)


def device_of(name: str) -> torch.device:
    """The device that computes."""
    return torch.device(name)


if __name__ == "__main__":
    sys.exit(main())
