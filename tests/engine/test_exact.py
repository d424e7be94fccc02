"""Exact mode: a causal row's logits depend on its token, its position and what it sees, to the
bit, so that every causal mode emits what "ar" emits, in torch in either dtype and on ONNX graphs of
every product."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.api import EXACT_MODES, MODES, BlockOptions, Limits, Request, Sampling
from engine.auto.step_times import prefill_rows
from engine.cache.arrays import ArrayCache
from engine.cache.pages import PAGE_TOKENS
from engine.cache.storage import KVCache
from engine.decoders.strategy import Traits
from engine.errors import RequestError
from engine.model.onnx.plan import PRODUCTS, Product
from engine.model.tiles import TILE_ROWS
from engine.step import CACHED, Step, chain, joined
from tests.engine.graphs import graph_model
from tests.engine.model.onnx.families import drafter_of
from tests.engine.seeded import MASK_ID, prompt_of, seeded_network
from tests.engine.subjects import FLOAT32, GRAPHS, KINDS, NAMES, Subject, subject

LENGTH = 3 * TILE_ROWS + 5
SPECULATIVE = EXACT_MODES[1:]


def request_of(prompt: tuple[int, ...], mode: str, tokens_max: int = 16, **options) -> Request:
    sampling = Sampling(options.pop("temperature", 0.0), seed=options.pop("seed", 0))
    block = BlockOptions(options.pop("length", 6))
    return Request(
        prompt, mode, Limits(tokens_max), sampling, block, exact=options.pop("exact", True)
    )


def fed(tried: Subject, tokens: tuple[int, ...], cuts: list[int], *, exact: bool = True) -> Tensor:
    """(len(tokens), V): the logits of all rows, fed in chunks that end at the cuts."""
    cache = tried.cache()
    sequence, _ = cache.open(tokens, len(tokens), exact=exact)
    logits = []
    for start, end in itertools.pairwise([0, *cuts, len(tokens)]):
        read = tuple(range(end - start))
        step = chain(tokens[start:end], start, read=read, sequence=sequence)
        logits.append(tried.model.logits(step, cache))
        cache.keep(step, read)
    return torch.cat(logits)


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), unique=True).map(sorted), seed=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_a_row_does_not_depend_on_the_chunks(kind: str, cuts: list[int], seed: int) -> None:
    tried = subject("tiny", kind)
    tokens = prompt_of(LENGTH, seed)
    assert torch.equal(fed(tried, tokens, cuts), fed(tried, tokens, []))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_row_at_a_time_is_the_same_as_all_at_once(name: str, kind: str) -> None:
    tried = subject(name, kind)
    tokens = prompt_of(TILE_ROWS + 9)
    one_by_one = fed(tried, tokens, list(range(1, len(tokens))))
    assert torch.equal(one_by_one, fed(tried, tokens, []))
    assert torch.equal(one_by_one, fed(tried, tokens, [7, 8, TILE_ROWS, TILE_ROWS + 1]))


@pytest.mark.parametrize("product", PRODUCTS)
def test_two_threads_keep_the_law(product: Product) -> None:
    """Threads share a product by its shape, which is always the same."""
    alone = subject("bundled", f"onnx {product}")
    tried = replace(alone, model=graph_model(alone.network, product, threads=2))
    tokens = prompt_of(TILE_ROWS + 9)
    one_by_one = fed(tried, tokens, list(range(1, len(tokens))))
    assert torch.equal(one_by_one, fed(tried, tokens, [3, 20]))


@pytest.mark.parametrize("kind", ["bfloat16", *GRAPHS])
def test_fast_rows_do_depend_on_the_chunks(kind: str) -> None:
    """The law above can fail: without tiles the last bits differ. Sums of integers are exact, but
    those of attention and of the norms are not."""
    tried = subject("bundled", kind)
    tokens = prompt_of(3 * TILE_ROWS, seed=1)
    cuts = list(range(1, len(tokens)))
    assert not torch.equal(
        fed(tried, tokens, cuts, exact=False), fed(tried, tokens, [], exact=False)
    )


@st.composite
def companions(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """The numbers of masks on a row, of rows of a second path, and of two other sequences' rows."""
    return tuple(draw(st.integers(0, 9)) for _ in range(4))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
