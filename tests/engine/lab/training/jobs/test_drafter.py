"""The drafter in training drafts what it drafts in the engine, and learns where decoding looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.lab.data.sampler import Branch, Example
from engine.lab.training.jobs.acceptance import measure_acceptance
from engine.lab.training.jobs.drafter import (
    DraftBatch,
    DrafterJob,
    counting_drafts,
    draft_batch,
    draft_loss,
    draw_drafts,
    hybrid_distance,
    likeliest,
    new_adapter,
)
from engine.lab.training.run import Budget, RunOptions, run_job
from engine.model.adapter import DrafterAdapter, load_adapter, save_adapter
from engine.model.network import Network
from engine.model.runner import ModelRunner
from engine.step import chain, group
from tests.engine.seeded import CONFIG, CPU, MASK_ID, empty_cache, prompt_of, seeded_network


def example(seed: int = 0, trunk: int = 30, branch: int = 12, middle: int = 4) -> Example:
    """A trunk with two holes of random tokens."""
    tokens = np.array(prompt_of(trunk + 2 * branch, seed), dtype=np.int64)
    weights = np.ones(trunk, dtype=np.float32)
    parts = [tokens[trunk + i * branch : trunk + (i + 1) * branch] for i in range(2)]
    holes = tuple(
        Branch(seen, part, np.ones(branch, dtype=np.float32), middle)
        for seen, part in zip((trunk - 7, trunk), parts, strict=True)
    )
    return Example(tokens[:trunk], weights, holes)


def filled(network: Network, seed: int = 0) -> DrafterAdapter:
    torch.manual_seed(seed)
    adapter = new_adapter(network, 4, 16.0)
    for up in adapter.up:
        torch.nn.init.normal_(up, std=0.3)
    return adapter


def batch_of(examples: list[Example], seed: int = 0) -> DraftBatch:
    rng = np.random.default_rng(seed)
    return draft_batch(examples, MASK_ID, rng, device=CPU, dtype=torch.float32)


def engine_choices(
    network: Network,
    adapter: DrafterAdapter,
    hole: Branch,
    trunk: np.ndarray,
    seed: int,
    window: int,
) -> list[int]:
    """What the engine's own draft step says after the hole's tokens up to its `seed`-th."""
    model, cache = ModelRunner(network, device=CPU, adapter=adapter), empty_cache()
    before = (*trunk[: hole.seen].tolist(), *hole.tokens[:seed].tolist())
    sequence, cached = cache.open(before, 64)
    assert cached == 0
    step = chain(before, 0, read=(), sequence=sequence)
    model.logits(step, cache)
    cache.keep(step, tuple(range(step.rows)))
    masks = (MASK_ID,) * (window - 1)
    step = group(
        (int(hole.tokens[seed]), *masks),
        len(before),
        read=tuple(range(1, window)),
        sequence=sequence,
        drafter=True,
    )
    logits = model.logits(step, cache).clone()
    logits[:, MASK_ID] = float("-inf")
    cache.close(sequence)
    return logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_drafts_in_training_are_the_engines(seed: int, monkeypatch: pytest.MonkeyPatch):
    network = seeded_network()
    adapter = filled(network)
    scene = example(seed)
    chosen: list[list[int]] = []

    def record(network: Network, hidden: torch.Tensor) -> torch.Tensor:
        choices = likeliest(network, hidden)
        chosen.append(choices.tolist())
        return choices

    monkeypatch.setattr("engine.lab.training.jobs.drafter.likeliest", record)
    batch = batch_of([scene], seed)
    draft_loss(network, adapter, batch)
    drafted = chosen[1]
    rng = np.random.default_rng(seed)
    expected: list[int] = []
    for hole in scene.holes:
        drafts = draw_drafts(hole, MASK_ID, rng)
        assert drafts is not None
        window = int((drafts.blocks == 0).sum())
        for start in np.unique(drafts.starts):
            choices = engine_choices(network, adapter, hole, scene.tokens, int(start), window)
            expected += choices[: len(hole.tokens) - 1 - start]
    assert drafted == expected


def test_teachers_are_the_causal_rows_of_the_same_places():
    scene = example()
    batch = batch_of([scene])
    for row, teacher in zip(batch.rows.tolist(), batch.teachers.tolist(), strict=True):
        assert batch.draft_positions[row] == batch.positions[teacher] + 1
    following = [batch.tokens[teacher + 1] for teacher in batch.teachers.tolist()]
    assert torch.stack(following).equal(batch.texts)


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), min_size=1))
def test_what_counts_is_the_accepted_run_and_the_first_rejected(
    blocks: list[list[tuple[bool, bool]]],
):
    flat = [pair for block in blocks for pair in block]
    hits, on_text = (torch.tensor(list(column)) for column in zip(*flat, strict=True))
    offsets = torch.tensor([i + 1 for block in blocks for i in range(len(block))])
    counts = counting_drafts(hits, on_text, offsets).tolist()
    expected: list[bool] = []
    for block in blocks:
        run = 0
        while run < len(block) and block[run] == (True, True):
            run += 1
        expected += [index <= run for index in range(len(block))]
    assert counts == expected


def test_the_distance_is_least_where_both_agree():
    torch.manual_seed(0)
    teacher = torch.randn(6, 300) * 4
    wanted = teacher.argmax(dim=-1)
    entropy = torch.nn.functional.cross_entropy(teacher, wanted, reduction="none")
    same = hybrid_distance(teacher, teacher, wanted)
    torch.testing.assert_close(same, entropy)  # no KL, no TV
    other = hybrid_distance(torch.randn(6, 300), teacher, wanted)
    assert (other > same).all()
    # A shift of all logits changes no probability.
    torch.testing.assert_close(hybrid_distance(teacher + 3, teacher, wanted), same)


def test_training_lowers_the_distance_and_leaves_the_network_alone(tmp_path: Path):
    network = seeded_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = new_adapter(network, 8, 32.0)
    scenes = [example(seed) for seed in range(3)]
    job = DrafterJob(network, adapter, lambda rng: scenes, lambda rng: scenes, 1e-2)
    first = job.held_out()
    assert run_job(job, Budget(tokens=15_000), tmp_path, RunOptions())
    assert job.held_out()["loss"] < 0.9 * first["loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    save_adapter(tmp_path, adapter)
    again = load_adapter(tmp_path, CONFIG, device=CPU, dtype=torch.float32)
    assert again is not None
    assert again.alpha / again.rank == 4.0


def test_what_is_emitted_does_not_depend_on_the_drafter():
    network = seeded_network()
    prompts = [prompt_of(20, seed) for seed in range(3)]
    without = measure_acceptance(network, None, prompts, (2,))
    with_it = measure_acceptance(network, filled(network), prompts, (2,))
    assert without.texts == with_it.texts
    assert without.tokens == with_it.tokens
    assert without.per_cycle >= 1.0
    # Every cycle but that of a lone last token has a drafting forward as well.
    assert without.cycles < without.forwards <= 2 * without.cycles


def test_a_hole_of_one_token_has_nothing_to_draft():
    hole = Branch(3, np.arange(5), np.ones(5, dtype=np.float32), 4)
    assert draw_drafts(hole, MASK_ID, np.random.default_rng(0)) is None
