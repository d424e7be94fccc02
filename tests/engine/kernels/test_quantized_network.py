"""A whole network whose matrices stay quantised, through the kernels: as near to the fp32 truth as
torch is with the same weights in the same dtype."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.kernels.block_gemm import block_gemm
from engine.kernels.dispatch import forced
from engine.kernels.int8_gemm import int8_gemm
from engine.model import quantized_linear
from engine.model.checkpoint import build_network, save_checkpoint
from engine.model.config import ModelConfig, read_config
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.source import open_weights
from engine.model.weights import Weights
from tests.engine.gguf_files import write_quantized
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE, causal_logits, seeded_network

TOKENS = (5, 17, 60, 33, 8)
KINDS = ("Q4_K", "Q4_K", "Q6_K", "Q5_0", "Q8_0")


@pytest.fixture
def through_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a processor, Triton's interpreter computes what a card would."""
    monkeypatch.setattr(quantized_linear, "_operations", lambda device: (block_gemm, int8_gemm))
    with forced("triton"):
        yield


def check(weights: Weights, config: ModelConfig) -> None:
    def logits(dtype: torch.dtype, *, quantized: bool) -> torch.Tensor:
        network = build_network(weights, config, device=DEVICE, dtype=dtype, quantized=quantized)
        assert quantized_linear.is_quantized(network) == quantized
        return causal_logits(network, TOKENS)

    truth = logits(torch.float32, quantized=False).double()
    ours = logits(torch.bfloat16, quantized=True)
    assert_near(ours, logits(torch.bfloat16, quantized=False), truth)


@pytest.mark.usefixtures("through_kernels")
def test_a_file_of_blocks(tmp_path: Path) -> None:
    """Qwen, for its biases; the last type of the mix is the head's."""
    path = write_quantized(tmp_path / "m.gguf", "qwen2", KINDS, num_hidden_layers=1)
    config = gguf_config(read_gguf(path))
    check(open_weights(path, config), config)


@pytest.mark.usefixtures("through_kernels")
def test_a_folder_of_int8(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, seeded_network(), weights="int8")
    config = read_config(tmp_path)
    check(open_weights(tmp_path, config), config)
