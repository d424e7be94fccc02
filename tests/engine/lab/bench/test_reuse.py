"""The measurement of reused suffixes, with the bundled model."""

from __future__ import annotations

from engine.config import BUNDLED_CHECKPOINT, EngineSettings
from engine.engine import Engine
from engine.lab.bench.reuse import measure
from engine.lab.evaluation.suites import Task

LINES = "".join(f"def f{number}(x):\n    return x + {number}\n\n\n" for number in range(40))


def test_the_figures_count_the_same_holes_with_and_without_reuse() -> None:
    tasks = [
        Task("holes", "a", "line_tail", LINES + "def g(x):\n    return", "\n" + LINES, " x + 1"),
        Task(
            "holes", "b", "whole_line", LINES + "def h(x):\n", LINES, "    pass\n", ends_line=True
        ),
    ]
    engine = Engine.load(EngineSettings(checkpoint=BUNDLED_CHECKPOINT, threads=1))
    try:
        *_, figures = measure(engine, tasks, [2, 9])
    finally:
        engine.close()
    assert figures.lines == 2
    assert set(figures.right) == set(figures.same) == {2, 9}
    assert 0 <= figures.fresh <= 2
    assert all(0 <= count <= 2 for count in (*figures.right.values(), *figures.same.values()))
