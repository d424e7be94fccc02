"""Captured steps that do not work on a machine are found before a request meets them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.api import Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.kernels.tile_attention import tile_attention
from engine.kernels.tile_plan import TilePlan
from engine.model.captured.forward import StepFunction
from engine.model.captured.runner import CapturedRunner
from engine.model.captured.trial import fault
from engine.model.runner import ModelRunner
from engine.model.torch_runtime import TorchRuntime
from tests.engine.subjects import KINDS, subject
from tests.tiny import write_tiny_checkpoint

CALL = StepFunction.__call__


def fails(function: StepFunction) -> None:
    raise RuntimeError("no kernel image is available")


def is_no_number(function: StepFunction) -> None:
    CALL(function)
    function._buffers.records.fill_(float("nan"))


def reads_the_wrong_row(function: StepFunction) -> None:
    CALL(function)
    function._buffers.records.copy_(function._buffers.records.roll(1, 0))


def works_once() -> Callable[[StepFunction], None]:
    calls: list[int] = []

    def call(function: StepFunction) -> None:
        CALL(function)
        calls.append(1)
        if len(calls) > 1:
            function._buffers.records.zero_()

    return call


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    return EngineSettings(
        checkpoint, "cpu", "float32", threads=1, cache_tokens=512, backend="torch", steps="captured"
    )


def text(settings: EngineSettings) -> tuple[str, type[ModelRunner]]:
    engine = Engine.load(settings)
    try:
        runtime = engine._runtime
        assert isinstance(runtime, TorchRuntime)
        return engine.generate(Request((5, 6, 7), "ar", Limits(8))).text, type(runtime.model)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("captured")])
@pytest.mark.parametrize("name", ["small", "adapted"])
def test_those_that_work_have_no_fault(name: str, kind: str) -> None:
    model = subject(name, kind).model
    assert isinstance(model, CapturedRunner)
    assert fault(model, exact=False) is None
    assert fault(model, exact=True) is None


@pytest.mark.parametrize("broken", [fails, is_no_number, reads_the_wrong_row, works_once()])
def test_those_that_do_not_are_left_to_clear_steps_and_it_is_said(
    settings: EngineSettings,
    broken: Callable[[StepFunction], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, kind = text(settings)
    assert kind is CapturedRunner
    assert not caplog.records
    monkeypatch.setattr(StepFunction, "__call__", broken)
    with caplog.at_level(logging.WARNING):
        assert text(settings) == (wanted, ModelRunner)
    assert "captured steps do not work on this machine" in caplog.text
    assert text(replace(settings, steps="clear")) == (wanted, ModelRunner)


def zeros_in_several_parts(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    out = tile_attention(query, new, store, plan)
    return out if plan.parts == 1 else torch.zeros_like(out)


def zeros_in_the_second_half(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    out = tile_attention(query, new, store, plan)
    out[len(out) // 2 :] = 0
    return out


def forgets_earlier_tiles(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    """Takes their rows' keys and values for zeros."""
    own = torch.zeros_like(new)
    _, _, count, _, at = plan.tiles[0].tolist()
    before = int(plan.tiles[0, 1] - plan.lengths[0])
    rows = plan.path[at + before : at + before + count].long()
    own[rows] = new[rows]
    return tile_attention(query, own, store, plan)


def does_not_fit(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    "broken",
    [zeros_in_several_parts, zeros_in_the_second_half, forgets_earlier_tiles, does_not_fit],
)
def test_where_only_tiles_do_not_work_clear_steps_serve_exact_requests(
    settings: EngineSettings,
    broken: Callable[[Tensor, Tensor, Tensor, TilePlan], Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exact_text() -> str:
        engine = Engine.load(settings)
        try:
            runtime = engine._runtime
            assert isinstance(runtime, TorchRuntime)
            assert isinstance(runtime.model, CapturedRunner), "others are served by captured steps"
            return engine.generate(Request((5, 6, 7), "ar", Limits(8), exact=True)).text
        finally:
            engine.close()

    wanted = exact_text()
    assert not caplog.records
    monkeypatch.setattr("engine.model.captured.forward.tile_attention", broken)
    with caplog.at_level(logging.WARNING):
        assert exact_text() == wanted
    assert "clear steps serve exact requests" in caplog.text
