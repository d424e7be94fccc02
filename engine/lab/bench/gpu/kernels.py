"""Times every kernel on the shapes of its cases, beside torch's own operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine.kernels.dispatch import Path, choose, forced
from engine.lab.bench.gpu.operations import Call, build, operations
from engine.lab.bench.gpu.timing import Stopwatch
from engine.lab.rates import Rates


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how kernels are timed.

    Attributes:
        bandwidth: of the datasheet, in bytes per second; None if the card is not known.
        path: which of kernel and reference runs; None for what the device takes by itself.
        is_small: whether the small cases are taken, which are for tests, and not the large ones.
        names: the operations; empty for all.
    """

    device: torch.device
    dtype: torch.dtype
    rates: Rates
    bandwidth: float | None
    path: Path | None = None
    is_small: bool = False
    names: tuple[str, ...] = ()

    def stopwatch(self) -> Stopwatch:
        """A stopwatch for the device; the small cases are run, rather than timed."""
        return Stopwatch(self.device, repeats=1) if self.is_small else Stopwatch(self.device)

    @property
    def runs(self) -> Path:
        """Which of kernel and reference runs."""
        chosen = choose(_kernels_triton, _kernels_torch, torch.empty(0, device=self.device))
        return self.path or ("triton" if chosen is _kernels_triton else "torch")

    def cases(self) -> Iterator[tuple[str, str, Any]]:
        """The operation, the name and the case of all that is timed."""
        for operation, module in operations().items():
            if self.names and operation not in self.names:
                continue
            for name, case in module.CASES.items():
                if case.is_large != self.is_small:
                    yield operation, name, case

    def shares(self, moved: int, milliseconds: float) -> dict[str, float | None]:
        """Gigabytes per second, and what share of the measured and the stated bandwidth it is."""
        rate = moved / (milliseconds / 1000)
        return {
            "gb_per_s": rate / 1e9,
            "of_copy": rate / self.rates.copy,
            "of_datasheet": rate / self.bandwidth if self.bandwidth else None,
        }


def measure_kernels(bench: Bench) -> Iterator[dict[str, Any]]:
    """Times every case. An operation that fails is an entry with its error."""
    watch = bench.stopwatch()
    for operation, name, case in bench.cases():
        entry: dict[str, Any] = {"operation": operation, "case": name, "path": bench.runs}
        try:
            call = build(operation, case, bench.device, bench.dtype)
            if call is not None:
                yield entry | _timed(call, bench, watch)
        except Exception as error:  # a kernel that does not run costs no other its figures
            yield entry | {"error": f"{type(error).__name__}: {error}"[:300]}


def _timed(call: Call, bench: Bench, watch: Stopwatch) -> dict[str, Any]:
    with forced(bench.path) if bench.path else nullcontext():
        timing = watch.time(call.run)
    return {
        **asdict(timing),
        "bytes": call.bytes,
        "flops": call.flops,
        **bench.shares(call.bytes, timing.cold),
        "peer_cold": None if call.peer is None else watch.cold(call.peer),
    }


def _kernels_triton() -> None:
    """Stands for any kernel where only the choice is asked for."""


def _kernels_torch() -> None:
    """Stands for any reference."""
