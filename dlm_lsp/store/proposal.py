"""Which model to pull on this machine: the best one that it runs well, by a short measurement.

Owns the two bounds, time and memory, and the reason that the user is told. How long a step takes
is a callable's to say; the one here estimates it from memory and the engine's integer products.
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

# A step of one row that takes longer makes a line of twelve tokens take more than half a second.
ROW_STEP_MS_MAX = 50.0
SPARE_BYTES = 1 << 30  # left to the editor and the rest

_BUFFER_BYTES = 256 << 20  # no processor's cache holds it
_MEASURE_SECONDS = 1.0
# A step of one row reads every weight once and little else. With int8 weights it was measured at
# 29 ms where reading them alone takes 24 (0.5B, one thread, 20.4 GB/s): 1.2 times. A sum is not
# quite as fast as the fastest read, which is in the same factor.
STEP_OVER_READ = 1.2


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model for this machine, and why it and no other."""

    entry: Entry
    reason: str


def propose(
    entries: Sequence[Entry],
    row_step_ms: Callable[[int], float],
    free_bytes: int | None = None,
) -> Proposal:
    """The best model that runs well here, else the smallest.

    Args:
        row_step_ms: milliseconds of a step of one row that reads so many bytes of weights.
        free_bytes: memory that is free; None asks the system.
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
    """A `row_step_ms` by how fast this machine reads memory and how fast it multiplies: the slower
    of both counts. Measures for a few seconds, with one thread.

    Args:
        graphs: where the engine keeps the same measurement.
    """
    bytes_per_ms = _read_bytes_per_second() / 1000
    products = probe(1, graphs)
    return lambda weight_bytes: max(
        weight_bytes / bytes_per_ms * STEP_OVER_READ, products.row_step_ms(weight_bytes)
    )


def _read_bytes_per_second() -> float:
    """The best of several passes over a buffer, each of which reads it once."""
    buffer = numpy.ones(_BUFFER_BYTES // 8, dtype=numpy.uint64)
    best = float("inf")
    end = time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return _BUFFER_BYTES / best
