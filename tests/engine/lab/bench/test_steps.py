"""What the card's benchmark is made of: rates, seconds, compiled steps, and steps themselves."""

from __future__ import annotations

import pytest
import torch

import engine.lab.rates
from engine.lab.bench.compiled import CompiledStep
from engine.lab.bench.gpu.__main__ import TINY
from engine.lab.bench.shapes import random_network
from engine.lab.bench.steps import measure_steps
from engine.lab.rates import Rates, measure_rates, seconds_of
from engine.model.runner import ModelRunner
from tests.engine.seeded import CPU, causal_logits

NLD = TINY["tiny NLD"]


@pytest.mark.parametrize("shape", TINY)
def test_a_compiled_step_computes_what_a_plain_pass_does(shape: str) -> None:
    network = random_network(TINY[shape], device=CPU, dtype=torch.float32)
    compiled = CompiledStep(network, 0, backend="eager")
    logits = compiled.prepared(6)()
    expected = causal_logits(network, tuple(range(6)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_step_is_one_graph() -> None:
    """Else the peer would be slower than it need be: the query scale looks at its positions."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    network = random_network(NLD, device=CPU, dtype=torch.float32)
    assert network.config.rope.query_scale_beta > 0
    CompiledStep(network, 8, backend=backend).prepared(4)()
    assert len(graphs) == 1
    assert network.config.rope.query_scale_beta > 0


def test_every_number_of_rows_is_timed_after_every_context() -> None:
    model = ModelRunner(random_network(NLD, device=CPU, dtype=torch.bfloat16), device=CPU)
    found = [(step.rows, step.context) for step in measure_steps(model, (1, 8), (24, 48))]
    assert found == [(1, 24), (8, 24), (1, 48), (8, 48)]


def test_rates_count_bytes_read_and_written_and_multiplications_and_additions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.5, 4.0])
    monkeypatch.setattr(engine.lab.rates, "seconds_of", lambda run, device: next(seconds))
    assert measure_rates(CPU, torch.bfloat16) == Rates(2 * 2**26 / 0.5, 2 * 1024**3 / 4, "bfloat16")


def test_seconds_are_the_median_of_the_runs_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(engine.lab.rates.time, "perf_counter", lambda: next(clock))
    runs: list[None] = []
    assert seconds_of(lambda: runs.append(None), CPU, repeats=3) == 2.0
    assert len(runs) > 3
