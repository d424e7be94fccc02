"""Rotary positions and the K/V write: values to the bit, what is turned near the fp64 truth."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.rotary_write import (
    CASES,
    NO_SLOT,
    Case,
    rotary_write,
    rotary_write_torch,
    rotary_write_triton,
)
from engine.model.network import Network
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import CONFIG, DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]
SLOTS = 700


def inputs(case: Case, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """The arguments, with a store of zeros; the last row has no slot."""
    generator = torch.Generator().manual_seed(case.rows)
    heads = case.heads + 2 * case.kv_heads
    joint = torch.randn((case.rows, heads * case.width), generator=generator)
    angles = 100 * torch.rand((case.rows, case.width), generator=generator)
    scale = 1 + torch.rand((case.rows,), generator=generator) if case.is_scaled else None
    store = torch.zeros((SLOTS, 2, case.kv_heads, case.width))
    slots = torch.randperm(SLOTS, generator=generator)[: case.rows].int()
    if case.rows > 1:
        slots[-1] = NO_SLOT
    tensors = (joint, angles.cos(), angles.sin(), scale, store)
    return [*(each if each is None else each.to(DEVICE, dtype) for each in tensors),
            slots.to(DEVICE)]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_rotary_write_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    found = []
    for operation, wide in (
        (rotary_write_triton, False),
        (rotary_write_torch, False),
        (rotary_write_torch, True),
    ):
        *floats, slots = inputs(case, dtype)
        if wide:
            floats = [each if each is None else each.double() for each in floats]
        found.append((operation(*floats, slots), floats[4]))
    (ours, our_store), (theirs, their_store), (truth, true_store) = found
    assert torch.equal(our_store[:, 1], their_store[:, 1])
    assert torch.equal(our_store[:, 0] == 0, their_store[:, 0] == 0)
    assert_near(our_store[:, 0], their_store[:, 0], true_store[:, 0])
    assert_near(ours, theirs, truth)


def test_the_reference_is_the_networks_own_rotation() -> None:
    """With the frequencies and the query scale of a config, in fp32."""
    network = Network(CONFIG)
    heads, kv_heads, width = CONFIG.heads, CONFIG.kv_heads, CONFIG.head_dim
    positions = torch.tensor([0, 5, 1999])
    rotation = network._rotation(positions, torch.float32)
    joint = torch.randn((3, (heads + 2 * kv_heads) * width))
    store = torch.zeros((3, 2, kv_heads, width))
    scale = rotation.query_scale
    query = rotary_write_torch(
        joint,
        rotation.cos[:, 0],
        rotation.sin[:, 0],
        None if scale is None else scale[:, 0, 0],
        store,
        torch.arange(3, dtype=torch.int32),
    )
    parts = joint.unflatten(1, (-1, width)).split([heads, kv_heads, kv_heads], dim=1)
    expected = rotation.rotate(parts[0]) * (1 if scale is None else scale)
    torch.testing.assert_close(query, expected)
    torch.testing.assert_close(store[:, 0], rotation.rotate(parts[1]))
    assert torch.equal(store[:, 1], parts[2])


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    ours, theirs = (inputs(CASES["odd, scaled"], torch.bfloat16) for _ in range(2))
    assert torch.equal(rotary_write(*ours), rotary_write_torch(*theirs))
