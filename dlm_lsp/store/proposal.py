"""Proposes the model to pull: the best one that this machine runs well, by a short measurement.

Owns the two limits, time and memory, and the reason shown to the user. A callable gives the time of
a step; the one here estimates it from the speed of memory and of the engine's integer products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from dlm_lsp.store.catalogue import Entry
from dlm_lsp.store.memory import available_bytes
from dlm_lsp.store.progress import sized
from engine.model.onnx.probe import probe

# With a slower step of one row, a line of twelve tokens takes more than half a second.
ROW_STEP_MS_MAX = 50.0
SPARE_BYTES = 1 << 30  # Left to the editor and other programs.

_BUFFER_BYTES = 256 << 20  # Larger than every processor's cache.
_MEASURE_SECONDS = 1.0
# A step of one row reads every weight once and little else. With int8 weights it took 29 ms, and
# reading the weights alone took 24 ms (0.5B, one thread, 20.4 GB/s), which is a factor of 1.2. The
# factor includes that the measured sum is slightly slower than the fastest read.
STEP_OVER_READ = 1.2


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model for this machine and the reason for the choice."""

    entry: Entry
    reason: str


def propose(
    entries: Sequence[Entry],
    row_step_ms: Callable[[int], float],
    free_bytes: int | None = None,
) -> Proposal:
    """Returns the best model that runs well on this machine, or the smallest one.

    Args:
        row_step_ms: returns the milliseconds of a step of one row, given the bytes of weights read.
        free_bytes: the free memory; None asks the system.
    """
    candidates = sorted(
        (entry for entry in entries if entry.proposed), key=lambda each: each.parameters
    )
    if not candidates:
        raise ValueError("the catalogue has no model to propose")
    free = available_bytes() if free_bytes is None else free_bytes
    against: list[str] = []
    for entry in reversed(candidates):
        milliseconds = row_step_ms(entry.row_bytes)
        fits = free is None or entry.memory_bytes + SPARE_BYTES <= free
        shown = f"about {milliseconds:.0f} ms a token"
        if milliseconds > ROW_STEP_MS_MAX:
            against.append(f"{entry.name} would take {shown} here")
        elif not fits:
            against.append(
                f"{entry.name} needs {sized(entry.memory_bytes)} of the {sized(free or 0)} of "
                "memory that are free"
            )
        else:
            return Proposal(entry, "; ".join([f"{shown} on this machine", *against]))
    smallest = candidates[0]
    return Proposal(smallest, "; ".join(["the smallest there is", *against]))


def measured_row_step_ms(graphs: Path) -> Callable[[int], float]:
    """Returns a `row_step_ms` from the speed of memory or of products, whichever is slower.

    Measures for a few seconds with one thread.

    Args:
        graphs: the folder in which the engine keeps the same measurement.
    """
    bytes_per_ms = _read_bytes_per_second() / 1000
    products = probe(1, graphs)
    return lambda weight_bytes: max(
        weight_bytes / bytes_per_ms * STEP_OVER_READ, products.row_step_ms(weight_bytes)
    )


def _read_bytes_per_second() -> float:
    """Returns the best rate of several passes over a buffer, each of which reads it once."""
    buffer = numpy.ones(_BUFFER_BYTES // 8, dtype=numpy.uint64)
    best = float("inf")
    end = time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return _BUFFER_BYTES / best
