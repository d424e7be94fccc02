"""The kernels' operations on the tensors of their cases: what is called, and what it has to move.

Modules of `engine.kernels` are found by themselves if they have CASES; how the tensors of a case
look is known here, by the module's name. Bytes are those that any implementation has to move:
inputs read once, outputs written once.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import engine.kernels
from engine.cache.pages import PAGE_TOKENS
from engine.kernels.attention_plan import plan_attention
from engine.kernels.tile_plan import plan_tiles
from engine.model.runner import step_attention
from engine.model.tiles import TILE_ROWS

_EPS = 1e-5
_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on tensors that are ready.

    Attributes:
        run: the operation, which chooses between its kernel and torch.
        peer: the same in torch's own operations, without a kernel of ours; None for none.
        bytes, flops: that it has to move and to compute.
    """

    run: Callable[[], Any]
    peer: Callable[[], Any] | None
    bytes: int
    flops: int


class Maker:
    """Seeded random tensors of one dtype on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(1)

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers, (*shape)."""
        return torch.randn(shape, generator=self._generator, device=self.device, dtype=self.dtype)

    def integers(self, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Whole numbers from 0 to high - 1, (*shape)."""
        numbers = torch.randint(
            high, shape, generator=self._generator, device=self.device, dtype=torch.int64
        )
        return numbers.to(dtype)


Build = Callable[[ModuleType, Any, Maker], Call]


def operations() -> dict[str, ModuleType]:
    """The modules of `engine.kernels` that have cases, by name."""
    names = (found.name for found in pkgutil.iter_modules(engine.kernels.__path__))
    modules = {name: import_module(f"engine.kernels.{name}") for name in sorted(names)}
    return {name: module for name, module in modules.items() if hasattr(module, "CASES")}


def build(name: str, case: Any, device: torch.device, dtype: torch.dtype) -> Call | None:
    """A case of a module, on tensors; None for a case without rows.

    Raises:
        LookupError: nothing is known of the module's tensors.
    """
    module = import_module(f"engine.kernels.{name}")
    if name not in BUILDS:
        raise LookupError(f"engine.lab.bench.gpu.operations knows no tensors for {name}")
    if _rows(case) == 0:
        return None
    return BUILDS[name](module, case, Maker(device, dtype))


def _rows(case: Any) -> int:
    rows = getattr(case, "rows", None)
    if rows is not None:
        return rows
    return len(case.flags) if hasattr(case, "flags") else len(case.sequence)


def bytes_of(*tensors: Tensor | None) -> int:
    """The bytes of these tensors' entries."""
    return sum(each.numel() * each.element_size() for each in tensors if each is not None)


def _skinny_gemm(module: ModuleType, case: Any, make: Maker) -> Call:
    x, weight = make.normal(case.rows, case.width), make.normal(case.outputs, case.width)
    bias = make.normal(case.outputs) if case.has_bias else None
    written = case.rows * case.outputs * x.element_size()
    return Call(
        run=lambda: module.skinny_gemm(x, weight, bias),
        peer=lambda: functional.linear(x, weight, bias),
        bytes=bytes_of(x, weight, bias) + written,
        flops=2 * case.rows * case.width * case.outputs,
    )


def _int8_gemm(module: ModuleType, case: Any, make: Maker) -> Call:
    x = make.normal(case.rows, case.width)
    weight = make.integers(255, case.outputs, case.width, dtype=torch.int16).sub(127).char()
    scale = make.normal(case.outputs).float().abs() + 0.1
    bias = make.normal(case.outputs) if case.has_bias else None
    wide = (weight.float() * scale[:, None]).to(x.dtype)
    written = case.rows * case.outputs * x.element_size()
    return Call(
        run=lambda: module.int8_gemm(x, weight, scale, bias),
        peer=lambda: functional.linear(x, wide, bias),
        bytes=bytes_of(x, weight, scale, bias) + written,
        flops=2 * case.rows * case.width * case.outputs,
    )


def _block_gemm(module: ModuleType, case: Any, make: Maker) -> Call:
    """On Q4_K blocks, of which most of a Q4_K_M file consists."""
    shape = (case.outputs, 256 * case.supers)
    blocks = import_module("engine.kernels.blocks").empty_blocks("Q4_K", shape, make.device)
    blocks.low.copy_(make.integers(256, *blocks.low.shape))
    blocks.scales.copy_(make.integers(64, *blocks.scales.shape))
    blocks.supers.fill_(2.0**-12)
    x = make.normal(case.rows, shape[1])
    bias = make.normal(case.outputs) if case.has_bias else None
    wide = module.unpack_torch(blocks, x.dtype)
    written = case.rows * case.outputs * x.element_size()
    return Call(
        run=lambda: module.block_gemm(x, blocks, bias),
        peer=lambda: functional.linear(x, wide, bias),
        bytes=blocks.nbytes + bytes_of(x, bias) + written,
        flops=2 * case.rows * shape[1] * case.outputs,
    )


def _head_reading(module: ModuleType, case: Any, make: Maker) -> Call:
    hidden, weight = make.normal(case.rows, case.width), make.normal(case.vocabulary, case.width)
    chosen = make.integers(case.vocabulary, case.rows)

    def peer() -> object:
        logits = functional.linear(hidden, weight).float()
        total, asked = logits.logsumexp(dim=-1), logits.gather(1, chosen.long()[:, None])
        if case.mask_id >= 0:
            logits[:, case.mask_id] = float("-inf")
        best = logits.topk(case.best, dim=-1)
        return best.values, total, asked[:, 0], best.indices

    return Call(
        run=lambda: module.head_reading(
            hidden, weight, chosen, mask_id=case.mask_id, best=case.best
        ),
        peer=peer,
        bytes=bytes_of(hidden, weight, chosen) + case.rows * (8 * case.best + 8),
        flops=2 * case.rows * case.width * case.vocabulary,
    )


def _rms_norm(module: ModuleType, case: Any, make: Maker) -> Call:
    x, weight = make.normal(case.rows, case.width), make.normal(case.width)
    residual = make.normal(case.rows, case.width) if case.has_residual else None

    def peer() -> object:
        total = x if residual is None else x + residual
        return functional.rms_norm(total, (case.width,), weight, _EPS), total

    written = bytes_of(x, residual)  # the normed sum, and the sum where there is a residual
    return Call(
        run=lambda: module.rms_norm(x, residual, weight, _EPS),
        peer=peer,
        bytes=bytes_of(x, residual, weight) + written,
        flops=5 * x.numel(),
    )


def _rotary_write(module: ModuleType, case: Any, make: Maker) -> Call:
    joint = make.normal(case.rows, (case.heads + 2 * case.kv_heads) * case.width)
    cos, sin = make.normal(case.rows, case.width), make.normal(case.rows, case.width)
    scale = make.normal(case.rows) if case.is_scaled else None
    store = make.normal(_SLOTS, 2, case.kv_heads, case.width)
    slots = torch.arange(case.rows, device=make.device, dtype=torch.int32) * 3
    arguments = (joint, cos, sin, scale, store, slots)
    return Call(
        run=lambda: module.rotary_write(*arguments),
        peer=lambda: module.rotary_write_torch(*arguments),
        bytes=bytes_of(joint, cos, sin, scale, slots) + bytes_of(joint),
        flops=3 * joint.numel(),
    )


def _swiglu(module: ModuleType, case: Any, make: Maker) -> Call:
    joint = make.normal(case.rows, 2 * case.width)

    def peer() -> Tensor:
        gate, up = joint.chunk(2, dim=-1)
        return functional.silu(gate) * up

    return Call(
        run=lambda: module.swiglu(joint),
        peer=peer,
        bytes=bytes_of(joint) * 3 // 2,
        flops=5 * case.rows * case.width,
    )


def _row_lora(module: ModuleType, case: Any, make: Maker) -> Call:
    rows, drafting = len(case.flags), sum(case.flags)
    flags = torch.tensor(case.flags, device=make.device)
    base, x = make.normal(rows, case.outputs), make.normal(rows, case.width)
    down, up = make.normal(case.rank, case.width), make.normal(case.outputs, case.rank)
    return Call(
        run=lambda: module.row_lora(base, x, down, up, flags),
        peer=lambda: base + (x @ down.T) @ up.T * flags[:, None],
        bytes=bytes_of(base, base, x, down, up, flags),
        flops=2 * drafting * case.rank * (case.width + case.outputs),
    )


def _pages(lengths: Sequence[int]) -> list[list[int]]:
    """Page numbers in no order for sequences of so many cached tokens."""
    counts = [-(-length // PAGE_TOKENS) for length in lengths]
    numbers = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)).tolist()
    return [numbers[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]


def _row_attention(module: ModuleType, case: Any, make: Maker) -> Call:
    heads, kv_heads, width = case.heads
    rows = len(case.sequence)
    pages = _pages(case.lengths)
    store = make.normal(max(sum(map(len, pages)), 1) * PAGE_TOKENS, 2, kv_heads, width)
    query, new = make.normal(rows, heads, width), make.normal(rows, 2, kv_heads, width)
    plan = plan_attention(
        case.sequence,
        case.visible,
        pages,
        case.lengths,
        heads_per_kv_head=heads // kv_heads,
        page_tokens=PAGE_TOKENS,
        device=make.device,
    )
    cached = sum(case.lengths) * 2 * kv_heads * width * query.element_size()
    seen = sum(mask.bit_count() for mask in case.visible)
    seen += sum(case.lengths[sequence] for sequence in case.sequence)
    return Call(
        run=lambda: module.row_attention(query, new[:, 0], new[:, 1], store, plan),
        peer=_attention_peer(case, query, new, store, pages) if len(pages) == 1 else None,
        bytes=cached + bytes_of(query, query, new),
        flops=4 * heads * width * seen,
    )


def _attention_peer(
    case: Any, query: Tensor, new: Tensor, store: Tensor, pages: list[list[int]]
) -> Callable[[], Tensor]:
    """The engine's own attention in torch, on keys and values that lie in one piece."""
    rows, device = len(query), query.device
    slots = [page * PAGE_TOKENS + i for page in pages[0] for i in range(PAGE_TOKENS)]
    keys, values = torch.cat((store[slots[: case.lengths[0]]], new)).unbind(1)
    seen = [[mask >> row & 1 for row in range(rows)] for mask in case.visible]
    known = torch.ones((rows, case.lengths[0]), dtype=torch.bool)
    mask = torch.cat((known, torch.tensor(seen, dtype=torch.bool)), dim=1).to(device)
    mask = mask.repeat(query.shape[1] // new.shape[2], 1)
    return lambda: step_attention(query, keys, values, mask)


def _tile_attention(module: ModuleType, case: Any, make: Maker) -> Call:
    heads, kv_heads, width = case.heads
    pages = _pages([path.cached for path in case.paths])
    fresh = sum(path.first + path.rows - path.cached for path in case.paths)
    store = make.normal(max(sum(map(len, pages)), 1) * PAGE_TOKENS, 2, kv_heads, width)
    query, new = make.normal(case.rows, heads, width), make.normal(fresh, 2, kv_heads, width)
    plan = plan_tiles(
        case.paths, pages, places=TILE_ROWS, page_tokens=PAGE_TOKENS, device=make.device
    )
    cached = sum(path.cached for path in case.paths) * 2 * kv_heads * width * query.element_size()
    seen = sum(sum(range(path.first + 1, path.first + path.rows + 1)) for path in case.paths)
    return Call(
        run=lambda: module.tile_attention(query, new, store, plan),
        peer=_tile_peer(case, query, new, store, pages) if len(pages) == 1 else None,
        bytes=cached + bytes_of(query, query, new),
        flops=4 * heads * width * seen,
    )


def _tile_peer(
    case: Any, query: Tensor, new: Tensor, store: Tensor, pages: list[list[int]]
) -> Callable[[], Tensor]:
    """The clear runner's attention, which is not exact, on keys and values in one piece."""
    (path,) = case.paths
    slots = [page * PAGE_TOKENS + i for page in pages[0] for i in range(PAGE_TOKENS)]
    keys, values = torch.cat((store[slots[: path.cached]], new)).unbind(1)
    positions = torch.arange(path.first + path.rows, device=query.device)
    mask = positions <= positions[path.first :, None]
    mask = mask.repeat(query.shape[1] // new.shape[2], 1)
    return lambda: step_attention(query, keys, values, mask)


BUILDS: Mapping[str, Build] = {
    "block_gemm": _block_gemm,
    "head_reading": _head_reading,
    "int8_gemm": _int8_gemm,
    "rms_norm": _rms_norm,
    "rotary_write": _rotary_write,
    "row_attention": _row_attention,
    "row_lora": _row_lora,
    "skinny_gemm": _skinny_gemm,
    "swiglu": _swiglu,
    "tile_attention": _tile_attention,
}
