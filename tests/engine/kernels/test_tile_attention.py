"""Tile attention: near the fp64 truth, and the same to the bit however a text is cut into steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.cache.pages import PAGE_TOKENS
from engine.kernels.tile_attention import (
    CASES,
    positions_of,
    tile_attention,
    tile_attention_torch,
    tile_attention_triton,
)
from engine.kernels.tile_plan import PART, Case, Path, TilePlan, plan_tiles
from engine.model.runner import step_attention
from engine.model.tiles import TILE_ROWS
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]
Attention = Callable[[Tensor, Tensor, Tensor, TilePlan], Tensor]
ATTENTIONS: dict[str, Attention] = {
    "triton": tile_attention_triton,
    "torch": tile_attention_torch,
}
HEADS, KV_HEADS, WIDTH = 6, 2, 16
TEXT = 2 * PART + 40  # tokens: three parts


class Text:
    """Seeded queries, keys and values of one sequence, computed in any steps."""

    def __init__(self, case: Case, length: int, dtype: torch.dtype, seed: int = 1) -> None:
        heads, kv_heads, width = case.heads
        generator = torch.Generator().manual_seed(seed)
        self.query = (2 * torch.randn((length, heads, width), generator=generator)).to(
            DEVICE, dtype
        )
        self.kv = torch.randn((length, 2, kv_heads, width), generator=generator).to(DEVICE, dtype)


def inputs(
    texts: Sequence[Text], paths: Sequence[Path]
) -> tuple[tuple[Tensor, Tensor, Tensor], TilePlan]:
    """Query, new and store of these paths of texts, and the plan. The pages lie in no order, and
    every slot that no sequence owns is NaN."""
    counts = [-(-path.cached // PAGE_TOKENS) for path in paths]
    generator = torch.Generator().manual_seed(sum(counts))
    numbers = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    pages = [numbers[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]
    kv = texts[0].kv
    store = kv.new_full(((sum(counts) + 3) * PAGE_TOKENS, *kv.shape[1:]), torch.nan)
    for text, path, own in zip(texts, paths, pages, strict=True):
        slots = [page * PAGE_TOKENS + i for page in own for i in range(PAGE_TOKENS)]
        store[slots[: path.cached]] = text.kv[: path.cached]
    ends = [path.first + path.rows for path in paths]
    pairs = list(zip(texts, paths, ends, strict=True))
    new = torch.cat([text.kv[path.cached : end] for text, path, end in pairs])
    query = torch.cat([text.query[path.first : end] for text, path, end in pairs])
    plan = plan_tiles(paths, pages, places=TILE_ROWS, page_tokens=PAGE_TOKENS, device=DEVICE)
    return (query, new, store), plan


def of_case(case: Case, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor, Tensor], TilePlan]:
    texts = [
        Text(case, path.first + path.rows, dtype, seed) for seed, path in enumerate(case.paths)
    ]
    return inputs(texts, case.paths)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_tile_attention_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    tensors, plan = of_case(CASES[name], dtype)
    query, new, store = (each.double() for each in tensors)
    truth = tile_attention_torch(query, new, store, plan)
    reference = tile_attention_torch(*tensors, plan)
    assert_near(tile_attention_triton(*tensors, plan), reference, truth)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_it_is_causal_attention(attention: str) -> None:
    """Against the clear runner's, with a mask."""
    text = Text(Case((HEADS, KV_HEADS, WIDTH), ()), 75, torch.float32)
    tensors, plan = inputs([text], [Path(50, 60, 15)])
    seen = torch.arange(75, device=DEVICE) <= torch.arange(60, 75, device=DEVICE)[:, None]
    expected = step_attention(
        text.query[60:], *text.kv.unbind(1), seen.repeat(HEADS // KV_HEADS, 1)
    )
    torch.testing.assert_close(ATTENTIONS[attention](*tensors, plan), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_a_rows_bits_depend_on_its_text_alone(
    attention: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Whatever is cached, wherever the forward begins, whatever follows and stands beside it."""
    case = Case((HEADS, KV_HEADS, WIDTH), ())
    length = data.draw(st.sampled_from((9, 70, TEXT)))
    text, beside = (Text(case, TEXT, dtype, seed) for seed in (1, 2))
    position = data.draw(st.integers(0, length - 1), label="position")

    def row(label: str) -> Tensor:
        """The row at the position, of a forward that holds it and another sequence."""
        first = data.draw(st.integers(max(0, position - 33), position), label=f"{label}: first")
        after = data.draw(st.integers(0, 20), label=f"{label}: rows after it")
        cached = data.draw(st.integers(0, first), label=f"{label}: cached")
        rows = min(position + after + 1, TEXT) - first
        paths, texts = [Path(cached, first, rows)], [text]
        if data.draw(st.booleans(), label=f"{label}: beside another"):
            paths, texts = [Path(5, 7, 4), *paths], [beside, *texts]
        tensors, plan = inputs(texts, paths)
        plan = replace(plan, parts=plan.parts + data.draw(st.integers(0, 2)))
        place = len(plan.positions) - rows + position - first
        return ATTENTIONS[attention](*tensors, plan)[place]

    assert torch.equal(row("one"), row("other"))


def test_padding_tiles_change_nothing_and_rows_outside_are_zeros() -> None:
    """So that one CUDA graph can serve steps with fewer rows than it was captured for."""
    (query, new, store), plan = of_case(CASES["across a tile's end"], torch.float32)
    plain = tile_attention_triton(query, new, store, plan)
    padding = plan.tiles.new_zeros((2, 5))
    shifted = plan.tiles + plan.tiles.new_tensor((0, 0, 0, 3, 0))
    outside = plan.positions.new_full((3,), -1)
    padded = replace(
        plan,
        tiles=torch.cat((padding[:1], shifted, padding[1:])),
        positions=torch.cat((outside, plan.positions, outside)),
    )
    dead = query.new_full((3, *query.shape[1:]), torch.nan)
    wider = torch.cat((dead, query, dead))
    for attention in ATTENTIONS.values():
        found = attention(wider, new, store, padded)
        assert torch.equal(found[3:-3], attention(query, new, store, plan))
        assert not found[:3].any()
        assert not found[-3:].any()
    assert torch.isfinite(plain).all()


@pytest.mark.parametrize(("heads", "expected"), [(1, 32), (2, 32), (4, 16), (7, 8), (96, 1)])
def test_a_program_has_as_many_positions_as_fit(heads: int, expected: int) -> None:
    assert positions_of(32, heads) == expected


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors, plan = of_case(CASES["a whole tile"], torch.bfloat16)
    assert torch.equal(tile_attention(*tensors, plan), tile_attention_torch(*tensors, plan))
