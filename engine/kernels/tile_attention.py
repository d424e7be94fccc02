"""Tile attention: the attention of exact mode, whose sums depend on a row's position alone.

`engine.kernels.row_attention` adds keys in an order that depends on how much of the text is cached
and on the other rows of the step. Here keys are added in blocks at absolute positions, in parts of
PART positions each, and a row stands in its tile at the place that its position gives. So a row's
result is the same to the bit whatever of its path is cached and whatever is computed beside it.
Knows neither steps nor the cache.
"""

from __future__ import annotations

# Triton types a call among kernels as one that never returns.
# pyright: reportGeneralTypeIssues=false
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import architecture, choose, for_architecture, launch, padded
from engine.kernels.row_attention import attend
from engine.kernels.tile_plan import PART, Case, Path, TilePlan
from engine.kernels.variants import Variant

# Of a program's tile, positions times the heads that share a K/V head; more only where these are.
_QUERY_ROWS_MIN, _QUERY_ROWS_MAX = 32, 64
_KEYS_MULTIPLE = 64  # of torch's sums, so that there are few different shapes


@dataclass(frozen=True, slots=True)
class Config:
    """A tuned configuration: keys read at once, and the compiler's options. A row's bits depend on
    the first."""

    keys: int
    warps: int
    stages: int


# By architecture, and by the rows of a program's tile, of which a model has one number. Chosen so
# that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {32: Config(64, 4, 3), 64: Config(32, 4, 3)},
    90: {32: Config(64, 4, 3), 64: Config(32, 4, 3)},
    120: {32: Config(64, 4, 2), 64: Config(32, 4, 2)},
}


