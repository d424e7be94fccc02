"""ggml's blocks: their planes mean what ggml's library reads, to the bit; the kernel that unpacks
them gives the same numbers, and the product is near the fp64 truth."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels.block_gemm import (
    CASES,
    ROWS_MAX,
    Case,
    block_gemm,
    block_gemm_triton,
    unpack_torch,
    unpack_triton,
)
from engine.kernels.blocks import (
    TYPES,
    Blocks,
    block_gemm_torch,
    dequantize,
    empty_blocks,
    fill,
)
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.gguf_weights import GGUFWeights
from tests.engine.gguf_files import random_rows, seeded_blocks
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]
KINDS = list(TYPES)
# One type for each way through the kernel; the tests of single tiles take them all.
FEW = KINDS if DEVICE.type == "cuda" else ["Q5_0", "Q4_K"]


def laid_out(kind: str, stored: np.ndarray, width: int, step: int = 1 << 30) -> Blocks:
    """Stored rows in planes, filled so many rows at a time."""
    blocks = empty_blocks(kind, (len(stored), width), DEVICE)
    for start in range(0, len(stored), step):
        fill(blocks, start, torch.from_numpy(stored[start : start + step].copy()).to(DEVICE))
    return blocks


def inputs(
    kind: str, case: Case, dtype: torch.dtype
) -> tuple[Tensor, Blocks, Tensor | None, Tensor]:
    """x, whose rows are strided, the blocks, a bias, and the entries that ggml's library reads."""
    width = 256 * case.supers + (0 if TYPES[kind].is_super else 32)
    stored = seeded_blocks((case.outputs, width), TensorType[kind], case.supers)
    entries = torch.from_numpy(gguf.dequantize(stored, TensorType[kind])).to(DEVICE)
    generator = torch.Generator().manual_seed(width)
    x = torch.randn((case.rows, width + 5), generator=generator).to(DEVICE, dtype)
    bias = torch.randn((case.outputs,), generator=generator).to(DEVICE, dtype)
    return x[:, :width], laid_out(kind, stored, width), bias if case.has_bias else None, entries


def check(x: Tensor, blocks: Blocks, bias: Tensor | None, entries: Tensor, splits: int | None):
    truth = x.double() @ entries.double().T + (0 if bias is None else bias.double())
    ours = block_gemm_triton(x, blocks, bias, splits)
    assert_near(ours, block_gemm_torch(x, blocks, bias), truth)


@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 3),
    step=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60)
def test_any_bytes_mean_what_ggmls_library_reads(
    kind: str, rows: int, blocks: int, step: int, seed: int
) -> None:
    """Also infinities and NaN; and in no more memory, except for the scales of six bits that
    become bytes."""
    width = blocks * TYPES[kind].columns
    stored = random_rows((rows, width), TensorType[kind], seed)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(stored, TensorType[kind])
    found = laid_out(kind, stored, width, step)
    assert found.shape == (rows, width)
    np.testing.assert_array_equal(dequantize(found).cpu().numpy(), expected)
    some = torch.tensor([rows - 1, 0, 0], device=DEVICE)
    np.testing.assert_array_equal(
        dequantize(found.rows(some)).cpu().numpy(), expected[[rows - 1, 0, 0]]
    )
    spent = 1 / 8 if TYPES[kind].has_minimum else 0
    assert 8 * found.nbytes / (rows * width) == 8 * stored.size / (rows * width) + spent


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_unpacking_gives_the_entries_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    _, blocks, _, entries = inputs(kind, CASES["odd, bias"], dtype)
    unpacked = unpack_triton(blocks, dtype)
    assert unpacked.dtype == dtype
    assert torch.equal(unpacked, entries.to(dtype))
    assert torch.equal(unpack_torch(blocks, dtype), entries.to(dtype))


@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_near_the_truth(kind: str, dtype: torch.dtype, splits: int | None) -> None:
    check(*inputs(kind, CASES["odd, bias"], dtype), splits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("name", TRIED)
def test_every_shape_is_near_the_truth(name: str, kind: str, dtype: torch.dtype) -> None:
    check(*inputs(kind, CASES[name], dtype), None)


def test_the_shapes_reach_both_ways_of_computing() -> None:
    rows = {CASES[name].rows for name in TRIED}
    assert {1, ROWS_MAX} <= rows
    assert max(rows) > ROWS_MAX


def test_the_entries_are_rounded_to_the_dtype_of_the_rows() -> None:
    """As a loader rounds them: so both networks multiply by the same weights."""
    x, blocks, _, entries = inputs("Q6_K", CASES["one row"], torch.bfloat16)
    one_hot = torch.zeros_like(x).contiguous()
    one_hot[0, 77] = 1
    assert not torch.equal(entries[:, 77], entries[:, 77].bfloat16().float())
    assert torch.equal(block_gemm_triton(one_hot, blocks, None)[0], entries[:, 77].bfloat16())


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    x, blocks, bias, _ = inputs("Q4_K", CASES["odd, bias"], torch.bfloat16)
    assert torch.equal(block_gemm(x, blocks, bias), block_gemm_torch(x, blocks, bias))


@pytest.mark.slow
def test_tensors_of_a_real_file(real_model: Path) -> None:
    """Some rows of one matrix of each type that the file has."""
    file = read_gguf(real_model)
    weights = GGUFWeights(file, gguf_config(file))
    tried: set[str] = set()
    for name in sorted(weights.names()):
        kind = weights.type_name(name)
        if kind not in TYPES or kind in tried:
            continue
        tried.add(kind)
        rows = range(3, 40)
        entries = torch.from_numpy(weights.rows(name, rows)).to(DEVICE)
        blocks = laid_out(kind, weights.stored_rows(name, rows), entries.shape[1])
        assert torch.equal(dequantize(blocks), entries)
        assert torch.equal(unpack_triton(blocks, torch.bfloat16), entries.bfloat16())
        generator = torch.Generator().manual_seed(1)
        x = torch.randn((4, entries.shape[1]), generator=generator).to(DEVICE, torch.bfloat16)
        check(x, blocks, None, entries, None)
    assert {"Q4_K", "Q6_K"} <= tried, "not a Q4_K_M file"
