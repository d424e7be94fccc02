"""A bucket's function can be captured, as far as that can be told without a card: on tensors that
have shapes and no content, it asks for no content, and its shapes fit.

A capture fails where the host has to know a value: `item`, `nonzero`, a mask as an index. Torch's
fake tensors refuse the same. The kernels are launched by nobody here; what surrounds them is real.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from engine.kernels.dispatch import forced
from engine.kernels.row_attention import row_attention_torch
from engine.model.captured.buckets import Bucket
from engine.model.captured.forward import Buffers, StepFunction
from engine.model.captured.runner import CapturedRunner
from engine.model.captured.steps import CapturedSteps
from tests.engine.model.captured.test_equal import filled
from tests.engine.seeded import DEVICE
from tests.engine.subjects import subject

OPERATIONS = (
    "head_reading",
    "rms_norm",
    "rotary_write",
    "row_attention",
    "row_lora",
    "swiglu",
    "tile_attention",
)
BUCKETS = [
    Bucket(16, 1),
    Bucket(16, 1, 16),
    Bucket(64, 8, 16),
    Bucket(128, 8, 128),
    Bucket(128, 1, 128, is_adapted=True, draft_depth=8),
    Bucket(32, 1, 16, is_adapted=True, draft_depth=32),
    Bucket(32, 1, 32, parts=4),
]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels that were launched, which do nothing."""
    kernels: list[Any] = []

    def launch(kernel: Any, *rest: object, **options: object) -> None:
        kernels.append(kernel)

    for name in (*OPERATIONS, "skinny_gemm"):
        monkeypatch.setattr(sys.modules[f"engine.kernels.{name}"], "launch", launch)
    return kernels


def hollow(mode: FakeTensorMode, holder: Any) -> Any:
    """A copy of a dataclass or of `Inputs` whose tensors have no content."""
    if isinstance(holder, Tensor):
        return mode.from_tensor(holder)
    if hasattr(holder, "__dataclass_fields__"):
        return replace(
            holder,
            **{each.name: hollow(mode, getattr(holder, each.name)) for each in fields(holder)},
        )
    if hasattr(holder, "plan"):
        names = ("tokens", "positions", "slots", "flags", "reads", "follows", "plan")
        return SimpleNamespace(**{name: hollow(mode, getattr(holder, name)) for name in names})
    return holder


def function_of(mode: FakeTensorMode, bucket: Bucket) -> StepFunction:
    # The small one scales queries, the adapted one has biases and an adapter.
    model = subject("adapted" if bucket.is_adapted else "small", "captured float32").model
    assert isinstance(model, CapturedRunner)
    buffers: Buffers = hollow(
        mode, CapturedSteps(model._weights, filled(model))._made(bucket).buffers
    )
    return StepFunction(model._weights, bucket, buffers)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a card captures really")
@pytest.mark.parametrize("bucket", BUCKETS, ids=str)
def test_the_function_of_a_bucket_asks_for_no_content(bucket: Bucket, launched: list[Any]) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    function = function_of(mode, bucket)
    with mode, forced("triton"):
        function()
    assert len(launched) > 10


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a card captures really")
def test_a_function_that_asks_is_found_out(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any]
) -> None:
    """Such as the reference of row attention, which is for processors."""
    monkeypatch.setattr("engine.model.captured.forward.row_attention", row_attention_torch)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    function = function_of(mode, BUCKETS[0])
    with mode, forced("triton"), pytest.raises(DataDependentOutputException):
        function()
