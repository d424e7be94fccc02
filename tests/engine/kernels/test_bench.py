"""Kernels as the card's benchmark calls, times and tunes them, in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from engine.kernels import rms_norm, skinny_gemm, swiglu
from engine.kernels.dispatch import forced
from engine.lab.bench.gpu import tuning
from engine.lab.bench.gpu.kernels import Bench, measure_kernels
from engine.lab.bench.gpu.operations import BUILDS, build, operations
from engine.lab.bench.gpu.timing import Stopwatch
from engine.lab.bench.gpu.tuning import Search, distance, measure_tuning, neighbours, tensors_of
from engine.lab.rates import Rates
from tests.engine.seeded import DEVICE

pytestmark = pytest.mark.skipif(DEVICE.type != "cpu", reason="about the interpreter")
OPERATIONS = operations()


def bench(*names: str) -> Bench:
    return Bench(
        device=DEVICE,
        dtype=torch.bfloat16,
        rates=Rates(copy=4e9, matrix=1e12, dtype="bfloat16"),
        bandwidth=8e9,
        path="triton",
        is_small=True,
        names=names,
    )


def test_every_operation_with_cases_is_measured() -> None:
    """One that is missing needs an entry in BUILDS that says how its tensors look."""
    assert set(OPERATIONS) <= set(BUILDS)
    assert {"skinny_gemm", "row_attention", "head_reading"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_torch_computes_the_same_as_what_it_is_compared_with(operation: str) -> None:
    compared = 0
    for case in OPERATIONS[operation].CASES.values():
        if case.is_large or (call := build(operation, case, DEVICE, torch.float32)) is None:
            continue
        assert call.bytes > 0
        if call.peer is None:
            continue
        theirs = tensors_of(call.peer())
        ours = tensors_of(call.run())
        assert distance(ours, theirs) < 1e-4
        compared += 1
    assert compared


def test_bytes_are_what_has_to_be_moved() -> None:
    gemm = build("skinny_gemm", skinny_gemm.CASES["odd, bias"], DEVICE, torch.bfloat16)
    assert gemm is not None
    assert gemm.bytes == 2 * (5 * 97 + 71 * 97 + 71 + 5 * 71)
    assert gemm.flops == 2 * 5 * 97 * 71
    cases = OPERATIONS["row_attention"].CASES
    attention = build("row_attention", cases["several requests"], DEVICE, torch.bfloat16)
    assert attention is not None
    rows = 3 + 1 + 8 + 6
    assert attention.bytes == 2 * 2 * 2 * 16 * (40 + 16 + 1) + 2 * rows * (2 * 4 * 16 + 2 * 2 * 16)
    norm = build("rms_norm", rms_norm.CASES["odd"], DEVICE, torch.bfloat16)
    assert norm is not None
    assert norm.bytes == 2 * (4 * 5 * 97 + 97)


def test_kernels_are_timed_with_their_shares() -> None:
    found = [*measure_kernels(bench("swiglu", "rms_norm"))]
    assert {each["operation"] for each in found} == {"swiglu", "rms_norm"}
    for each in found:
        assert each["path"] == "triton"
        rate = each["bytes"] / each["cold"] * 1000
        assert each["of_copy"] == pytest.approx(rate / 4e9)
        assert each["of_datasheet"] == pytest.approx(rate / 8e9)
        assert each["peer_cold"] > 0


def test_a_kernel_that_fails_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_joint: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of registers")

    monkeypatch.setattr(swiglu, "swiglu_triton", fail)
    found = [*measure_kernels(bench("swiglu"))]
    assert {each["error"] for each in found} == {"RuntimeError: out of registers"}
    (tuned,) = measure_tuning(bench("swiglu"))
    assert tuned["error"] == "RuntimeError: out of registers"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_choice_is_what_the_kernel_is_launched_with(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is chosen arrives at the launch, and the module is as before afterwards."""
    module = OPERATIONS[operation]
    launched: list[dict[str, Any]] = []
    plain = module.launch

    def launch(*arguments: Any, **constants: Any) -> None:
        launched.append(constants)
        plain(*arguments, **constants)

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(tuning, "_TABLE_TRIES_MAX", 3)
    monkeypatch.setattr(tuning, "_SPLITS", (1, 2))
    before = {name: getattr(module, name) for name in dir(module)}
    entries = [*measure_tuning(bench(operation))]
    assert {name: getattr(module, name) for name in before} == before
    if operation == "rotary_write":
        assert not entries  # it has nothing to choose
        return
    (found,) = entries
    assert found["start_ms"] > 0
    assert found["best_ms"] <= found["start_ms"]
    assert found["best"] in [each["choice"] for each in found["tried"]]
    for choice in (each["choice"] for each in found["tried"][1:]):
        for name in ("warps", "stages", "splits", "block"):
            if name in choice:
                key = {"splits": "SPLITS", "block": "BLOCK"}.get(name, name)
                assert any(each.get(key) == choice[name] for each in launched), choice


def test_torch_has_nothing_to_choose() -> None:
    on_processor = Bench(
        device=DEVICE,
        dtype=torch.bfloat16,
        rates=Rates(copy=1.0, matrix=1.0, dtype="bfloat16"),
        bandwidth=None,
        is_small=True,
    )
    assert on_processor.runs == "torch"
    assert not [*measure_tuning(on_processor)]


def search_of(operation: str, case: Any) -> Search:
    call = build(operation, case, DEVICE, torch.bfloat16)
    assert call is not None
    return Search(bench(), operation, call)


