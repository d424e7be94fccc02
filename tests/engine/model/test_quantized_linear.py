"""Matrices that stay quantised in memory: a network that has them emits what a network of
dequantised weights emits, from GGUF files of every type and from int8 folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.api import CAUSAL_MODES, Limits, Request, Sampling
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import MemoryExhausted
from engine.kernels.blocks import TYPES
from engine.model import checkpoint, source
from engine.model.checkpoint import build_network, load_network, save_checkpoint
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.quantized_linear import (
    BlockMatrix,
    QuantizedEmbedding,
    QuantizedLinear,
    is_quantized,
    kept,
)
from engine.model.runner import ModelRunner
from engine.model.source import CheckpointSource, open_checkpoint, open_weights
from engine.model.tokenizer import Tokenizer
from tests.engine.gguf_files import write_quantized
from tests.engine.seeded import DEVICE, TRAITS, causal_logits, seeded_network
from tests.engine.subjects import Subject
from tests.tiny import byte_tokenizer, write_tiny_checkpoint

VOCABULARY = 320
# As llama.cpp's converter mixes them: Q4_K_M, and what it takes where rows hold no superblocks.
MIXES = {
    "Q4_K_M": ("Q4_K", "Q4_K", "Q6_K"),
    "Q5_K_M": ("Q5_K", "Q5_K", "Q6_K"),
    "small": ("Q5_0", "Q8_0", "Q6_K", "Q4_K"),
    "Q4_0, and types that are dequantised": ("Q4_0", "F32", "Q4_1"),
}


@pytest.fixture(autouse=True)
def a_byte_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files have none of their own."""

    def tokenizer(metadata: Any, path: str) -> Tokenizer:
        return byte_tokenizer(infilling=False)

    monkeypatch.setattr(source, "tokenizer_from_gguf", tokenizer)


def write(path: Path, mix: str, architecture: str = "qwen2", *, tied: bool = False) -> Path:
    """A file whose matrices are of the types of a mix, in turn, with seeded blocks."""
    config = {"vocab_size": VOCABULARY, "tie_word_embeddings": tied}
    return write_quantized(path, architecture, MIXES[mix], **config)


