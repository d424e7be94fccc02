"""The choice of a product for a machine: it is kept and read again, and always exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

import engine.model.onnx.probe as probing
from engine.config import EngineSettings
from engine.model.onnx.plan import Product
from engine.model.onnx.probe import CANDIDATES, MachineProbe, ProductTimes, is_exact, probe
from engine.model.onnx.products import Linear
from engine.model.onnx.runtime import plan_for
from tests.engine.seeded import CONFIG

LARGE = replace(CONFIG, vocabulary=2_000_000)
FILE = "machine.json"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the measurement: int8 is faster. Returns the thread counts of the calls so far."""
    calls: list[int] = []

    def fake(threads: int) -> list[ProductTimes]:
        calls.append(threads)
        return [
            ProductTimes("uint8", True, (2.0, 4.0, 16.0), 65.0),
            ProductTimes("int8", True, (1.0, 2.0, 8.0), 65.0),
        ]

    monkeypatch.setattr(probing, "_tried", fake)
    return calls


def test_the_answer_is_kept_for_the_processor_and_its_threads(
    tried: list[int], tmp_path: Path
) -> None:
    first = probe(1, tmp_path / "graphs")
    assert [times.product for times in first.products] == ["int8", "uint8"]
    assert probe(1, tmp_path / "graphs") == first
    assert tried == [1]
    assert probe(2, tmp_path / "graphs").key != first.key
    assert tried == [1, 2]
    probe(1)  # nowhere to keep it
    assert tried == [1, 2, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: "",
        lambda stored: "[]",
        lambda stored: json.dumps(stored)[:50],
        lambda stored: json.dumps({**stored, "format": 0}),
        lambda stored: json.dumps({**stored, "products": []}),
        lambda stored: json.dumps({**stored, "products": "int8"}),
        lambda stored: json.dumps({**stored, "products": [{"product": "int8"}]}),
        lambda stored: json.dumps(
            {**stored, "products": [{**each, "product": "int4"} for each in stored["products"]]}
        ),
        lambda stored: json.dumps(
            {**stored, "products": [{**each, "is_exact": False} for each in stored["products"]]}
        ),
        lambda stored: json.dumps(
            {**stored, "products": [{**each, "milliseconds": [1]} for each in stored["products"]]}
        ),
    ],
)
def test_a_broken_file_is_measured_over(tried: list[int], tmp_path: Path, damage) -> None:
    first = probe(1, tmp_path)
    file = tmp_path / FILE
    file.write_text(damage(json.loads(file.read_text())))
    assert probe(1, tmp_path) == first
    assert tried == [1, 1]
    assert probe(1, tmp_path) == first
    assert tried == [1, 1]


def test_a_folder_that_cannot_be_written_to_is_no_failure(
    tried: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    settings = EngineSettings(device="cpu", graphs=tmp_path / "file" / "graphs")
    assert plan_for(LARGE, settings, 1).product == "int8"
    assert "cannot be written" in caplog.text


def test_an_inexact_product_is_never_chosen_however_fast() -> None:
    fast = ProductTimes("int8", False, (0.1, 0.1, 0.1), 65.0)
    slow = ProductTimes("uint8", True, (9.0, 9.0, 9.0), 65.0)
    assert MachineProbe("here", (fast, slow)).best == slow


def test_a_saturating_product_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """x86 without VNNI adds pairs of products in 16 bits. A graph with a bounded result simulates
    this, and only the other candidate remains."""
    write = Linear.write

    def saturating(self: Linear, name: str, x: str, weight, bias=None) -> str:
        out = write(self, name, x, weight, bias)
        if self._product != "int8":
            return out
        writer = self._writer
        writer.constant(f"{name}.most", numpy.float32(200.0))
        return writer.node("Min", [out, f"{name}.most"], f"{name}.bounded")

    monkeypatch.setattr(Linear, "write", saturating)
    monkeypatch.setattr(probing, "_times", lambda product, *_: times[product])
    times: dict[Product, tuple[float, ...]] = {"int8": (1.0, 1.0, 1.0), "uint8": (9.0, 9.0, 9.0)}
    found = probe(1)
    assert {each.product for each in found.products if each.is_exact} == {"uint8"}
    assert found.best.product == "uint8"
    assert plan_for(LARGE, EngineSettings(device="cpu", graphs=tmp_path), 1).product == "uint8"
    assert plan_for(LARGE, EngineSettings(device="cpu", graphs=tmp_path), 1).half_cache


def test_unsigned_products_are_exact_on_every_processor(tmp_path: Path) -> None:
    assert is_exact("uint8", tmp_path, 1)


def test_the_products_are_tried_in_earnest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_SHAPES", ((64, 32), (32, 64)))
    found = probe(1)
    assert {each.product for each in found.products} == set(CANDIDATES)
    for each in found.products:
        assert len(each.milliseconds) == 3
        assert min(each.milliseconds) > 0
    costs = [each.cost for each in found.products]
    assert costs == sorted(costs)
    assert found.row_step_ms(1000) > 0


def test_small_models_are_float32_and_nothing_is_tried(tried: list[int]) -> None:
    plan = plan_for(CONFIG, EngineSettings(device="cpu"), 1)
    assert (plan.product, plan.half_cache) == ("float32", False)
    assert plan_for(CONFIG, EngineSettings(device="cpu", dtype="int8"), 1).product == "int8"
    assert plan_for(LARGE, EngineSettings(device="cpu", dtype="float32"), 1).product == "float32"
    assert tried == [1]
