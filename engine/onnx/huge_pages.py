"""Lays the weights out in huge pages, after they were loaded and while nothing is asked for.

A step of one row reads every weight once, half a gigabyte of 4 KiB pages, and much of its time goes
into looking these pages up: with pages of 2 MiB it takes a quarter less. Having them from the start
(glibc.malloc.hugetlb) makes a load slower by half a second, which somebody waits for; collapsing
the pages afterwards (madvise(2), MADV_COLLAPSE, Linux 6.1) costs idle time alone. Where a system
has no such call nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

_HUGE = 2 << 20  # bytes: of x86-64 and of Arm with 4 KiB pages
_COLLAPSE = 25  # MADV_COLLAPSE
_FIELDS_OF_UNNAMED = 5  # of a line of /proc/self/maps without a file


def collapse() -> Iterator[None]:
    """Collapses what is in use of this process's memory; each `next` is one page, some 6 ms.

    Memory that was never touched stays untouched, so that the process grows by little.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _regions():
        for page in range(start, end, _HUGE):
            # Fails for pages that are not there, that were given back meanwhile, or that the
            # system has no room for: these stay as they are.
            madvise(page, _HUGE, _COLLAPSE)
            yield


def _regions() -> list[tuple[int, int]]:
    """Whole huge pages of private, writable memory without a file, as (start, end) addresses."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    regions: list[tuple[int, int]] = []
    for line in lines:
        fields = line.split()
        if fields[1] != "rw-p" or len(fields) > _FIELDS_OF_UNNAMED:
            continue
        first, last = (int(address, 16) for address in fields[0].split("-"))
        start, end = -(-first // _HUGE) * _HUGE, last // _HUGE * _HUGE
        if start < end:
            regions.append((start, end))
    return regions