def network_of(opened: CheckpointSource, dtype: torch.dtype, *, quantized: bool) -> Network:
    return build_network(
        opened.weights, opened.config, device=DEVICE, dtype=dtype, quantized=quantized
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("mix", MIXES)
def test_a_quantised_network_computes_what_the_dequantised_one_computes(
    tmp_path: Path, mix: str, architecture: str, tied: bool, dtype: torch.dtype
) -> None:
    """Qwen's biases and Llama's reordered rows included. On a processor to the bit, since both
    multiply by the same rounded weights."""
    opened = open_checkpoint(write(tmp_path / "model.gguf", mix, architecture, tied=tied))
    ours, plain = (network_of(opened, dtype, quantized=each) for each in (True, False))
    assert is_quantized(ours)
    assert not is_quantized(plain)
    tokens = tuple(range(5, 60, 2))
    found, expected = causal_logits(ours, tokens), causal_logits(plain, tokens)
    assert found.dtype == dtype
    if DEVICE.type == "cpu":
        assert torch.equal(found, expected)
    else:
        limit = 1e-4 if dtype == torch.float32 else 0.05
        assert float((found - expected).float().norm() / expected.float().norm()) < limit


@pytest.mark.parametrize("mode", CAUSAL_MODES)
@pytest.mark.parametrize("exact", [False, True])
def test_generation_with_quantised_weights_emits_the_same_tokens(
    tmp_path: Path, mode: str, exact: bool
) -> None:
    """In fp32, through steps, cache and strategies."""
    opened = open_checkpoint(write(tmp_path / "model.gguf", "Q4_K_M"))
    prompt = tuple(range(20, 40)) * 2  # longer than a tile of exact mode, and repeating itself
    request = Request(prompt, mode, Limits(12), Sampling(0.8, seed=3), exact=exact)
    texts = []
    for quantized in (True, False):
        network = network_of(opened, torch.float32, quantized=quantized)
        model = ModelRunner(network, device=DEVICE)
        found = Subject("float32", model, TRAITS, (prompt,))
        texts.append(found.run(request)[-1].progress.committed)
    assert texts[0] == texts[1]
    assert len(texts[0]) == 12


@pytest.mark.parametrize("mode", CAUSAL_MODES)
def test_an_engine_serves_a_file_as_it_is(tmp_path: Path, mode: str) -> None:
    """From settings to text. A processor takes the dequantised weights unless it is told to."""
    path = write(tmp_path / "model.gguf", "Q4_K_M")
    settings = EngineSettings(
        path, device=DEVICE.type, dtype="float32", threads=1, backend="torch", quantized=False
    )
    texts: dict[bool | None, str] = {}
    programs: dict[bool | None, str] = {}
    for quantized in (True, False, None):
        engine = Engine.load(replace(settings, quantized=quantized))
        try:
            prompt = tuple(engine.tokenizer.encode("def f(x):\n    return x"))
            texts[quantized] = engine.generate(Request(prompt, mode, Limits(16))).text
            programs[quantized] = engine.info.program
        finally:
            engine.close()
    assert texts[True] == texts[False] == texts[None]
    assert "quantised" in programs[True]
    assert "quantised" not in programs[False]
    assert programs[None] == programs[DEVICE.type == "cuda"]


def test_modules_take_the_place_of_the_networks_own(tmp_path: Path) -> None:
    """Those of quantised matrices alone: other types, norms and biases are loaded as ever."""
    mix = "Q4_0, and types that are dequantised"
    opened = open_checkpoint(write(tmp_path / "model.gguf", mix, tied=True))
    network = network_of(opened, torch.bfloat16, quantized=True)
    assert isinstance(network.encoder.embed_tokens, QuantizedEmbedding)
    assert isinstance(network.diffusion_head, QuantizedLinear)
    assert network.diffusion_head.matrix is network.encoder.embed_tokens.matrix
    attention = network.encoder.layers[0].self_attn
    kinds = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        module = attention.get_submodule(name)
        is_block = isinstance(module, QuantizedLinear) and isinstance(module.matrix, BlockMatrix)
        kinds[name] = module.matrix.blocks.kind if is_block else "dequantised"
    assert set(kinds.values()) == {"Q4_0", "dequantised"}
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.bfloat16, name
        assert parameter.device.type == DEVICE.type, name


def test_memory_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", "Q4_K_M")
    opened = open_checkpoint(path)
    sizes = kept(opened.weights, opened.config)
    network = network_of(opened, torch.float32, quantized=True)
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            assert module.matrix.nbytes == sizes.pop(f"{name}.weight")
    assert not sizes
    stored = sum(kept(opened.weights, opened.config).values())
    assert stored < 1.03 * path.stat().st_size


def test_memory_is_checked_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that fits as it is, and not dequantised."""
    opened = open_checkpoint(write(tmp_path / "model.gguf", "Q4_K_M"))
    needed = sum(kept(opened.weights, opened.config).values()) + 100_000
    monkeypatch.setattr(checkpoint, "free_memory_bytes", lambda device: needed)
    assert is_quantized(network_of(opened, torch.bfloat16, quantized=True))
    with pytest.raises(MemoryExhausted):
        network_of(opened, torch.bfloat16, quantized=False)
    monkeypatch.setattr(checkpoint, "free_memory_bytes", lambda device: needed // 2)
    with pytest.raises(MemoryExhausted):
        network_of(opened, torch.bfloat16, quantized=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_int8_folder_stays_int8(tmp_path: Path, dtype: torch.dtype) -> None:
    save_checkpoint(tmp_path, seeded_network(), weights="int8")
    config = read_config(tmp_path)
    weights = open_weights(tmp_path, config)
    arguments: Any = {"device": DEVICE, "dtype": dtype}
    ours = build_network(weights, config, quantized=True, **arguments)
    plain = load_network(tmp_path, config, **arguments)
    assert isinstance(ours.encoder.layers[1].mlp.down_proj, QuantizedLinear)
    tokens = tuple(range(5, 60))
    found, expected = (causal_logits(each, tokens).float() for each in (ours, plain))
    # In bf16 the dequantised weights are rounded, these are not.
    limit = 1e-5 if dtype == torch.float32 else 0.05
    assert float((found - expected).norm() / expected.norm()) < limit


def test_bf16_files_have_nothing_that_stays_quantised(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path)
    config = read_config(folder)
    assert kept(open_weights(folder, config), config) == {}


def test_every_type_of_the_kernels_is_tried_here() -> None:
    assert set(TYPES) <= {kind for mix in MIXES.values() for kind in mix}
