"""Products with quantised matrices that do not work on a machine are found before a request meets
them, and the weights are multiplied out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.api import Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.kernels.blocks import Blocks, block_gemm_torch
from engine.kernels.int8_rows import int8_gemm_torch
from engine.model import quantized_linear
from engine.model.quantized_linear import QuantizedLinear
from engine.model.quantized_trial import fault
from engine.model.source import open_checkpoint
from tests.engine.model.test_quantized_linear import (
    MIXES,
    a_byte_tokenizer,
    network_of,
    write,
)
from tests.engine.seeded import DEVICE

__all__ = ["a_byte_tokenizer"]

Gemm = Callable[[Tensor, Blocks, Tensor | None], Tensor]


def fails(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    raise RuntimeError("no kernel image is available")


def is_no_number(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    return block_gemm_torch(x, blocks, bias) * torch.nan


def shifts_outputs(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    return block_gemm_torch(x, blocks, bias).roll(1, 1)


def is_wrong_in_a_tile_that_is_not_full(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    out = block_gemm_torch(x, blocks, bias)
    if len(x) > 64 and len(x) % 64:
        out[-1] = 0
    return out


def leaves_out_an_output(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    out = block_gemm_torch(x, blocks, bias)
    out[:, -1] = 0
    return out


def leaves_out_the_bias(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    return block_gemm_torch(x, blocks, None)


def leaves_out_a_block(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    part = x.clone()
    part[:, :32] = 0
    return block_gemm_torch(part, blocks, bias)


def is_wrong_for_one_type(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    out = block_gemm_torch(x, blocks, bias)
    return -out if blocks.kind == "Q6_K" else out


BROKEN = [
    fails,
    is_no_number,
    shifts_outputs,
    is_wrong_in_a_tile_that_is_not_full,
    leaves_out_an_output,
    leaves_out_the_bias,
    leaves_out_a_block,
    is_wrong_for_one_type,
]


@pytest.fixture
def gemm(monkeypatch: pytest.MonkeyPatch) -> Callable[[Gemm], None]:
    """Takes another product for blocks."""

    def take(gemm: Gemm) -> None:
        def operations(device: torch.device) -> tuple[Any, Any]:
            return gemm, int8_gemm_torch

        monkeypatch.setattr(quantized_linear, "_operations", operations)

    return take


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mix", MIXES)
def test_those_that_work_have_no_fault(tmp_path: Path, mix: str, dtype: torch.dtype) -> None:
    opened = open_checkpoint(write(tmp_path / "model.gguf", mix))
    network = network_of(opened, dtype, quantized=True)
    assert any(isinstance(each, QuantizedLinear) for each in network.modules())
    assert fault(network, dtype, DEVICE) is None
    assert fault(network_of(opened, dtype, quantized=False), dtype, DEVICE) is None


@pytest.mark.parametrize("broken", BROKEN)
def test_those_that_do_not_are_left_to_weights_multiplied_out_and_it_is_said(
    tmp_path: Path, broken: Gemm, gemm: Callable[[Gemm], None], caplog: pytest.LogCaptureFixture
) -> None:
    settings = EngineSettings(
        write(tmp_path / "model.gguf", "Q4_K_M"),
        device=DEVICE.type,
        dtype="float32",
        threads=1,
        backend="torch",
        quantized=True,
    )

    def served() -> tuple[str, str]:
        engine = Engine.load(settings)
        try:
            prompt = tuple(engine.tokenizer.encode("def f(x):\n    return x"))
            return engine.generate(Request(prompt, "ar", Limits(12))).text, engine.info.program
        finally:
            engine.close()

    wanted, program = served()
    assert "quantised" in program
    assert not caplog.records
    gemm(broken)
    with caplog.at_level(logging.WARNING):
        text, program = served()
    assert text == wanted
    assert "quantised" not in program
    assert "quantised weights do not work here, they are multiplied out" in caplog.text
