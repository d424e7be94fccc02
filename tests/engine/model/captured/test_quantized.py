"""Captured steps of networks whose matrices stay quantised emit what clear ones emit."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.api import CAUSAL_MODES, Limits, Request, Sampling
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.decoders.strategy import Traits
from engine.drafting import DraftHead
from engine.kernels.block_gemm import _block_gemm_kernel, block_gemm
from engine.kernels.dispatch import forced
from engine.model import quantized_linear
from engine.model.captured.buckets import Bucket
from engine.model.captured.forward import StepFunction
from engine.model.captured.runner import CapturedRunner
from engine.model.captured.steps import CapturedSteps
from engine.model.checkpoint import build_network, save_checkpoint
from engine.model.config import read_config
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.quantized_linear import QuantizedLinear, is_quantized
from engine.model.runner import ModelRunner
from engine.model.source import open_weights
from tests.engine.adapted import adapted_network, adapter_weights, mask_tokens, torch_adapter
from tests.engine.gguf_files import write_quantized
from tests.engine.model.captured.test_capturable import OPERATIONS, hollow
from tests.engine.seeded import DEVICE, TRAITS
from tests.engine.subjects import Subject

KINDS = ("Q4_K", "Q4_K", "Q6_K", "F32")  # of a layer's projections of one input, some are quantised


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mode", CAUSAL_MODES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_file_of_blocks_emits_the_same(
    tmp_path: Path, mode: str, temperature: float, tied: bool
) -> None:
    path = write_quantized(tmp_path / "m.gguf", "qwen2", KINDS, tie_word_embeddings=tied)
    config = gguf_config(read_gguf(path))
    network = build_network(
        open_weights(path, config), config, device=DEVICE, dtype=torch.float32, quantized=True
    )
    assert isinstance(network.diffusion_head, QuantizedLinear) == tied
    prompt = tuple(range(20, 40)) * 2
    request = Request(prompt, mode, Limits(12), Sampling(temperature, seed=3))
    clear, captured = (
        Subject("float32", runner(network, device=DEVICE), TRAITS, (prompt,)).run(request)[-1]
        for runner in (ModelRunner, CapturedRunner)
    )
    assert captured.progress.committed == clear.progress.committed
    assert captured.progress.confidences == pytest.approx(clear.progress.confidences, rel=1e-3)
    assert captured.forwards == clear.forwards


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a card captures really")
@pytest.mark.parametrize("rows", [16, 128])
def test_such_a_step_can_be_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """As in `test_capturable.py`: nothing asks for a value on the host, from the embedding to the
    head, which a tied file has quantised."""
    launched: list[Any] = []
    for name in (*OPERATIONS, "skinny_gemm", "block_gemm"):
        module = import_module(f"engine.kernels.{name}")
        monkeypatch.setattr(module, "launch", lambda kernel, *rest, **_: launched.append(kernel))
    monkeypatch.setattr(quantized_linear, "_operations", lambda device: (block_gemm, None))
    path = write_quantized(tmp_path / "m.gguf", "qwen2", KINDS, tie_word_embeddings=True)
    config = gguf_config(read_gguf(path))
    network = build_network(
        open_weights(path, config), config, device=DEVICE, dtype=torch.bfloat16, quantized=True
    )
    bucket, mode = Bucket(rows, 1, rows), FakeTensorMode(allow_non_fake_inputs=True)
    runner = CapturedRunner(network, device=DEVICE)
    cache = KVCache(CacheShape.of(config), 512, device=DEVICE, dtype=torch.bfloat16)
    buffers = hollow(mode, CapturedSteps(runner._weights, cache)._made(bucket).buffers)
    with mode, forced("triton"):
        StepFunction(runner._weights, bucket, buffers)()
    products = [kernel for kernel in launched if kernel is _block_gemm_kernel]
    assert len(products) > config.layers


@pytest.mark.parametrize("mode", ["pruned_spec", "linear_spec"])
def test_drafts_of_a_mask_adapter_are_read_of_an_int8_head(tmp_path: Path, mode: str) -> None:
    network = adapted_network()
    save_checkpoint(tmp_path, network, weights="int8")
    config = read_config(tmp_path)
    weights, masks = adapter_weights(), mask_tokens()
    network = build_network(
        open_weights(tmp_path, config), config, device=DEVICE, dtype=torch.float32, quantized=True
    )
    assert is_quantized(network)
    traits = Traits(None, has_drafter=True, draft_masks=masks)
    head = DraftHead(weights.draft_ids, weights.before, weights.after)
    adapter = torch_adapter(torch.float32, DEVICE)
    prompt = tuple(range(20, 50)) * 2
    request = Request(prompt, mode, Limits(12))
    clear, captured = (
        Subject(
            "float32",
            runner(network, device=DEVICE, adapter=adapter, drafts=head),
            traits,
            (prompt,),
        ).run(request)[-1]
        for runner in (ModelRunner, CapturedRunner)
    )
    assert captured.progress.committed == clear.progress.committed
    assert (captured.forwards, captured.rows) == (clear.forwards, clear.rows)
