"""Lays the weights out in huge pages, after they were loaded and while nothing is asked for.

A step of one row reads every weight once, half a gigabyte of 4 KiB pages, and much of its time goes
into looking these pages up: with pages of 2 MiB it takes a quarter less. Having them from the start
(glibc.malloc.hugetlb) makes a load slower by half a second, which somebody waits for; collapsing
the pages afterwards (madvise(2), MADV_COLLAPSE, Linux 6.1) costs idle time alone. Where a system
has no such call nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy

_HUGE = 2 << 20  # bytes: of x86-64 and of Arm with 4 KiB pages
_SMALL = 4096
_COLLAPSE = 25  # MADV_COLLAPSE
_PRESENT = 1 << 63  # of a small page's entry in /proc/self/pagemap
_ENTRY_BYTES = 8
_FIELDS_OF_UNNAMED = 5  # of a line of /proc/self/maps without a file


def collapse() -> Iterator[None]:
    """Collapses what is in use of this process's memory; each `next` is one page, some 6 ms.

    Only huge pages of which every small one is there, so that the process does not grow.
    """
    if sys.platform != "linux" or mmap.PAGESIZE != _SMALL:
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _regions():
        for page in _used(start, end):
            # Fails for pages that are not there, that were given back meanwhile, or that the
            # system has no room for: these stay as they are.
            madvise(page, _HUGE, _COLLAPSE)
            yield


def _used(start: int, end: int) -> Iterator[int]:
    """The addresses of huge pages from `start` to `end` that are there as a whole."""
    count = _HUGE // _SMALL
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            for page in range(start, end, _HUGE):
                pagemap.seek(page // _SMALL * _ENTRY_BYTES)
                entries = numpy.frombuffer(pagemap.read(count * _ENTRY_BYTES), numpy.uint64)
                if len(entries) == count and (entries & numpy.uint64(_PRESENT)).all():
                    yield page
    except OSError:
        return


def _regions() -> list[tuple[int, int]]:
    """Whole huge pages of private, writable memory without a file, the heap included, as (start,
    end) addresses."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    regions: list[tuple[int, int]] = []
    for line in lines:
        fields = line.split()
        if fields[1] != "rw-p" or fields[_FIELDS_OF_UNNAMED:] not in ([], ["[heap]"]):
            continue
        first, last = (int(address, 16) for address in fields[0].split("-"))
        start, end = -(-first // _HUGE) * _HUGE, last // _HUGE * _HUGE
        if start < end:
            regions.append((start, end))
    return regions
