"""Rotary positions and the K/V write, of each row's joint projection [query | key | value].

Queries and keys are turned, y = x * cos + rotate_half(x) * sin (NeoX layout), and keys and values
go to their slots. The angles' cosines and sines are given, since they are the same for all layers;
what made them (YaRN, factors of a file) is not known here. fp32 inside. The query may be scaled
afterwards, row by row (Llama 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, launch, padded
from engine.kernels.variants import Variant

NO_SLOT = -1


def rotary_write_torch(
    joint: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_scale: Tensor | None,
    store: Tensor,
    slots: Tensor,
) -> Tensor:
    """The meaning of `rotary_write`; computes in fp32, or in fp64 if that is what it is given."""
    wide = torch.promote_types(joint.dtype, torch.float32)
    kv_heads, width = store.shape[2:]
    parts = joint.unflatten(1, (-1, width))
    first, second = parts[:, :-kv_heads].to(wide).chunk(2, dim=-1)
    halves = torch.cat((-second, first), dim=-1)
    turned = torch.cat((first, second), dim=-1) * cos.to(wide)[:, None]
    turned += halves * sin.to(wide)[:, None]
    query, key = turned[:, :-kv_heads], turned[:, -kv_heads:]
    if query_scale is not None:
        query = query * query_scale.to(wide)[:, None, None]
    new = torch.stack((key.to(joint.dtype), parts[:, -kv_heads:]), dim=1)
    written = slots != NO_SLOT
    store[slots[written].long()] = new[written]
    return query.to(joint.dtype)


@triton.jit
def _rotary_write_kernel(
    joint, cos, sin, query_scale, store, slots, query, stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, HALF_PADDED: tl.constexpr,
    HAS_SCALE: tl.constexpr,
):  # fmt: skip
    """One head of one row: a query head, a key head, or a value head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    dims = tl.arange(0, HALF_PADDED)
    inside = dims < half
    at = joint + row * stride + head * WIDTH + dims
    first, second = tl.load(at, mask=inside), tl.load(at + half, mask=inside)
    slot = tl.load(slots + row).to(tl.int64)
    if head < HEADS + KV_HEADS:
        angle = row * WIDTH + dims
        x, y = first.to(tl.float32), second.to(tl.float32)
        cos_x = tl.load(cos + angle, mask=inside).to(tl.float32)
        sin_x = tl.load(sin + angle, mask=inside).to(tl.float32)
        cos_y = tl.load(cos + angle + half, mask=inside).to(tl.float32)
        sin_y = tl.load(sin + angle + half, mask=inside).to(tl.float32)
        turned_x, turned_y = x * cos_x - y * sin_x, y * cos_y + x * sin_y
        if head < HEADS:
            if HAS_SCALE:
                scale = tl.load(query_scale + row).to(tl.float32)
                turned_x, turned_y = turned_x * scale, turned_y * scale
            out = query + (row * HEADS + head) * WIDTH + dims
            tl.store(out, turned_x.to(first.dtype), mask=inside)
            tl.store(out + half, turned_y.to(first.dtype), mask=inside)
        else:
            out = store + (slot * 2 * KV_HEADS + head - HEADS) * WIDTH + dims
            tl.store(out, turned_x.to(first.dtype), mask=inside & (slot >= 0))
            tl.store(out + half, turned_y.to(first.dtype), mask=inside & (slot >= 0))
    else:  # a slot is 2 x KV_HEADS vectors, keys before values, as the heads are in `joint`
        out = store + (slot * 2 * KV_HEADS + head - HEADS) * WIDTH + dims
        tl.store(out, first, mask=inside & (slot >= 0))
        tl.store(out + half, second, mask=inside & (slot >= 0))


def rotary_write_triton(
    joint: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_scale: Tensor | None,
    store: Tensor,
    slots: Tensor,
) -> Tensor:
    """As `rotary_write`."""
    rows = len(joint)
    kv_heads, width = store.shape[2:]
    heads = joint.shape[1] // width - 2 * kv_heads
    assert width % 2 == 0
    assert joint.stride(1) == 1
    assert cos.shape == sin.shape == (rows, width)
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    assert store.is_contiguous()
    assert slots.shape == (rows,)
    query = joint.new_empty((rows, heads, width))
    launch(
        _rotary_write_kernel, (rows, heads + 2 * kv_heads),
        joint, cos, sin, query_scale if query_scale is not None else cos, store, slots, query,
        joint.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, WIDTH=width, HALF_PADDED=padded(width // 2),
        HAS_SCALE=query_scale is not None, warps=1,
    )  # fmt: skip
    return query


def rotary_write(
    joint: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_scale: Tensor | None,
    store: Tensor,
    slots: Tensor,
) -> Tensor:
    """Turns queries and keys, and writes keys and values.

    Args:
        joint: (R, (H + 2 Hkv) D), the joint projection; the rows may be strided.
        cos, sin: (R, D), of the rows' positions.
        query_scale: (R,) or None.
        store: (N, 2, Hkv, D), written: one layer of the cache, or the K/V of a step's rows.
        slots: (R,) int32, where in it each row's key and value belong, or NO_SLOT for nowhere.
            No two rows have the same slot.

    Returns:
        (R, H, D), the queries.
    """
    operation = choose(rotary_write_triton, rotary_write_torch, joint)
    return operation(joint, cos, sin, query_scale, store, slots)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, query heads, K/V heads, width; whether queries are
    scaled."""

    rows: int
    heads: int
    kv_heads: int
    width: int
    is_scaled: bool
    is_large: bool = False


CASES = {
    "one row": Case(1, 4, 2, 16, False),
    "odd, scaled": Case(5, 7, 1, 64, True),
    "width no power of two": Case(3, 2, 1, 40, True),
    "no row": Case(0, 4, 2, 16, False),
    "8B, a block": Case(32, 32, 8, 128, True, is_large=True),
    "0.5B, prefill": Case(512, 14, 2, 64, False, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: two served models."""
    del architecture  # the same for all
    types = dict.fromkeys(("joint", "cos", "sin", "query_scale", "store", "query"), "*bf16")
    types |= {"slots": "*i32", "stride": "i32"}
    return [
        Variant(
            f"rotary and K/V write {size} bf16",
            _rotary_write_kernel,
            types,
            {
                "HEADS": heads,
                "KV_HEADS": kv_heads,
                "WIDTH": width,
                "HALF_PADDED": width // 2,
                "HAS_SCALE": is_scaled,
            },
            1,
            1,
        )
        for size, heads, kv_heads, width, is_scaled in (
            ("8B", 32, 8, 128, True),
            ("0.5B", 14, 2, 64, False),
        )
    ]
