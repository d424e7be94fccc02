"""The most that a device can do, as measured: copy bandwidth and matrix rate.

Copy bandwidth counts bytes read and bytes written. All data are random: zeros can be faster.
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
    """The median seconds of one call, up to the end of the device's work."""
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
    """Measures copies far larger than any cache, and one large square product."""
    count = 2**30 if device.type == "cuda" else 2**26
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * count / seconds_of(lambda: target.copy_(source), device)
    return Rates(copy, matrix_rate(device, dtype), str(dtype).removeprefix("torch."))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The multiplications and additions per second of a large square product."""
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty_like(left)
    return 2 * side**3 / seconds_of(lambda: torch.mm(left, right, out=product), device)
