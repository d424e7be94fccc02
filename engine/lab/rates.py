"""What a device can do at most, measured: the two ceilings that benchmarks and training runs are
held against.

Copy bandwidth counts bytes read and bytes written. Random data throughout: zeros can run faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Rates:
    """`copy`: bytes per second, read plus written; `matrix`: FLOP per second in `dtype`."""

    copy: float
    matrix: float
    dtype: str


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median seconds of one call, the device's work waited for."""
    for _ in range(_WARM_UP):
        run()
    synchronize(device)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Copies far larger than any cache, and one large square product."""
    count = 2**30 if device.type == "cuda" else 2**26
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * count / seconds_of(lambda: target.copy_(source), device)
    return Rates(copy, matrix_rate(device, dtype), str(dtype).removeprefix("torch."))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square product: multiplications and additions."""
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty_like(left)
    return 2 * side**3 / seconds_of(lambda: torch.mm(left, right, out=product), device)
