"""Captured steps give what clear ones give: readings up to rounding, and tokens in every mode."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.api import EXACT_MODES, Sampling
from engine.cache.storage import KVCache
from engine.decoders import STRATEGIES
from engine.model.adapter import DrafterAdapter
from engine.model.captured.buckets import ROWS
from engine.model.captured.runner import CapturedRunner
from engine.model.runner import ModelRunner
from engine.reading import Reading
from engine.step import Step, chain, chain_with_groups, joined
from tests.engine.model.onnx.families import FAMILIES, network_of
from tests.engine.seeded import DEVICE, MASK_ID, empty_cache, prompt_of
from tests.engine.steps import trees
from tests.engine.subjects import Subject, subject
from tests.engine.test_laws import ROUNDING, request_of

MODES = tuple(STRATEGIES)
BOTH = ("float32", "captured float32")
LENGTHS = {0: 40, 1: 3}


@pytest.fixture(scope="module", params=("small", "adapted"))
def pair(request: pytest.FixtureRequest) -> tuple[Subject, Subject]:
    """The same network in clear and in captured steps."""
    clear, captured = (subject(request.param, kind) for kind in BOTH)
    return clear, captured


def assert_alike(ours: Sequence[Reading], theirs: Sequence[Reading]) -> None:
    """Equal tokens, and numbers that are equal up to rounding."""
    assert [one.token for one in ours] == [one.token for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [token for token, _ in one.best] == [token for token, _ in other.best]
        numbers, expected = (
            torch.tensor([each.probability, each.log_sum_exp, *(x for _, x in each.best)])
            for each in (one, other)
        )
        torch.testing.assert_close(numbers, expected, **ROUNDING)


def filled(model: ModelRunner, lengths: dict[int, int] = LENGTHS) -> KVCache:
    """A cache with two sequences, filled by the model's own steps."""
    cache = empty_cache(512, model.network.config)
    for seed, length in lengths.items():
        tokens = prompt_of(length, seed)
        sequence, _ = cache.open(tokens, 200)
        assert sequence == seed
        if length:
            step = chain(tokens, 0, sequence=sequence)
            model(step, cache, Sampling())
            cache.keep(step, tuple(range(length)))
    return cache


