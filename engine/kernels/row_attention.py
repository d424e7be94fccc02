"""Row attention: softmax(q k^T / sqrt(D)) v of a step's rows over paged K/V and each other.

Every row sees the whole cached prefix of its own sequence, and of the step's rows those that its
bit mask names; so one operation serves causal chains, trees, groups and several requests at once.
The query heads that share a K/V head become further rows of a tile, so that K and V are read once
and fill a tensor core's tile. The prefix is split among programs, and the parts are joined by their
log-sum-exps. Lengths are read on the device. Knows neither steps nor the cache.
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

from engine.kernels.attention_plan import AttentionPlan, Case, chain, group, hung
from engine.kernels.dispatch import (
    architecture,
    choose,
    for_architecture,
    launch,
    padded,
    processors,
)
from engine.kernels.variants import Variant

SPLITS_MAX = 32


@dataclass(frozen=True, slots=True)
class Config:
    """A tuned configuration: keys read at once, and the compiler's options."""

    keys: int
    warps: int
    stages: int


# By architecture, and by the rows of a tile (query rows times the heads that share a K/V head).
# Chosen so that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {16: Config(64, 4, 3), 32: Config(64, 4, 3), 64: Config(32, 4, 3), 128: Config(32, 8, 3)},
    90: {16: Config(64, 4, 2), 32: Config(32, 4, 4), 64: Config(32, 4, 4), 128: Config(32, 8, 4)},
    120: {16: Config(64, 4, 2), 32: Config(64, 4, 2), 64: Config(32, 4, 2), 128: Config(16, 8, 3)},
}


