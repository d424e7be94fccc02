"""Huge pages: memory keeps its content, whether or not the system grants the request."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

from engine.model.onnx import huge_pages
from engine.model.onnx.huge_pages import collapse


def test_memory_holds_what_it_held() -> None:
    numbers = numpy.arange(3 << 20, dtype=numpy.int64)
    pieces = sum(1 for _ in collapse())
    assert numpy.array_equal(numbers, numpy.arange(3 << 20))
    assert pieces > 0 or sys.platform != "linux"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_was_never_touched_stays_untouched() -> None:
    untouched = numpy.zeros(64 << 20, dtype=numpy.uint8)
    before = resident_bytes()
    for _ in collapse():
        pass
    assert resident_bytes() - before < 4 << 20
    assert not untouched[:: 1 << 20].any()


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    assert list(collapse()) == []


def test_a_system_that_tells_nothing_of_memory_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> str:
        raise OSError("closed")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert list(collapse()) == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
