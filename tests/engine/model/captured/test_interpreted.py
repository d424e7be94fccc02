"""A whole step made of the kernels themselves: interpreted on a processor, compiled and captured on
a card. It gives what the clear runner gives."""

from __future__ import annotations

import pytest
import torch

import engine.kernels.dispatch
from engine.api import Sampling
from engine.kernels.dispatch import forced
from engine.model.captured.runner import CapturedRunner
from engine.model.runner import ModelRunner
from engine.step import Step, chain, chain_with_groups, joined
from tests.engine.model.captured.test_equal import LENGTHS, assert_alike, filled
from tests.engine.subjects import subject
from tests.engine.test_laws import ROUNDING

OPERATIONS = {"head_reading", "rms_norm", "rotary_write", "row_attention", "skinny_gemm", "swiglu"}


def small_steps(masks: tuple[int, ...]) -> list[Step]:
    """A step of two sequences with a group, and one of a single row."""
    if masks:
        hung = chain_with_groups((5, 6), LENGTHS[0], [(1, masks)], shifts=True, drafter=True)
    else:
        hung = chain_with_groups((5, 6), LENGTHS[0], [(1, (3, 3))], shifts=False)
    beside = chain((8, 9), LENGTHS[1], read=(1,), sequence=1)
    return [joined([hung, beside]), chain((5,), LENGTHS[0], read=(0,))]


@pytest.mark.parametrize("name", ["small", "adapted"])
def test_a_step_of_kernels_is_read_as_a_clear_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear, tried = subject(name, "float32"), subject(name, "captured float32")
    assert isinstance(clear.model, ModelRunner)
    assert isinstance(tried.model, CapturedRunner)
    caches = filled(clear.model), filled(tried.model)
    launched: set[str] = set()

    def announce(operation: str, path: str, why: str) -> None:
        if path == "triton":
            launched.add(operation)

    monkeypatch.setattr(engine.kernels.dispatch, "_announce", announce)
    for step in small_steps(tried.traits.draft_masks):
        expected = clear.model(step, caches[0], Sampling())
        logits = clear.model.logits(step, caches[0])
        with forced("triton"):
            assert_alike(tried.model(step, caches[1], Sampling()), expected)
            torch.testing.assert_close(tried.model.logits(step, caches[1]), logits, **ROUNDING)
    assert launched == OPERATIONS | ({"row_lora"} if name == "adapted" else set())
