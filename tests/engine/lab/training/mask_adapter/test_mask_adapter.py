"""The adapter that drafts in parallel: its rows, its loss, and that it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from engine.lab.training.mask_adapter.adapter import (
    AdapterOptions,
    MaskAdapter,
    run_clean,
    run_masks,
)
from engine.lab.training.mask_adapter.groups import UNLABELLED, draw_groups, runs, visible
from engine.lab.training.mask_adapter.loss import dpace
from engine.lab.training.mask_adapter.session import Session, SessionOptions, measure
from engine.lab.training.mask_adapter.teacher import Written, causal, write
from engine.lab.training.recipe import Shape, model_config
from engine.lab.training.run import Position
from engine.model.network import Network

_LAYOUT = (4, 3, 2)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    shape = Shape(vocabulary=64, hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1)
    config = dataclasses.replace(model_config(shape), block_length=8)
    network = Network(config)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def written(network: Network) -> Written:
    prompts = torch.randint(9, 64, (6, 10), generator=torch.Generator().manual_seed(1))
    return write(network, prompts, 12, (5,))


def _logits(network: Network, tokens: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(tokens.shape[-1]).expand_as(tokens)
    hidden = network(tokens, positions, lambda _, q, k, v: causal(q, k, v))
    return network.logits(hidden)


def test_what_is_written_is_the_greedy_continuation(network: Network, written: Written) -> None:
    expected = _logits(network, written.tokens.long()).argmax(dim=-1)
    assert torch.equal(written.greedy.long(), expected)
    assert torch.equal(written.tokens[:, 10:], written.greedy[:, 9:-1])


def test_a_middle_ends_with_its_first_end_token(written: Written) -> None:
    for tokens, end in zip(written.tokens.tolist(), written.ends.tolist(), strict=True):
        middle = tokens[10:end]
        assert 5 not in middle[:-1]
        assert end == len(tokens) or middle[-1] == 5


def test_runs_count_how_long_the_text_is_greedy(written: Written) -> None:
    counted = runs(written)
    for row in range(len(written.tokens)):
        tokens, greedy = written.tokens[row].tolist(), written.greedy[row].tolist()
        end = int(written.ends[row])
        for place in range(len(tokens)):
            run = 0
            while place + run + 1 < end and tokens[place + run + 1] == greedy[place + run]:
                run += 1
            assert counted[row, place] == run


def test_labels_are_the_tokens_after_the_rows_place(written: Written) -> None:
    generator = torch.Generator().manual_seed(2)
    batch = draw_groups(written, _LAYOUT, generator, revealed_share=0.5)
    assert batch.revealed.any()
    assert (batch.labels != UNLABELLED).any()
    for row, column in (batch.labels != UNLABELLED).nonzero().tolist():
        place = int(batch.anchors[row, column] + batch.offsets[row, column])
        assert batch.labels[row, column] == written.greedy[row, place]
        between = range(int(batch.anchors[row, column]), place)
        assert all(written.tokens[row, at + 1] == written.greedy[row, at] for at in between)
    # No row is asked for a token that its neighbour shows.
    shown = batch.revealed[:, 1:] & (batch.offsets[:, 1:] > 1)
    assert (batch.labels[:, :-1][shown] == UNLABELLED).all()


def test_a_row_sees_no_token_after_its_anchor(network: Network, written: Written) -> None:
    """Tokens after all anchors are changed: nothing that mask rows give may change."""
    adapter = _adapter(network)
    generator = torch.Generator().manual_seed(2)
    batch = draw_groups(written, _LAYOUT, generator, revealed_share=0.0)
    last = batch.anchors.max(dim=1).values
    changed = written.tokens.clone()
    for row, anchor in enumerate(last.tolist()):
        changed[row, anchor + 1 :] = 11
    other = dataclasses.replace(written, tokens=changed)
    first, second = (
        run_masks(network, adapter, run_clean(network, each), batch, _LAYOUT)
        for each in (written, other)
    )
    torch.testing.assert_close(first, second)


def test_groups_do_not_see_each_other(written: Written) -> None:
    batch = draw_groups(written, _LAYOUT, torch.Generator().manual_seed(1))
    own = visible(batch, _LAYOUT, 22)[0, :, 22:]
    assert own.sum().item() == sum(size * size for size in _LAYOUT)


def test_a_new_adapter_changes_no_revealed_row(network: Network, written: Written) -> None:
    """LoRA starts at nothing: a group of one revealed row is the causal row of its place."""
    adapter = _adapter(network)
    batch = draw_groups(written, (1,), torch.Generator().manual_seed(1), revealed_share=1.0)
    clean = run_clean(network, written)
    hidden = run_masks(network, adapter, clean, batch, (1,))
    for row in batch.revealed[:, 0].nonzero()[:, 0].tolist():
        place = int(batch.anchors[row, 0]) + 1
        torch.testing.assert_close(hidden[row, 0], clean.hidden[row, place])


def test_weights_of_offsets_follow_the_paper() -> None:
    entropy = torch.tensor([[0.5, 1.0, 0.2, 2.0, 0.1]])
    offsets = torch.tensor([[1, 2, 3, 1, 2]])
    labelled = torch.tensor([[True, True, True, True, False]])
    q = ((-entropy).exp() + 1) / 2
    a, b, c = q[0, 0], q[0, 0] * q[0, 1], q[0, 0] * q[0, 1] * q[0, 2]
    expected = torch.stack([a + b + c, b + c, c, q[0, 3], torch.zeros(())])
    torch.testing.assert_close(dpace(entropy, labelled, offsets)[0], expected)


def test_it_learns_and_a_saved_run_goes_on_as_if_never_stopped(
    network: Network, written: Written, tmp_path: object
) -> None:
    from pathlib import Path

    options = SessionOptions(rate=1e-2, sequences=6, layout=(3,) * 6, average=0.5)
    first = Session(network, _adapter(network), [written], [written], options)
    before = measure(network, first.adapter, [written]).drafts
    for step in range(30):
        first.step(0.0)
        first.position = Position(step + 1)
    path = Path(str(tmp_path)) / "state.pt"
    first.save(path)
    second = Session(network, _adapter(network), [written], [written], options)
    second.load(path)
    assert first.step(0.5) == second.step(0.5)
    assert measure(network, first.adapter, [written]).drafts > before + 0.5


def test_the_network_itself_is_not_touched(network: Network, written: Written) -> None:
    before = {name: each.clone() for name, each in network.state_dict().items()}
    session = Session(
        network,
        _adapter(network),
        [written],
        [written],
        SessionOptions(sequences=4, layout=_LAYOUT),
    )
    session.step(0.0)
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())


def _adapter(network: Network) -> MaskAdapter:
    return MaskAdapter(
        network, AdapterOptions(rank=4, alpha=4.0, masks=4, markov_rank=4), np.arange(5, 64)
    )


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_the_gradients_of_parts_add_up_to_that_of_the_batch(
    network: Network, written: Written, at_once: int
) -> None:
    """Steps of 5 sequences, all at once and in parts, of which the last is smaller."""
    found = []
    for size in (5, at_once):
        adapter = MaskAdapter(network, AdapterOptions(4, 4.0), np.arange(2, 64, 2))
        options = SessionOptions(sequences=5, at_once=size, layout=_LAYOUT)
        session = Session(network, adapter, [written], [written], options)
        report = session.step(0.5)
        gradients = [each.grad for each in adapter.parameters() if each.grad is not None]
        found.append((report.losses, [each.clone() for each in gradients]))
    (whole, expected), (parts, gradients) = found
    assert parts == pytest.approx(whole, rel=1e-5)
    assert len(gradients) == len(expected) > 10
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)
