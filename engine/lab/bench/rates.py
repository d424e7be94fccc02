"""What a device can do at most, measured: the two ceilings that step times are held against.

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
    is_cuda = device.type == "cuda"
    count, side = (2**30, 8192) if is_cuda else (2**26, 1024)
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * count / seconds_of(lambda: target.copy_(source), device)
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty_like(left)
    matrix = 2 * side**3 / seconds_of(lambda: torch.mm(left, right, out=product), device)
    return Rates(copy, matrix, str(dtype).removeprefix("torch."))
