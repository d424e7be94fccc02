"""Moves the loaded weights into huge pages while there are no requests.

A step of one row reads every weight once, half a gigabyte in pages of 4 KiB, and spends much of its
time on page look-ups; with pages of 2 MiB it takes a quarter less. Using huge pages from the start
(glibc.malloc.hugetlb) makes loading, for which a user waits, half a second slower. Collapsing the
pages later (madvise(2), MADV_COLLAPSE, Linux 6.1) costs only idle time. On systems without this
call nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy

_HUGE = 2 << 20  # bytes of a huge page, on x86-64 and on Arm with 4 KiB pages
_SMALL = 4096
_COLLAPSE = 25  # MADV_COLLAPSE
_PRESENT = 1 << 63  # the bit of a present small page in /proc/self/pagemap
_ENTRY_BYTES = 8  # of /proc/self/pagemap
_FIELDS_OF_UNNAMED = 5  # the fields of a line of /proc/self/maps before a file's name


def collapse() -> Iterator[None]:
    """Collapses the used memory of this process; each `next` is one huge page and takes some 6 ms.

    A huge page is collapsed only if all its small pages are present, so that the process does not
    grow.
    """
    if sys.platform != "linux" or mmap.PAGESIZE != _SMALL:
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _regions():
        for page in _used(start, end):
            # Fails for pages that have been freed meanwhile or for which the system has no huge
            # page; these stay as they are.
            madvise(page, _HUGE, _COLLAPSE)
            yield


def _used(start: int, end: int) -> Iterator[int]:
    """The addresses of the huge pages from `start` to `end` whose small pages are all present."""
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
    """The (start, end) addresses of private, writable memory without a file, including the heap,
    rounded to whole huge pages."""
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