def both(family: str) -> tuple[ModelRunner, CapturedRunner]:
    network = copy.deepcopy(network_of(family)).to(DEVICE)
    return ModelRunner(network, device=DEVICE), CapturedRunner(network, device=DEVICE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_mode_emits_the_same_in_as_many_steps(
    pair: tuple[Subject, Subject], mode: str, temperature: float
) -> None:
    clear, captured = pair
    for seed in range(2):
        request = request_of(mode, prompt_of(31, seed) * 2, 30, temperature=temperature, seed=seed)
        expected, found = clear.run(request)[-1], captured.run(request)[-1]
        assert found.progress.committed == expected.progress.committed
        assert (found.forwards, found.rows) == (expected.forwards, expected.rows)
        assert found.progress.confidences == pytest.approx(expected.progress.confidences, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@given(st.data())
@settings(max_examples=10)
def test_any_step_is_read_alike_in_every_family(family: str, data: st.DataObject) -> None:
    clear, captured = both(family)
    caches = filled(clear), filled(captured)
    step = data.draw(trees(LENGTHS, rows_max=40))
    ours, theirs = captured(step, caches[1], Sampling()), clear(step, caches[0], Sampling())
    assert_alike(ours, theirs)
    logits = captured.logits(step, caches[1])
    torch.testing.assert_close(logits, clear.logits(step, caches[0]), **ROUNDING)


@given(st.data())
@settings(max_examples=15)
def test_rows_with_a_drafter_are_read_alike_and_others_as_without_it(data: st.DataObject) -> None:
    network = copy.deepcopy(network_of("nemotron: YaRN and query scale")).to(DEVICE)
    adapter = DrafterAdapter(network.config, 4, 6.0).requires_grad_(False).to(DEVICE)
    generator = torch.Generator().manual_seed(3)
    for factor in (*adapter.down, *adapter.up):
        factor.data = torch.randn(factor.shape, generator=generator).to(DEVICE) * 0.5
    clear = ModelRunner(network, device=DEVICE, adapter=adapter)
    captured = CapturedRunner(network, device=DEVICE, adapter=adapter)
    caches = filled(clear), filled(captured)
    step = data.draw(trees(LENGTHS, drafters=(False, True)))
    ours, theirs = captured(step, caches[1], Sampling()), clear(step, caches[0], Sampling())
    assert_alike(ours, theirs)


def test_a_causal_row_beside_drafting_ones_is_the_same_to_the_bit() -> None:
    """The adapter's addition is left out of it, not zero."""
    captured = subject("adapted", "captured float32")
    assert isinstance(captured.model, CapturedRunner)
    cache = filled(captured.model)
    alone = chain((5, 6), 40, read=(0, 1))
    beside = chain_with_groups(
        (5, 6), 40, [(1, captured.traits.draft_masks)], shifts=True, drafter=True
    )
    readings = captured.model(beside, cache, Sampling())
    assert readings[:2] == captured.model(alone, cache, Sampling())


def test_drafts_follow_from_each_other_on_the_device() -> None:
    """Groups of several lengths, some longer than the masks, in a step of two sequences."""
    clear, captured = (subject("adapted", kind) for kind in BOTH)
    masks = captured.traits.draft_masks
    steps = [
        chain_with_groups(
            (5, 9, 8), 40, [(0, masks[:1]), (2, (*masks, masks[-1]))], shifts=True, drafter=True
        ),
        chain_with_groups((7,), 3, [(0, masks)], shifts=True, drafter=True, sequence=1),
        chain((11, 12), 3, read=(1,), sequence=1),
    ]
    assert isinstance(clear.model, ModelRunner)
    assert isinstance(captured.model, CapturedRunner)
    caches = filled(clear.model), filled(captured.model)
    for order in itertools.permutations(steps[:2]):
        step = joined([*order, steps[2]])
        assert captured.model.bucket(step, caches[1]) is not None
        ours = captured.model(step, caches[1], Sampling())
        assert_alike(ours, clear.model(step, caches[0], Sampling()))


def test_clear_and_captured_steps_share_their_pages() -> None:
    """A prompt of more rows than a bucket holds is computed clear, unless its rows are exact."""
    clear, captured = both("nemotron: YaRN and query scale")
    rows = ROWS[-1] + 3
    tokens = prompt_of(rows + 9)
    caches = [empty_cache(512), empty_cache(512)]
    for exact in (False, True):
        found: list[tuple[Reading, ...]] = []
        for model, cache in zip((clear, captured), caches, strict=True):
            sequence, _ = cache.open(tokens, 200, exact=exact)
            for start, end in [(0, rows), (rows, rows + 4)]:
                step = chain(tokens[start:end], start, sequence=sequence)
                model(step, cache, Sampling())
                cache.keep(step, tuple(range(step.rows)))
            step = chain(tokens[rows + 4 :], rows + 4, read=(0, 4), sequence=sequence)
            found.append(model(step, cache, Sampling()))
        assert_alike(*found)


@pytest.mark.parametrize("name", ["small", "adapted"])
def test_bf16_is_as_near_to_fp32_as_clear_steps_are(name: str) -> None:
    """Kernels round at other places than the clear runner does; neither may be worse for it."""
    clear, exact = subject(name, "bfloat16"), subject(name, "float32")
    model = clear.model
    assert isinstance(model, ModelRunner)
    captured = CapturedRunner(
        model.network, device=DEVICE, adapter=model.adapter, drafts=model.drafts
    )
    tokens, start = prompt_of(70), 40
    if name == "adapted":
        hung = [(2, clear.traits.draft_masks)]
        step = chain_with_groups(tokens[40:60], start, hung, shifts=True, drafter=True)
    else:
        step = chain_with_groups(tokens[40:60], start, [(2, (MASK_ID,) * 4)], shifts=False)
    found: list[torch.Tensor] = []
    for subject_, runner in ((exact, exact.model), (clear, model), (clear, captured)):
        cache = subject_.cache(512)
        sequence, _ = cache.open(tokens, 100)
        fed = chain(tokens[:start], 0, sequence=sequence)
        runner(fed, cache, Sampling())  # pyright: ignore[reportArgumentType]
        cache.keep(fed, tuple(range(start)))
        found.append(runner.logits(step, cache))  # pyright: ignore[reportArgumentType]
    truth, theirs, ours = found
    assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max()
    assert (ours - truth).abs().mean() <= 1.5 * (theirs - truth).abs().mean()


class Other(nn.Module):
    """A projection that is no `nn.Linear`, as those with quantised weights are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize("name", ["small", "adapted"])
def test_projections_of_another_class_are_called(name: str) -> None:
    plain = subject(name, "captured float32").model
    assert isinstance(plain, CapturedRunner)
    network = copy.deepcopy(plain.network)
    linears = [path for path, each in network.named_modules() if type(each) is nn.Linear]
    for path in linears:
        network.set_submodule(path, Other(network.get_submodule(path)))
    other = CapturedRunner(network, device=DEVICE, adapter=plain.adapter, drafts=plain.drafts)
    caches = filled(plain), filled(other)
    steps = [chain((5, 6, 7), LENGTHS[1], read=(0, 2), sequence=1)]
    if plain.draft_masks:
        hung = (0, plain.draft_masks)
        steps.append(chain_with_groups((5,), LENGTHS[0], [hung], shifts=True, drafter=True))
    for step in steps:
        found, expected = (
            model(step, cache, Sampling())
            for model, cache in zip((other, plain), caches, strict=True)
        )
        assert_alike(found, expected)


def test_every_causal_mode_is_exact_when_asked() -> None:
    clear, captured = (subject("small", kind) for kind in BOTH)
    for mode in EXACT_MODES:
        request = request_of(mode, prompt_of(31), 12, exact=True)
        found, expected = (each.run(request)[-1].progress for each in (captured, clear))
        assert found.committed == expected.committed
        assert found.confidences == pytest.approx(expected.confidences, rel=1e-3)


def test_a_store_that_is_given_up_takes_its_steps_with_it() -> None:
    captured = both("nemotron: one K/V head")[1]
    cache = filled(captured)
    assert len(captured._steps) == 1
    del cache
    assert len(captured._steps) == 0


def test_a_drafting_row_without_an_adapter_is_refused() -> None:
    captured = both("nemotron: one K/V head")[1]
    cache = empty_cache(64, captured.network.config)
    cache.open((1,), 10)
    step = Step((5, MASK_ID), (0, 0), (0, 1), (-1, 0), (1, 1), (True, True), (1,))
    with pytest.raises(AssertionError, match="adapter"):
        captured(step, cache, Sampling())
