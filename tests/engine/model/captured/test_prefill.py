"""The library's attention for causal chains is the engine's own attention with a chain's mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.model.captured.buckets import ROWS
from engine.model.captured.prefill import chain_attention, is_chain
from engine.model.captured.runner import CapturedRunner
from engine.model.runner import step_attention
from engine.model.visibility import visibility
from engine.step import chain, chain_with_groups, group, joined
from tests.engine.seeded import DEVICE, causal_logits, empty_cache, prompt_of, seeded_network
from tests.engine.test_laws import ROUNDING


@given(
    rows=st.integers(1, 40),
    cached=st.integers(0, 40),
    kv_heads=st.sampled_from((1, 2, 4)),
    width=st.sampled_from((8, 16, 40)),
)
def test_a_chain_is_attended_as_with_its_mask(
    rows: int, cached: int, kv_heads: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    query = torch.randn((rows, 4, width), generator=generator).to(DEVICE)
    keys = torch.randn((2, cached + rows, kv_heads, width), generator=generator).to(DEVICE)
    mask = torch.from_numpy(visibility(chain((1,) * rows, cached), [(0, cached)])).to(DEVICE)
    expected = step_attention(query, keys[0], keys[1], mask.repeat(4 // kv_heads, 1))
    torch.testing.assert_close(chain_attention(query, keys[0], keys[1]), expected, **ROUNDING)


def test_only_chains_are_taken_for_chains() -> None:
    assert is_chain(chain((1, 2, 3), 7))
    assert not is_chain(joined([chain((1,), 0), chain((1,), 0, sequence=1)]))
    assert not is_chain(joined([chain((1,), 0), chain((2,), 0)]))  # two paths of one sequence
    assert not is_chain(group((1, 2), 0, read=()))
    assert not is_chain(chain_with_groups((1,), 0, [(0, (3,))], shifts=False))


def test_a_long_prompt_takes_it_and_its_rows_are_those_of_a_plain_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = seeded_network().to(DEVICE)
    model, cache = CapturedRunner(network, device=DEVICE), empty_cache(1024)
    taken: list[int] = []

    def attention(*tensors: torch.Tensor) -> torch.Tensor:
        taken.append(len(tensors[0]))
        return chain_attention(*tensors)

    monkeypatch.setattr("engine.model.captured.runner.chain_attention", attention)
    tokens = prompt_of(3 * ROWS[-1])
    sequence, _ = cache.open(tokens, len(tokens))
    logits: list[torch.Tensor] = []
    for start, end in [(0, 150), (150, 170), (170, len(tokens))]:
        read = tuple(range(end - start))
        step = chain(tokens[start:end], start, read=read, sequence=sequence)
        logits.append(model.logits(step, cache))
        cache.keep(step, read)
    assert taken == [150] * 2 + [214] * 2  # the network has two layers
    torch.testing.assert_close(torch.cat(logits), causal_logits(network, tokens), **ROUNDING)