@pytest.fixture
def timed_by_config(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A skinny GEMM takes 1 ms with 128 outputs, 2 warps and the splits of its own, else more."""

    def cold(_watch: Stopwatch, _run: Any) -> float:
        config = skinny_gemm.CONFIGS[80][16]
        far = abs(config.outputs - 128) / 64 + abs(config.warps - 2)
        return 1.0 + far + (skinny_gemm.skinny_gemm_triton is not plain)

    plain = skinny_gemm.skinny_gemm_triton
    monkeypatch.setattr(Stopwatch, "cold", cold)
    return


@pytest.mark.usefixtures("timed_by_config")
def test_the_search_finds_the_fastest_entry() -> None:
    search = search_of("skinny_gemm", skinny_gemm.CASES["one row"])
    search.run()
    assert search.start["ms"] == 4.0
    assert search.best["ms"] == 1.0
    assert (search.best["choice"]["outputs"], search.best["choice"]["warps"]) == (128, 2)
    assert "splits" not in search.best["choice"]
    assert any("splits" in each["choice"] for each in search.tried)


def test_a_choice_that_computes_something_else_is_never_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = swiglu.swiglu_triton

    def wrong(joint: torch.Tensor) -> torch.Tensor:
        return plain(joint) * (0.5 if swiglu._BLOCK == 256 else 1.0)

    def cold(_watch: Stopwatch, _run: Any) -> float:
        return 1.0 if swiglu._BLOCK == 256 else 2.0

    monkeypatch.setattr(swiglu, "swiglu_triton", wrong)
    monkeypatch.setattr(Stopwatch, "cold", cold)
    search = search_of("swiglu", swiglu.CASES["odd"])
    search.run()
    assert search.best["ms"] == 2.0
    (refused,) = (each for each in search.tried if each["choice"].get("block") == 256)
    assert refused["ms"] is None
    assert "off by" in refused["why"]


def test_a_choice_that_the_card_refuses_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = swiglu.swiglu_triton

    def limited(joint: torch.Tensor) -> torch.Tensor:
        if swiglu._BLOCK > 1024:
            raise RuntimeError("out of resource: shared memory")
        return plain(joint)

    monkeypatch.setattr(swiglu, "swiglu_triton", limited)
    search = search_of("swiglu", swiglu.CASES["odd"])
    search.run()
    refused = [each for each in search.tried if "shared memory" in each["why"]]
    assert [each["choice"]["block"] for each in refused] == [2048, 4096]
    assert search.best["ms"] is not None


def test_neighbours_differ_in_one_field_and_stay_within_bounds() -> None:
    config = skinny_gemm.CONFIGS[80][16]
    found = [*neighbours(config)]
    assert len(found) == len(set(found)) == 8
    for each in found:
        names = ("outputs", "depth", "warps", "stages")
        assert sum(getattr(each, name) != getattr(config, name) for name in names) == 1
    small = type(config)(outputs=16, depth=16, warps=1, stages=1)
    assert all(
        each.outputs >= 16 and each.warps >= 1 and each.stages >= 1 for each in neighbours(small)
    )


def test_a_stopwatch_without_a_card_reads_the_clock() -> None:
    with forced("torch"):
        found = Stopwatch(DEVICE, repeats=3).time(lambda: None)
    assert found.by == "clock"
    assert found.cold == found.warm >= 0


class Events:
    """Stands for a card's clock: work takes its time when it is queued, and events note it."""

    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Events.now

    def elapsed_time(self, end: Events) -> float:
        return end.at - self.at


class Graph:
    """Stands for a CUDA graph: notes the work that is queued while it is captured."""

    def __init__(self) -> None:
        self.milliseconds = 0.0

    def replay(self) -> None:
        Events.now += self.milliseconds


@contextmanager
def capturing(graph: Graph) -> Iterator[None]:
    began = Events.now
    yield
    graph.milliseconds, Events.now = Events.now - began, began


@pytest.fixture
def feigned_card(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """torch.cuda with a clock of its own; returns what is written to flush the cache, in ms."""
    flushed: list[float] = []

    class Flushed:
        def zero_(self) -> None:
            flushed.append(Events.now)
            Events.now += 100.0

    monkeypatch.setattr(torch, "empty", lambda *_, **__: Flushed())
    for name, new in (("Event", Events), ("CUDAGraph", Graph), ("graph", capturing)):
        monkeypatch.setattr(torch.cuda, name, new)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _=None: None)
    return flushed


def test_a_card_is_timed_by_events_cold_and_in_a_graph(feigned_card: list[float]) -> None:
    """Work takes 3 ms after the cache was flushed, and 1 ms at once after other work."""
    last = [0.0]

    def work() -> None:
        cold = bool(feigned_card) and feigned_card[-1] >= last[0]
        last[0] = Events.now
        Events.now += 3.0 if cold else 1.0

    found = Stopwatch(torch.device("cuda"), repeats=5).time(work)
    assert len(feigned_card) == 5
    assert (found.cold, found.warm, found.by) == (3.0, 1.0, "graph")


def test_what_cannot_be_captured_is_timed_by_calls(
    feigned_card: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refusing(_graph: Graph) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    def work() -> None:
        Events.now += 2.0

    monkeypatch.setattr(torch.cuda, "graph", refusing)
    found = Stopwatch(torch.device("cuda"), repeats=5).time(work)
    assert (found.warm, found.by) == (2.0, "calls")