def row_attention_torch(
    query: Tensor, key: Tensor, value: Tensor, store: Tensor, plan: AttentionPlan
) -> Tensor:
    """The meaning of `row_attention`; computes in fp32, or in fp64 if that is what it is given."""
    heads, width = query.shape[1:]
    wide = torch.promote_types(query.dtype, torch.float32)
    out = torch.empty_like(query)
    rows = plan.order.long()
    places = torch.arange(int(plan.lengths.max()), device=query.device)
    for sequence, first, count in plan.tiles[:, (0, 3, 4)].unique(dim=0).tolist():
        own = rows[first : first + count]
        cached = places[: int(plan.lengths[sequence])]
        page = plan.pages[sequence].long()[cached // plan.page_tokens]
        seen = store[page * plan.page_tokens + cached % plan.page_tokens]  # (P, 2, Hkv, D)
        keys, values = torch.cat((seen, torch.stack((key[own], value[own]), dim=1))).unbind(1)
        bits = plan.visible[own][:, own // 32] >> (own % 32) & 1
        sees = torch.cat((bits.new_ones(count, len(cached)), bits), dim=1).bool()
        shared = heads // keys.shape[1]
        keys, values = (each.to(wide).repeat_interleave(shared, dim=1) for each in (keys, values))
        scores = torch.einsum("rhd,thd->hrt", query[own].to(wide), keys) / math.sqrt(width)
        weights = scores.masked_fill(~sees, float("-inf")).softmax(dim=-1)
        out[own] = torch.einsum("hrt,thd->rhd", weights, values).to(query.dtype)
    return out


@triton.jit
def attend(query, keys, values, visible, scale, highest, total, mixed):
    """One step of the online softmax (Milakov and Gimelshein 2018) over a block of keys.

    query (M, D), keys (D, N), values (N, D), visible (M, N); highest and total (M,), mixed (M, D)
    in fp32 are returned with the block added. Exponentials are to the base 2, as is `scale`.
    """
    scores = tl.dot(query, keys, input_precision="ieee") * scale
    scores = tl.where(visible, scores, float("-inf"))
    risen = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - risen[:, None])
    faded = tl.exp2(highest - risen)
    total = total * faded + tl.sum(weights, 1)
    mixed = mixed * faded[:, None]
    mixed = tl.dot(weights.to(values.dtype), values, mixed, input_precision="ieee")
    return risen, total, mixed


@triton.jit
def _attend_prefix(
    state, queries, here, store, pages, begin, end, scale,
    KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Adds the cached tokens from `begin` to `end`. `store` points at the K/V head's first key."""
    highest, total, mixed = state
    dims = tl.arange(0, queries.shape[1])
    in_width = dims < WIDTH
    for low in range(begin, end, KEYS):
        token = low + tl.arange(0, KEYS)
        cached = token < end
        page = tl.load(pages + token // PAGE, mask=cached, other=0)
        at = store + (page.to(tl.int64) * PAGE + token % PAGE) * (2 * KV_HEADS * WIDTH)
        is_key = cached[None, :] & in_width[:, None]
        keys = tl.load(at[None, :] + dims[:, None], mask=is_key, other=0.0)
        at += KV_HEADS * WIDTH
        is_value = cached[:, None] & in_width[None, :]
        values = tl.load(at[:, None] + dims[None, :], mask=is_value, other=0.0)
        sees = here[:, None] & cached[None, :]
        highest, total, mixed = attend(queries, keys, values, sees, scale, highest, total, mixed)
    return highest, total, mixed


@triton.jit
def _attend_rows(
    state, queries, here, key, value, members, visible, count, stride, scale,
    WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Adds the visible ones of the sequence's `count` rows, whose numbers `members` points at.
    `visible` points at each row's bit mask."""
    highest, total, mixed = state
    dims = tl.arange(0, queries.shape[1])
    in_width = dims < WIDTH
    for low in range(0, count, KEYS):
        place = low + tl.arange(0, KEYS)
        inside = place < count
        row = tl.load(members + place, mask=inside, other=0)
        at = row.to(tl.int64) * stride
        is_key = inside[None, :] & in_width[:, None]
        keys = tl.load(key + at[None, :] + dims[:, None], mask=is_key, other=0.0)
        is_value = inside[:, None] & in_width[None, :]
        values = tl.load(value + at[:, None] + dims[None, :], mask=is_value, other=0.0)
        both = here[:, None] & inside[None, :]
        words = tl.load(visible[:, None] + row[None, :] // 32, mask=both, other=0)
        sees = both & (((words >> (row[None, :] % 32)) & 1) != 0)
        highest, total, mixed = attend(queries, keys, values, sees, scale, highest, total, mixed)
    return highest, total, mixed


@triton.jit
def _row_attention_kernel(
    query, key, value, store, order, tiles, pages, lengths, visible, partial, log_sums,
    query_stride, new_stride, page_stride, visible_stride, rows, scale,
    KV_HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    PAGE: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One tile of rows, one K/V head, and either one part of the prefix or the step's own rows."""
    head, split = tl.program_id(1), tl.program_id(2)
    entry = tiles + tl.program_id(0) * 5
    sequence, first, count = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    own_first, own_count = tl.load(entry + 3), tl.load(entry + 4)

    place = tl.arange(0, TILE)
    here = place // SHARED < count
    row = tl.load(order + first + place // SHARED, mask=here, other=0)
    query_head = head * SHARED + place % SHARED
    dims = tl.arange(0, PADDED)
    is_query = here[:, None] & (dims < WIDTH)[None, :]
    at = query + row.to(tl.int64) * query_stride + query_head * WIDTH
    queries = tl.load(at[:, None] + dims[None, :], mask=is_query, other=0.0)
    # The highest score is finite, so that a row which sees nothing of a part does not become NaN.
    state = (
        tl.full((TILE,), -1e30, tl.float32),
        tl.zeros((TILE,), tl.float32),
        tl.zeros((TILE, PADDED), tl.float32),
    )

    # One of the two loops is empty: the last split has the step's own rows, the others the prefix.
    length = tl.load(lengths + sequence)
    part = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    begin = split * part
    end = tl.where((split < SPLITS) & (count > 0), tl.minimum(begin + part, length), begin)
    state = _attend_prefix(
        state, queries, here, store + head * WIDTH, pages + sequence * page_stride, begin, end,
        scale, KV_HEADS, WIDTH, PAGE, KEYS,
    )  # fmt: skip
    fresh = tl.where((split == SPLITS) & (count > 0), own_count, 0)
    highest, total, mixed = _attend_rows(
        state, queries, here, key + head * WIDTH, value + head * WIDTH, order + own_first,
        visible + row * visible_stride, fresh, new_stride, scale, WIDTH, KEYS,
    )  # fmt: skip

    # Where a part holds no visible key, 0 with a log-sum of minus infinity.
    seen = total > 0
    mixed = mixed / tl.where(seen, total, 1.0)[:, None]
    log_sum = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
    cell = (split.to(tl.int64) * rows + row) * (KV_HEADS * SHARED) + query_head
    tl.store(log_sums + cell, log_sum, mask=here)
    tl.store(partial + cell[:, None] * WIDTH + dims[None, :], mixed, mask=is_query)


@triton.jit
def _merge_kernel(
    partial, log_sums, out, rows,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    PARTS: tl.constexpr, PARTS_PADDED: tl.constexpr,
):  # fmt: skip
    """out = sum of partial * 2^log_sum over the parts / sum of 2^log_sum, for one row and head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cell = row * HEADS + head
    size = rows.to(tl.int64) * HEADS
    parts = tl.arange(0, PARTS_PADDED)
    sums = tl.load(log_sums + parts * size + cell, mask=parts < PARTS, other=float("-inf"))
    highest = tl.max(sums, 0)
    total = tl.sum(tl.exp2(sums - highest), 0)
    dims = tl.arange(0, PADDED)
    in_width = dims < WIDTH
    mixed = tl.zeros((PADDED,), tl.float32)
    for part in range(PARTS):
        at = part * size + cell
        weight = tl.exp2(tl.load(log_sums + at) - highest) / total
        mixed += weight * tl.load(partial + at * WIDTH + dims, mask=in_width, other=0.0)
    tl.store(out + cell * WIDTH + dims, mixed.to(out.dtype.element_ty), mask=in_width)


def row_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    store: Tensor,
    plan: AttentionPlan,
    splits: int | None = None,
) -> Tensor:
    """As `row_attention`.

    Args:
        splits: the parts of the prefix; None for as many as fill the card.
    """
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    shared = heads // kv_heads
    assert query.stride()[1:] == (width, 1)
    assert key.stride() == value.stride()
    assert key.stride()[1:] == (width, 1)
    assert store.is_contiguous()
    assert store.shape[1:] == (2, kv_heads, width)
    assert rows == len(plan.order)
    tile = plan.tile
    config = for_architecture(CONFIGS, architecture(query))[tile]
    if splits is None:
        free = processors(query) // (len(plan.tiles) * kv_heads)
        splits = min(max(free, 1), SPLITS_MAX)
    partial = query.new_empty((splits + 1, rows, heads, width), dtype=torch.float32)
    log_sums = query.new_empty((splits + 1, rows, heads), dtype=torch.float32)
    lanes = max(16, padded(width))
    launch(
        _row_attention_kernel, (len(plan.tiles), kv_heads, splits + 1),
        query, key, value, store, plan.order, plan.tiles, plan.pages, plan.lengths, plan.visible,
        partial, log_sums, query.stride(0), key.stride(0), plan.pages.stride(0),
        plan.visible.stride(0), rows, math.log2(math.e) / math.sqrt(width),
        KV_HEADS=kv_heads, SHARED=shared, WIDTH=width, PADDED=lanes, PAGE=plan.page_tokens,
        SPLITS=splits, TILE=tile, KEYS=config.keys,
        warps=config.warps, stages=config.stages,
    )  # fmt: skip
    out = query.new_empty((rows, heads, width))
    launch(
        _merge_kernel, (rows, heads),
        partial, log_sums, out, rows,
        HEADS=heads, WIDTH=width, PADDED=lanes, PARTS=splits + 1,
        PARTS_PADDED=padded(splits + 1), warps=1,
    )  # fmt: skip
    return out


def row_attention(
    query: Tensor, key: Tensor, value: Tensor, store: Tensor, plan: AttentionPlan
) -> Tensor:
    """Attention of a step's rows over their sequences' cached tokens and over each other.

    Args:
        query: (R, H, D), rotated and scaled as the model wants it.
        key, value: (R, Hkv, D), of the step's rows; the rows may be strided, but alike.
        store: (slots, 2, Hkv, D), one layer of the cache.

    Returns:
        (R, H, D) in the query's dtype.
    """
    return choose(row_attention_triton, row_attention_torch, query)(query, key, value, store, plan)


_TREE = ((-1, 0, 0, 1, 1, 2, 5, 3), (0,) * 8)
_8B = (32, 8, 128)
CASES = {
    "one row, one cached token": Case((4, 2, 16), (1,), (chain(1),)),
    "one row, empty prefix": Case((4, 2, 16), (0,), (chain(1),)),
    "odd chain, odd prefix, 7 heads share": Case((14, 2, 64), (77,), (chain(5),)),
    "group, prefix ends with a page": Case((4, 1, 32), (32,), (group(9),)),
    "group, prefix begins a page": Case((4, 1, 32), (33,), (group(9),)),
    "width no power of two": Case((4, 2, 40), (15,), (chain(3),)),
    "tree": Case((6, 1, 32), (19,), (_TREE,)),
    "chain with groups, more than 32 rows": Case((4, 2, 16), (21,), (hung(6, 6),)),
    "two tiles of rows": Case((8, 1, 16), (5,), (chain(19),)),
    "several requests": Case((4, 2, 16), (0, 40, 16, 1), (group(3), chain(1), _TREE, hung(2, 2))),
    "8B, a block after 4,096 tokens": Case(_8B, (4096,), (group(32),), is_large=True),
    "8B, one row after 4,096 tokens": Case(_8B, (4096,), (chain(1),), is_large=True),
    "8B, verify after 517 tokens": Case(_8B, (517,), (chain(32),), is_large=True),
    "8B, quadratic": Case(_8B, (1000,), (hung(16, 16),), is_large=True),
    "8B, four requests": Case(_8B, (4096, 517, 0, 33), (group(32),) * 4, is_large=True),
    "0.5B, prefill": Case((14, 2, 64), (700,), (chain(256),), is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: two served models and the tests' network, with every tile."""
    shapes = (("8B", "bf16", 8, 4, 128), ("0.5B", "bf16", 2, 7, 64), ("laws", "fp32", 2, 2, 16))
    pointers = ("order", "tiles", "pages", "lengths", "visible")
    integers = ("query_stride", "new_stride", "page_stride", "visible_stride", "rows")
    found: list[Variant] = []
    for size, dtype, kv_heads, shared, width in shapes:
        common = {"WIDTH": width, "PADDED": width}
        tensors = dict.fromkeys(("query", "key", "value", "store"), f"*{dtype}")
        for tile, config in for_architecture(CONFIGS, architecture).items():
            constants = {
                **common,
                "KV_HEADS": kv_heads,
                "SHARED": shared,
                "PAGE": 16,
                "SPLITS": 8,
                "TILE": tile,
                "KEYS": config.keys,
            }
            types = {**tensors, **dict.fromkeys(pointers, "*i32")}
            types |= {"partial": "*fp32", "log_sums": "*fp32", "scale": "fp32"}
            types |= dict.fromkeys(integers, "i32")
            name = f"row attention {size} {dtype}, tile of {tile}"
            unaligned = ("page_stride", "visible_stride", "rows")
            warps, stages = config.warps, config.stages
            found.append(
                Variant(name, _row_attention_kernel, types, constants, warps, stages, unaligned)
            )
        types = {"partial": "*fp32", "log_sums": "*fp32", "out": f"*{dtype}", "rows": "i32"}
        constants = {**common, "HEADS": kv_heads * shared, "PARTS": 9, "PARTS_PADDED": 16}
        name = f"row attention {size} {dtype}, merge"
        found.append(Variant(name, _merge_kernel, types, constants, 1, 1, ("rows",)))
    return found
