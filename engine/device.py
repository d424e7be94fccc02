"""What this machine can compute with, told without importing torch.

`doctor` and the host's identity need the answer before, or without, a second of imports.
"""

from __future__ import annotations

import os
from pathlib import Path

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86: AVX-512 or AMX; Arm: bf16


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bf16 natively; where it does not, bf16 is slower than fp32."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not _BFLOAT16_FLAGS.isdisjoint(value.split())
    return False


def default_threads() -> int:
    """One on small CPUs: with any other busy process two-thread torch slows 5 to 50 times
    (barriers against a preempted thread), one thread stays within a third. Else half the CPUs."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if not count or count <= 4 else count // 2


def available_memory_bytes() -> int:
    """Memory the system can give without swapping; unlimited where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**63 - 1
