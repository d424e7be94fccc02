"""The counted work of a step, against what torch counts while it computes one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.lab.training.mask_adapter.adapter import (
    AdapterOptions,
    MaskAdapter,
    run_clean,
    run_masks,
)
from engine.lab.training.mask_adapter.groups import draw_groups
from engine.lab.training.mask_adapter.loss import backward
from engine.lab.training.mask_adapter.teacher import write
from engine.lab.training.mask_adapter.work import StepWork, flops_of_step
from tests.engine.lab.training.mask_adapter.test_served import network


@pytest.mark.parametrize("sequences", [1, 3])
def test_the_counted_work_is_close_to_what_torch_computes(sequences: int) -> None:
    config, layout = network().config, (8,) * 6
    adapter = MaskAdapter(
        network(), AdapterOptions(4, 4.0, markov_rank=0), np.arange(2, config.vocabulary, 2)
    )
    prompts = torch.randint(
        5, config.vocabulary, (sequences, 40), generator=torch.Generator().manual_seed(1)
    )
    written = write(network(), prompts, 24, ())
    batch = draw_groups(written, layout, torch.Generator().manual_seed(2))
    # As products, which are counted; the fused function is not.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        clean = run_clean(network(), written)
        hidden = run_masks(network(), adapter, clean, batch, layout)
        backward(adapter, clean, hidden, batch)
    lowrank = adapter.lowrank
    numbers = sum(each.numel() for each in (*lowrank.down.values(), *lowrank.up.values()))
    work = StepWork(sequences, 64, layout, numbers, len(adapter.draft_ids))
    # The convention counts neither what is computed twice nor pairs of rows of which none sees the
    # other.
    assert 0.6 < flops_of_step(work, config) / counter.get_total_flops() < 1.1