@given(cached=st.integers(1, TILE_ROWS + 3), rows=st.integers(1, TILE_ROWS), beside=companions())
@settings(max_examples=25, deadline=None)
def test_a_row_does_not_depend_on_what_else_the_step_has(
    kind: str, cached: int, rows: int, beside: tuple[int, int, int, int]
) -> None:
    """The step also has masks, a second path at the same positions, and other sequences."""
    masks, second, of_exact, of_fast = beside
    tried = subject("tiny", kind)
    tokens = prompt_of(cached + rows)
    cache = tried.cache()
    sequence, _ = cache.open(tokens, 200, exact=True)
    feed(tried, cache, chain(tokens[:cached], 0, sequence=sequence))
    alone = chain(tokens[cached:], cached, read=tuple(range(rows)), sequence=sequence)
    expected = tried.model.logits(alone, cache)
    steps = [with_rows(alone, masks, second)]
    for number, (count, exact) in enumerate([(of_exact, True), (of_fast, False)]):
        if count:
            prompt = prompt_of(5 + count, seed=7 + number)
            other, _ = cache.open(prompt, 100, exact=exact)
            feed(tried, cache, chain(prompt[:5], 0, sequence=other))
            steps.append(chain(prompt[5:], 5, read=(0,), sequence=other))
    for order in (steps, steps[::-1]):
        logits = tried.model.logits(joined(order), cache)
        first = sum(len(step.read) for step in order[: order.index(steps[0])])
        assert torch.equal(logits[first : first + rows], expected)


def feed(tried: Subject, cache: KVCache | ArrayCache, step: Step) -> None:
    tried.model.logits(step, cache)
    cache.keep(step, tuple(range(step.rows)))