def tile_attention_torch(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    """The meaning of `tile_attention`; computes in fp32, or in fp64 if that is what it is given.

    Its sums depend on a row's position alone, too: queries stand at their places among zeros, and
    there are as many keys as the tile's end gives, those that are not known yet being zeros.
    """
    heads, width = query.shape[1:]
    kv_heads = new.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    out = torch.zeros_like(query)
    for sequence, first, count, at_query, at_path in plan.tiles.tolist():
        if count == 0:
            continue
        offset, length = first % plan.places, int(plan.lengths[sequence])
        start, end = first - offset, first + count
        cached = torch.arange(length, device=query.device)
        page = plan.pages[sequence].long()[cached // plan.page_tokens]
        path = plan.path[at_path : at_path + end - length].long()
        known = torch.cat((store[page * plan.page_tokens + cached % plan.page_tokens], new[path]))
        size = -(-(start + plan.places) // _KEYS_MULTIPLE) * _KEYS_MULTIPLE
        room = known.new_zeros((size, 2, kv_heads, width), dtype=wide)
        room[:end] = known
        keys, values = room.permute(1, 2, 0, 3)  # (Hkv, T, D) each
        queries = query.new_zeros((plan.places, heads, width), dtype=wide)
        queries[offset : offset + count] = query[at_query : at_query + count]
        grouped = queries.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
        scores = grouped.reshape(kv_heads, -1, width) @ keys.mT / math.sqrt(width)
        places = torch.arange(start, start + plan.places, device=query.device)
        hidden = torch.arange(size, device=query.device) > places[:, None]
        masked = hidden.repeat(heads // kv_heads, 1)
        weights = scores.masked_fill_(masked, float("-inf")).softmax(dim=-1)
        mixed = (weights @ values).view(kv_heads, -1, plan.places, width).permute(2, 0, 1, 3)
        own = mixed.reshape(plan.places, heads, width)[offset : offset + count]
        out[at_query : at_query + count] = own.to(query.dtype)
    return out


@triton.jit
def _tile_attention_kernel(
    query, new, store, tiles, path, pages, lengths, partial, log_sums,
    query_stride, page_stride, rows, scale,
    KV_HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    PAGE: tl.constexpr, PLACES: tl.constexpr, POSITIONS: tl.constexpr, TILE: tl.constexpr,
    PART: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """POSITIONS places of a tile, one K/V head, and the keys at the positions of one part."""
    subtiles: tl.constexpr = PLACES // POSITIONS
    head, part = tl.program_id(1), tl.program_id(2)
    entry = tiles + tl.program_id(0) // subtiles * 5
    sequence, first, count = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    at_query, at_path = tl.load(entry + 3), tl.load(entry + 4)
    base = first - first % PLACES + tl.program_id(0) % subtiles * POSITIONS
    last = tl.minimum(first + count, base + POSITIONS) - 1

    place = tl.arange(0, TILE)
    position = base + place // SHARED
    here = (place < POSITIONS * SHARED) & (position >= first) & (position <= last)
    row = at_query + position - first
    query_head = head * SHARED + place % SHARED
    dims = tl.arange(0, PADDED)
    in_width = dims < WIDTH
    is_query = here[:, None] & in_width[None, :]
    at = query + row.to(tl.int64) * query_stride + query_head * WIDTH
    queries = tl.load(at[:, None] + dims[None, :], mask=is_query, other=0.0)
    # The highest score is finite, so that a row which sees nothing of a part does not become NaN.
    highest = tl.full((TILE,), -1e30, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    mixed = tl.zeros((TILE, PADDED), tl.float32)

    length = tl.load(lengths + sequence)
    begin = part * PART
    # A tile that ends before this part, or has no row among these places, reads nothing.
    end = tl.where(last >= tl.maximum(first, base), tl.minimum(begin + PART, last + 1), begin)
    for low in range(begin, end, KEYS):
        token = low + tl.arange(0, KEYS)
        exists = token <= last
        cached = token < length
        page = tl.load(
            pages + sequence * page_stride + token // PAGE, mask=cached & exists, other=0
        )
        fresh = tl.load(path + at_path + token - length, mask=exists & (token >= length), other=0)
        slot = tl.where(cached, page.to(tl.int64) * PAGE + token % PAGE, fresh.to(tl.int64))
        at_key = tl.where(cached, store, new) + slot * (2 * KV_HEADS * WIDTH) + head * WIDTH
        is_key = exists[None, :] & in_width[:, None]
        keys = tl.load(at_key[None, :] + dims[:, None], mask=is_key, other=0.0)
        at_value = at_key + KV_HEADS * WIDTH
        is_value = exists[:, None] & in_width[None, :]
        values = tl.load(at_value[:, None] + dims[None, :], mask=is_value, other=0.0)
        sees = here[:, None] & (token[None, :] <= position[:, None])
        highest, total, mixed = attend(queries, keys, values, sees, scale, highest, total, mixed)

    # As in row attention. In a function of their own these lines make the compiler spill.
    seen = total > 0
    mixed = mixed / tl.where(seen, total, 1.0)[:, None]
    log_sum = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
    cell = (part.to(tl.int64) * rows + row) * (KV_HEADS * SHARED) + query_head
    tl.store(log_sums + cell, log_sum, mask=here)
    tl.store(partial + cell[:, None] * WIDTH + dims[None, :], mixed, mask=is_query)


@triton.jit
def _join_kernel(
    partial, log_sums, positions, out, rows,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """out = sum of partial * 2^log_sum over the parts / sum of 2^log_sum, for one row and head.

    The parts are added in order, up to the one of the row's own position, which sees itself. A row
    outside of all tiles has position -1 and becomes zeros.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cell = row * HEADS + head
    size = rows.to(tl.int64) * HEADS
    parts = tl.cdiv(tl.load(positions + row) + 1, PART)
    dims = tl.arange(0, PADDED)
    in_width = dims < WIDTH
    highest = tl.full((), -1e30, tl.float32)
    for part in range(parts):
        highest = tl.maximum(highest, tl.load(log_sums + part * size + cell))
    total = tl.zeros((), tl.float32)
    mixed = tl.zeros((PADDED,), tl.float32)
    for part in range(parts):
        at = part * size + cell
        weight = tl.exp2(tl.load(log_sums + at) - highest)
        total += weight
        mixed += weight * tl.load(partial + at * WIDTH + dims, mask=in_width, other=0.0)
    mixed = mixed / tl.where(total > 0, total, 1.0)
    tl.store(out + cell * WIDTH + dims, mixed.to(out.dtype.element_ty), mask=in_width)


def tile_attention_triton(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    """As `tile_attention`."""
    rows, heads, width = query.shape
    kv_heads = new.shape[2]
    shared = heads // kv_heads
    assert query.stride()[1:] == (width, 1)
    assert new.is_contiguous()
    assert store.is_contiguous()
    assert new.shape[1:] == store.shape[1:] == (2, kv_heads, width)
    assert rows == len(plan.positions)
    positions = positions_of(plan.places, shared)
    tile = max(_QUERY_ROWS_MIN, padded(positions * shared))
    config = for_architecture(CONFIGS, architecture(query))[min(tile, _QUERY_ROWS_MAX)]
    partial = query.new_empty((plan.parts, rows, heads, width), dtype=torch.float32)
    log_sums = query.new_empty((plan.parts, rows, heads), dtype=torch.float32)
    lanes = max(16, padded(width))
    launch(
        _tile_attention_kernel,
        (len(plan.tiles) * (plan.places // positions), kv_heads, plan.parts),
        query, new, store, plan.tiles, plan.path, plan.pages, plan.lengths, partial, log_sums,
        query.stride(0), plan.pages.stride(0), rows, math.log2(math.e) / math.sqrt(width),
        KV_HEADS=kv_heads, SHARED=shared, WIDTH=width, PADDED=lanes, PAGE=plan.page_tokens,
        PLACES=plan.places, POSITIONS=positions, TILE=tile,
        PART=PART, KEYS=config.keys, warps=config.warps, stages=config.stages,
    )  # fmt: skip
    out = query.new_empty((rows, heads, width))
    launch(
        _join_kernel, (rows, heads),
        partial, log_sums, plan.positions, out, rows,
        HEADS=heads, WIDTH=width, PADDED=lanes, PART=PART, warps=1,
    )  # fmt: skip
    return out


def positions_of(places: int, heads_per_kv_head: int) -> int:
    """The positions of one program: the largest power of two that fits, at most a tile's places."""
    found = places
    while found > 1 and found * heads_per_kv_head > _QUERY_ROWS_MAX:
        found //= 2
    return found


def tile_attention(query: Tensor, new: Tensor, store: Tensor, plan: TilePlan) -> Tensor:
    """Attention of rows over the text before them and themselves, summed by absolute positions.

    Args:
        query: (R, H, D), rotated and scaled as the model wants it. Rows of a tile stand together.
        new: (N, 2, Hkv, D), keys and values that are not cached, where the plan's path finds them.
        store: (slots, 2, Hkv, D), one layer of the cache.

    Returns:
        (R, H, D) in the query's dtype; zeros for rows outside of all tiles.
    """
    return choose(tile_attention_triton, tile_attention_torch, query)(query, new, store, plan)


_8B = (32, 8, 128)
CASES = {
    "one row, empty prefix": Case((4, 2, 16), (Path(0, 0, 1),)),
    "one row, one cached token": Case((4, 2, 16), (Path(1, 1, 1),)),
    "odd rows, odd prefix, 7 heads share": Case((14, 2, 64), (Path(77, 77, 5),)),
    "a whole tile": Case((4, 1, 32), (Path(32, 32, 32),)),
    "ancestors that are not cached": Case((6, 1, 32), (Path(19, 25, 7),)),
    "across a tile's end": Case((4, 2, 16), (Path(30, 30, 9),)),
    "width no power of two": Case((4, 2, 40), (Path(15, 15, 3),)),
    "prefix ends with a part": Case((4, 2, 16), (Path(256, 256, 2),)),
    "a path across a part's end": Case((4, 2, 16), (Path(250, 250, 14),)),
    "several requests": Case((4, 2, 16), (Path(0, 0, 3), Path(300, 301, 1), Path(16, 40, 9))),
    "8B, a tile after 4,096 tokens": Case(_8B, (Path(4096, 4096, 32),), is_large=True),
    "8B, one row after 4,096 tokens": Case(_8B, (Path(4096, 4096, 1),), is_large=True),
    "0.5B, a tile after 700 tokens": Case((14, 2, 64), (Path(700, 704, 32),), is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: three served models and the tests' network."""
    shapes = (
        ("8B", "bf16", 8, 4, 128),
        ("1.5B", "bf16", 2, 6, 128),
        ("0.5B", "bf16", 2, 7, 64),
        ("laws", "fp32", 2, 2, 16),
        ("one head", "bf16", 8, 1, 128),
    )
    table = for_architecture(CONFIGS, architecture)
    integers = ("tiles", "path", "pages", "lengths")
    found: list[Variant] = []
    for size, dtype, kv_heads, shared, width in shapes:
        positions = positions_of(32, shared)
        tile = max(_QUERY_ROWS_MIN, padded(positions * shared))
        config = table[tile]
        constants = {"KV_HEADS": kv_heads, "SHARED": shared, "PAGE": 16, "PLACES": 32}
        constants |= {"WIDTH": width, "PADDED": width, "PART": PART, "KEYS": config.keys}
        constants |= {"POSITIONS": positions, "TILE": tile}
        types = dict.fromkeys(("query", "new", "store"), f"*{dtype}")
        types |= dict.fromkeys(integers, "*i32")
        types |= {"partial": "*fp32", "log_sums": "*fp32", "scale": "fp32"}
        types |= dict.fromkeys(("query_stride", "page_stride", "rows"), "i32")
        name = f"tile attention {size} {dtype}"
        kernel, unaligned = _tile_attention_kernel, ("page_stride", "rows")
        found.append(
            Variant(name, kernel, types, constants, config.warps, config.stages, unaligned)
        )
        types = {"partial": "*fp32", "log_sums": "*fp32", "positions": "*i32"}
        types |= {"out": f"*{dtype}", "rows": "i32"}
        constants = {"HEADS": kv_heads * shared, "WIDTH": width, "PADDED": width, "PART": PART}
        found.append(Variant(f"{name}, join", _join_kernel, types, constants, 1, 1, ("rows",)))
    return found
