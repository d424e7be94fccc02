"""What only a card can show: the kernels are compiled there, and a CUDA graph reads new lengths.

`make gpu` runs all tests of this folder on the card; without one they fail, not skip.
"""

from __future__ import annotations

import os

import pytest
import torch

from engine.kernels.attention_plan import plan_attention
from engine.kernels.dispatch import choose
from engine.kernels.row_attention import row_attention_torch, row_attention_triton
from tests.engine.seeded import DEVICE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type != "cuda", reason="no card is asked for (`make gpu` does)"),
]


def test_the_card_takes_the_kernels_and_compiles_them() -> None:
    assert os.environ.get("TRITON_INTERPRET", "0") == "0"
    tensor = torch.empty(1, device=DEVICE)
    assert choose(row_attention_triton, row_attention_torch, tensor) is row_attention_triton


def test_one_graph_serves_growing_prefixes() -> None:
    """The lengths and page numbers are tensors, which a captured graph reads anew."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randn((4, 8, 64), generator=generator).to(DEVICE, torch.bfloat16)
    key, value = torch.randn((2, 4, 2, 64), generator=generator).to(DEVICE, torch.bfloat16)
    store = torch.randn((640, 2, 2, 64), generator=generator).to(DEVICE, torch.bfloat16)
    plan = plan_attention(
        (0,) * 4,
        (1, 3, 7, 15),
        (tuple(range(40)),),
        (1,),
        heads_per_kv_head=4,
        page_tokens=16,
        device=DEVICE,
    )
    tensors = (query, key, value, store)
    row_attention_triton(*tensors, plan, 4)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = row_attention_triton(*tensors, plan, 4)
    for length in (0, 1, 17, 640):
        plan.lengths.fill_(length)
        graph.replay()
        expected = row_attention_torch(*tensors, plan)
        torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)