def with_rows(step: Step, masks: int, second: int) -> Step:
    """A chain with a group of masks on its last row, and a second path from its first parent."""
    rows, end = step.rows, step.position[-1]
    sequence, start = step.sequence[0], step.position[0]
    return Step(
        token=step.token + (MASK_ID,) * masks + prompt_of(second, seed=5),
        sequence=(sequence,) * (rows + masks + second),
        position=(
            *step.position,
            *range(end + 1, end + 1 + masks),
            *range(start, start + second),
        ),
        parent=(
            *step.parent,
            *[rows - 1] * masks,
            *[CACHED if index == 0 else rows + masks + index - 1 for index in range(second)],
        ),
        group=step.group + (1,) * masks + (0,) * second,
        drafter=(False,) * (rows + masks + second),
        read=(*step.read, *range(rows, rows + masks + second)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_path_is_computed_as_if_alone(kind: str) -> None:
    """Siblings would share the same place in a tile, so each path has its own tiles."""
    tried = subject("tiny", kind)
    cache = tried.cache()
    tokens = prompt_of(40)
    sequence, _ = cache.open(tokens, 200, exact=True)
    feed(tried, cache, chain(tokens[:30], 0, sequence=sequence))
    both = with_rows(chain(tokens[30:], 30, read=tuple(range(10)), sequence=sequence), 0, 8)
    second = chain(prompt_of(8, seed=5), 30, read=tuple(range(8)), sequence=sequence)
    assert torch.equal(tried.model.logits(both, cache)[10:], tried.model.logits(second, cache))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_mode_emits_what_ar_emits(name: str, kind: str, temperature: float) -> None:
    """Tokens and confidences, to the bit, at any temperature."""
    tried = subject(name, kind)
    for seed, prompt in enumerate(tried.prompts[:2]):
        options = {"temperature": temperature, "seed": seed}
        expected = tried.run(request_of(prompt, "ar", **options))[-1]
        for mode in SPECULATIVE:
            last = tried.run(request_of(prompt, mode, **options))[-1]
            assert last.progress.committed == expected.progress.committed
            assert last.progress.confidences == expected.progress.confidences


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_drafter_changes_no_token(product: Product) -> None:
    """The graph has a drafter LoRA, whose rows are computed outside the tiles."""
    network = seeded_network(1)
    model = graph_model(network, product, drafter_of(network.config))
    traits = Traits(MASK_ID, has_drafter=True)
    prompts = tuple(prompt_of(20, seed) for seed in range(3))  # with nothing to copy
    tried = Subject(f"onnx {product}", model, traits, prompts)
    for prompt in prompts:
        expected = tried.run(request_of(prompt, "ar"))[-1].progress
        last = tried.run(request_of(prompt, "linear_spec"))[-1].progress
        assert (last.committed, last.confidences) == (expected.committed, expected.confidences)


@pytest.mark.parametrize("kind", KINDS)
@given(
    mode=st.sampled_from(EXACT_MODES),
    shared=st.integers(0, 60),
    rest=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=12, deadline=None)
def test_a_reused_prefix_decodes_as_a_fresh_one(
    kind: str, mode: str, shared: int, rest: int, temperature: float
) -> None:
    """In bf16 as well, whichever mode cached the prefix."""
    tried = subject("tiny", kind)
    common = prompt_of(shared, seed=1)
    cache = tried.cache()
    tried.run(request_of(common + prompt_of(50, seed=2), mode), cache)
    request = request_of(common + prompt_of(rest, seed=3), mode, 12, temperature=temperature)
    reused, fresh = tried.run(request, cache), tried.run(request)
    assert reused[0].cached >= min(shared, shared + rest - 1) // PAGE_TOKENS * PAGE_TOKENS
    assert reused[-1].progress.committed == fresh[-1].progress.committed
    assert reused[-1].progress.confidences == fresh[-1].progress.confidences


@pytest.mark.parametrize("kind", KINDS)
def test_emitted_text_is_reused_as_if_it_had_been_a_prompt(kind: str) -> None:
    """Pages that decoding filled row by row hold what a prefill would have written."""
    tried = subject("tiny", kind)
    prompt = prompt_of(PAGE_TOKENS + 3)
    cache = tried.cache()
    text = tried.run(request_of(prompt, "copy_spec", 40), cache)[-1].progress.committed
    request = request_of(prompt + text, "ar", 12)
    reused, fresh = tried.run(request, cache), tried.run(request)
    assert reused[0].cached > len(prompt)
    assert reused[-1].progress.confidences == fresh[-1].progress.confidences


@pytest.mark.parametrize("kind", ["bfloat16", "onnx int8"])
def test_a_prompt_of_several_chunks_is_exact(kind: str) -> None:
    tried = subject("tiny", kind)
    prompt = prompt_of((prefill_rows(tried.traits.costs) + 60) // 2) * 2
    texts = {
        tried.run(request_of(prompt, mode, 8))[-1].progress.confidences for mode in EXACT_MODES
    }
    assert len(texts) == 1


@pytest.mark.parametrize("kind", ["bfloat16", "onnx int8"])
def test_exact_and_fast_requests_share_no_page(kind: str) -> None:
    tried = subject("tiny", kind)
    cache = tried.cache()
    prompt = prompt_of(3 * PAGE_TOKENS + 2)
    for exact, is_known in [(False, False), (True, False), (False, True), (True, True)]:
        request = request_of(prompt, "ar", 4, exact=exact)
        cached = tried.run(request, cache)[0].cached
        assert cached >= 3 * PAGE_TOKENS if is_known else cached == 0


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_rows_not_kept_never_reach_the_cache(kind: str) -> None:
    tried = subject("tiny", kind)
    cache = tried.cache()
    tokens = prompt_of(60)
    sequence, _ = cache.open(tokens, 120, exact=True)
    feed(tried, cache, chain(tokens[:37], 0, sequence=sequence))
    stored, counts = stored_by_slot(cache), cache.counts()
    step = with_rows(chain(tokens[37:], 37, read=(0,), sequence=sequence), 4, 3)
    tried.model.logits(step, cache)
    assert torch.equal(stored_by_slot(cache), stored)
    cache.keep(step, (0, 1))
    assert int((stored_by_slot(cache) != stored).any(dim=1).sum()) == 2
    assert cache.counts() == counts  # two more rows, in the page that was begun


def stored_by_slot(cache: KVCache | ArrayCache) -> Tensor:
    """A copy of all keys and values, (slots, numbers of a token)."""
    if isinstance(cache, ArrayCache):
        return torch.from_numpy(cache._store.copy()).flatten(1)
    return cache._store.clone().movedim(1, 0).flatten(1)


@pytest.mark.parametrize("kind", FLOAT32)
def test_a_sequence_opened_anew_is_not_exact_for_the_one_before_it(kind: str) -> None:
    tried = subject("tiny", kind)
    cache = tried.cache()
    sequence, _ = cache.open((5, 6), 10, exact=True)
    other, _ = cache.open((5, 6), 10)
    step = joined([chain((5,), 0, sequence=sequence), chain((5,), 0, sequence=other)])
    assert cache.exact_sequences(step) == {sequence}
    cache.close(sequence)
    anew, _ = cache.open((5, 6), 10)
    step = joined([chain((5,), 0, sequence=anew), chain((5,), 0, sequence=other)])
    assert cache.exact_sequences(step) == set()


def test_what_has_no_causal_twin_is_refused_by_name() -> None:
    assert set(MODES) - set(EXACT_MODES) == {"block"}
    with pytest.raises(RequestError, match="block") as error:
        Request((1,), "block", exact=True)
    assert error.value.param == "exact"
