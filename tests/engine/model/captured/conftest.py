"""Captured steps are made of Triton kernels: where Triton is not installed these tests are left
out, and `make gpu` fails without it."""

from __future__ import annotations

from tests.engine.seeded import DEVICE
from tests.engine.subjects import HAS_TRITON

if DEVICE.type != "cuda" and not HAS_TRITON:
    collect_ignore_glob = ["test_*.py"]
