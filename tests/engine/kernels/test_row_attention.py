"""Row attention: near the fp64 truth, the same as the engine's own attention, in any part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.cache.pages import PAGE_TOKENS
from engine.kernels.attention_plan import AttentionPlan, Case, plan_attention
from engine.kernels.row_attention import (
    CASES,
    row_attention,
    row_attention_torch,
    row_attention_triton,
)
from engine.model.runner import step_attention
from engine.model.visibility import visibility
from engine.step import visible_rows
from tests.engine.kernels.errors import assert_near
from tests.engine.seeded import DEVICE
from tests.engine.steps import trees

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]


def inputs(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], AttentionPlan]:
    """Seeded query, key, value and store, and the plan; the pages lie in no order, and every slot
    that no sequence owns is NaN."""
    heads, kv_heads, width = case.heads
    rows = len(case.sequence)
    generator = torch.Generator().manual_seed(rows)
    counts = [-(-length // PAGE_TOKENS) for length in case.lengths]
    numbers = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    pages = [numbers[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]
    store = torch.full(((sum(counts) + 3) * PAGE_TOKENS, 2, kv_heads, width), torch.nan)
    for own, length in zip(pages, case.lengths, strict=True):
        slots = [page * PAGE_TOKENS + i for page in own for i in range(PAGE_TOKENS)][:length]
        store[slots] = torch.randn((length, 2, kv_heads, width), generator=generator)
    query = 2 * torch.randn((rows, heads, width), generator=generator)
    new = torch.randn((rows, 2, kv_heads, width), generator=generator)
    plan = plan_attention(
        case.sequence,
        case.visible,
        pages,
        case.lengths,
        heads_per_kv_head=heads // kv_heads,
        page_tokens=PAGE_TOKENS,
        device=DEVICE,
    )
    query, new, store = (each.to(DEVICE, dtype) for each in (query, new, store))
    return [query, new[:, 0], new[:, 1], store], plan


def check(case: Case, dtype: torch.dtype, splits: int | None) -> None:
    tensors, plan = inputs(case, dtype)
    truth = row_attention_torch(*[each.double() for each in tensors], plan)
    reference = row_attention_torch(*tensors, plan)
    assert_near(row_attention_triton(*tensors, plan, splits), reference, truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_row_attention_is_near_the_truth(name: str, dtype: torch.dtype) -> None:
    check(CASES[name], dtype, splits=2)


@pytest.mark.parametrize("splits", [1, 3, 8])
def test_any_number_of_parts_is_near_the_truth(splits: int) -> None:
    """Also more parts than blocks of keys, so that most are empty."""
    check(CASES["odd chain, odd prefix, 7 heads share"], torch.float32, splits)


@given(st.data())
@settings(max_examples=15)
def test_any_step_of_two_sequences_equals_the_engines_attention(data: st.DataObject) -> None:
    """Against `step_attention` and the mask that the runner makes of the same step."""
    lengths = {number: data.draw(st.integers(0, 40)) for number in (0, 1)}
    step = data.draw(trees(lengths, rows_max=12))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    query = torch.randn((step.rows, 4, 16), generator=generator)
    key, value = torch.randn((2, step.rows, 2, 16), generator=generator).unbind()
    store = torch.randn((6 * PAGE_TOKENS, 2, 2, 16), generator=generator)
    pages = ((5, 0, 3), (1, 4, 2))
    slots = [
        pages[number][i // PAGE_TOKENS] * PAGE_TOKENS + i % PAGE_TOKENS
        for number in (0, 1)
        for i in range(lengths[number])
    ]
    keys, values = torch.cat((store[slots], torch.stack((key, value), dim=1))).unbind(1)
    mask = torch.from_numpy(visibility(step, [*lengths.items()])).repeat(2, 1)
    expected = step_attention(query, keys, values, mask)
    plan = plan_attention(
        step.sequence,
        visible_rows(step),
        pages,
        [*lengths.values()],
        heads_per_kv_head=2,
        page_tokens=PAGE_TOKENS,
        device=DEVICE,
    )
    tensors = [each.to(DEVICE) for each in (query, key, value, store)]
    torch.testing.assert_close(row_attention_triton(*tensors, plan, 2).cpu(), expected)
    torch.testing.assert_close(row_attention_torch(*tensors, plan).cpu(), expected)


def test_padding_tiles_change_nothing() -> None:
    """So that one CUDA graph can serve steps with fewer tiles than it was captured for."""
    tensors, plan = inputs(CASES["tree"], torch.float32)
    padding = plan.tiles.new_zeros((2, 5))
    padded = AttentionPlan(
        order=plan.order,
        tiles=torch.cat((padding[:1], plan.tiles, padding[1:])),
        pages=plan.pages,
        lengths=plan.lengths,
        visible=plan.visible,
        page_tokens=plan.page_tokens,
        tile=plan.tile,
    )
    plain = row_attention_triton(*tensors, plan, 2)
    assert torch.equal(row_attention_triton(*tensors, padded, 2), plain)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    tensors, plan = inputs(CASES["tree"], torch.bfloat16)
    assert torch.equal(row_attention(*tensors, plan), row_attention_torch(*tensors, plan))
