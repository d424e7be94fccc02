"""The laws of decoding, on a small seeded network in fp32, in torch and as an ONNX graph:
certificate, exactness, equivalences.

Activations of different groupings of rows differ in the last bits, so equalities of logits carry a
tolerance of fp32 rounding; equalities of tokens and of cache content carry none.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import EXACT_MODES, BlockOptions, Limits, Request, Sampling
from engine.auto.step_times import prefill_rows
from engine.cache.arrays import ArrayCache
from engine.cache.pages import PAGE_TOKENS
from engine.decoders import STRATEGIES, strategy_for
from engine.loop import decode
from engine.step import chain, group, joined
from tests.engine.seeded import MASK_ID, causal_logits, masked_logits, prompt_of
from tests.engine.subjects import FLOAT32, Subject, subject

MODES = tuple(STRATEGIES)
SPECULATIVE = ("linear_spec", "quadratic_spec", "pruned_spec", "copy_spec")
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=FLOAT32)
def tried(request: pytest.FixtureRequest) -> Subject:
    """A network that fills masks."""
    return subject("small", request.param)


@pytest.fixture(
    scope="module", params=itertools.product(("small", "adapted"), FLOAT32), ids=" ".join
)
def decoding(request: pytest.FixtureRequest) -> Subject:
    """A network that fills masks, or one whose masks predict the token after their place."""
    return subject(*request.param)


def request_of(mode: str, prompt: tuple[int, ...], tokens_max: int = 20, **options) -> Request:
    return Request(
        prompt,
        mode,
        Limits(tokens_max),
        Sampling(options.pop("temperature", 0.0), seed=options.pop("seed", 0)),
        BlockOptions(8, options.pop("threshold", 0.3), options.pop("revisions", 0)),
        **options,
    )


@pytest.mark.parametrize("length", [1, 15, 16, 17, 70, 300])
def test_ar_tokens_are_the_argmax_of_a_plain_causal_pass(tried: Subject, length: int) -> None:
    """The certificate for "ar", and its exactness at once: one pass without cache or steps."""
    prompt = prompt_of(length)
    emitted = tried.run(request_of("ar", prompt))[-1].progress.committed
    logits = causal_logits(tried.network, prompt + emitted)
    logits[:, MASK_ID] = float("-inf")
    assert emitted == tuple(logits[length - 1 : -1].argmax(-1).tolist())


@pytest.mark.parametrize("mode", SPECULATIVE)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("tokens_max", [1, 2, 9, 40])
def test_speculation_emits_what_ar_emits(
    decoding: Subject, mode: str, temperature: float, tokens_max: int
) -> None:
    """In fp32 even without exact mode, as this network has no near-ties; at any temperature, since
    draws depend on the place. `test_exact.py` has the law without conditions."""
    for seed in range(4):
        prompt = (
            prompt_of(30 + seed, seed) * 2
        )  # repeats itself, so that there is something to copy
        options = {"temperature": temperature, "seed": seed}
        expected = decoding.run(request_of("ar", prompt, tokens_max, **options))[-1]
        last = decoding.run(request_of(mode, prompt, tokens_max, **options))[-1]
        assert last.progress.committed == expected.progress.committed
        assert last.progress.confidences == pytest.approx(expected.progress.confidences, rel=1e-3)
        assert last.forwards <= 2 * tokens_max


@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_every_block_token_is_the_argmax_of_the_row_that_decided_it(
    tried: Subject, threshold: float
) -> None:
    """The certificate for "block": replays every denoising state without cache."""
    prompt = prompt_of(40)
    states = tried.run(request_of("block", prompt, threshold=threshold))
    before: list[int | None] = []
    for state in states:
        progress = state.progress
        now = [*progress.committed, *[place.token for place in progress.draft]]
        for index, token in enumerate(now):
            if token is not None and (index >= len(before) or before[index] is None):
                assert token == replay(tried, prompt, before, index), (before, now)
        before = now


def replay(tried: Subject, prompt: tuple[int, ...], before: list[int | None], index: int) -> int:
    """The token that an uncached pass gives for place `index`, from the state before it."""
    start = index - index % 8
    known = [token for token in before[:start] if token is not None]
    assert len(known) == start
    if index == start:  # a bonus token, predicted causally by the token before it
        logits = causal_logits(tried.network, (*prompt, *known))[-1]
    else:
        block = [MASK_ID if token is None else token for token in before[start : start + 8]]
        block += [MASK_ID] * (8 - len(block))
        tokens = (*prompt, *known, *block)
        mask = torch.ones(len(tokens), len(tokens)).tril().bool()
        mask[-8:, -8:] = True
        logits = masked_logits(tried.network, tokens, mask)[len(prompt) + index]
    logits[MASK_ID] = float("-inf")
    return int(logits.argmax())


def test_an_impossible_threshold_decides_one_token_per_denoising_step(tried: Subject) -> None:
    states = tried.run(request_of("block", prompt_of(33), 24, threshold=1.5))
    decided = [
        len(s.progress.committed) + sum(p.token is not None for p in s.progress.draft)
        for s in states
    ]
    decoding = decided[decided.index(1) :]  # from the first bonus token on
    # A bonus token comes with the forward that caches the block before it; others are denoised.
    assert decoding == list(range(1, 25))
    assert states[-1].forwards == 23


@given(
    mode=st.sampled_from(MODES),
    shared=st.integers(0, 60),
    rest=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_a_reused_prefix_decodes_as_a_fresh_one(
    decoding: Subject, mode: str, shared: int, rest: int, temperature: float
) -> None:
    common = prompt_of(shared, seed=1)
    cache = decoding.cache()
    decoding.run(request_of("ar", common + prompt_of(50, seed=2)), cache)
    request = request_of(mode, common + prompt_of(rest, seed=3), 12, temperature=temperature)
    reused = decoding.run(request, cache)
    fresh = decoding.run(request)
    assert reused[0].cached >= min(shared, shared + rest - 1) // PAGE_TOKENS * PAGE_TOKENS
    assert reused[-1].progress.committed == fresh[-1].progress.committed


def test_cached_logits_equal_uncached_ones(tried: Subject) -> None:
    tokens = prompt_of(90)
    cache = tried.cache()
    sequence, _ = cache.open(tokens, 200)
    for start, end in [(0, 1), (1, 18), (18, 50), (50, 51)]:
        step = chain(tokens[start:end], start, read=(), sequence=sequence)
        tried.model.logits(step, cache)
        cache.keep(step, tuple(range(step.rows)))
    step = chain(tokens[51:], 51, read=tuple(range(39)), sequence=sequence)
    expected = causal_logits(tried.network, tokens)[51:]
    torch.testing.assert_close(tried.model.logits(step, cache), expected, **ROUNDING)


def test_batched_rows_equal_rows_alone(tried: Subject) -> None:
    """Three sequences of different lengths and kinds in one step."""
    cache = tried.cache()
    steps = []
    for index, length in enumerate([5, 40, 64]):
        prompt = prompt_of(length, seed=index)
        sequence, _ = cache.open(prompt, 200)
        fed = chain(prompt, 0, sequence=sequence)
        tried.model.logits(fed, cache)
        cache.keep(fed, tuple(range(length)))
        block = (7, MASK_ID, 9, MASK_ID)
        steps.append(
            group(block, length, read=(0, 1, 3), sequence=sequence)
            if index % 2
            else chain(block, length, read=(0, 1, 3), sequence=sequence)
        )
    alone = torch.cat([tried.model.logits(step, cache) for step in steps])
    torch.testing.assert_close(tried.model.logits(joined(steps), cache), alone, **ROUNDING)


def test_a_block_sees_itself_and_the_cache_but_not_the_future_and_is_not_cached(
    tried: Subject,
) -> None:
    prompt = prompt_of(20)
    cache = tried.cache()
    sequence, _ = cache.open(prompt, 100)
    fed = chain(prompt, 0, sequence=sequence)
    tried.model.logits(fed, cache)
    cache.keep(fed, tuple(range(20)))
    before = cache.counts()
    block = (11, MASK_ID, MASK_ID, 12)
    logits = tried.model.logits(group(block, 20, read=(0, 1, 2, 3), sequence=sequence), cache)
    mask = torch.ones(24, 24).tril().bool()
    mask[20:, 20:] = True
    expected = masked_logits(tried.network, prompt + block, mask)[20:]
    torch.testing.assert_close(logits, expected, **ROUNDING)
    assert cache.counts() == before
    with pytest.raises(AssertionError):
        cache.keep(group(block, 20, read=(0,), sequence=sequence), (0,))


@pytest.mark.parametrize(
    ("mode", "exact"), [*((mode, False) for mode in MODES), *((mode, True) for mode in EXACT_MODES)]
)
def test_cancelling_at_any_step_leaks_nothing(decoding: Subject, mode: str, exact: bool) -> None:
    request = request_of(mode, prompt_of(3 * PAGE_TOKENS + 3), exact=exact)
    total = len(decoding.run(request))
    for steps in range(total):
        cache = decoding.cache()
        states = decoding.run(request, cache, steps)
        counts = cache.counts()
        assert counts.in_use == counts.reserved == 0
        assert not (cache._open if isinstance(cache, ArrayCache) else cache._exact)
        assert states[-1].stopped == "cancelled" or states[-1].progress.finished
        # The prompt's finished pages stay: the next request does not compute them again.
        if steps > 1:
            assert decoding.run(request, cache, 0)[0].cached >= 3 * PAGE_TOKENS


@pytest.mark.parametrize("mode", MODES)
def test_closing_the_iterator_leaks_nothing(decoding: Subject, mode: str) -> None:
    cache = decoding.cache()
    request = request_of(mode, prompt_of(50))
    states = decode(
        decoding.model, cache, strategy_for(mode, decoding.traits), request, decoding.traits
    )
    next(states)
    next(states)
    states.close()
    assert cache.counts().in_use == cache.counts().reserved == 0


@pytest.mark.parametrize(
    ("mode", "revisions"), [*((mode, 0) for mode in MODES), ("block", 3), ("block", 1000)]
)
def test_committed_tokens_never_change(decoding: Subject, mode: str, revisions: int) -> None:
    states = decoding.run(request_of(mode, prompt_of(21), 30, revisions=revisions))
    for earlier, later in itertools.pairwise(states):
        committed = earlier.progress.committed
        assert later.progress.committed[: len(committed)] == committed
    assert states[-1].progress.finished == "length"
    assert len(states[-1].progress.committed) == 30


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [0, 1, 7, 8, 9, 19])
def test_decoding_ends_before_the_first_stop_token(decoding: Subject, mode: str, at: int) -> None:
    free = request_of(mode, prompt_of(25))
    tokens = decoding.run(free)[-1].progress.committed
    stop = tokens[at]
    first = tokens.index(stop)
    request = request_of(mode, prompt_of(25), stop_token_ids=(stop,))
    last = decoding.run(request)[-1].progress
    assert stop not in last.committed
    if mode != "block":  # an uncertain end waits for the places before it, and may change then
        assert last.finished == "end"
        assert last.committed == tokens[:first]


@pytest.mark.parametrize("mode", MODES)
def test_the_step_budget_ends_decoding_with_what_is_final(decoding: Subject, mode: str) -> None:
    request = Request(prompt_of(25), mode, Limits(20, steps_max=4), block=BlockOptions(8, 1.5))
    last = decoding.run(request)[-1]
    assert (last.stopped, last.forwards) == ("steps", 4)


@pytest.mark.parametrize("mode", MODES)
def test_no_tokens_asked_for_only_fills_the_cache(decoding: Subject, mode: str) -> None:
    cache = decoding.cache()
    last = decoding.run(request_of(mode, prompt_of(40), 0), cache)[-1]
    assert (last.progress.finished, last.progress.committed) == ("length", ())
    assert cache.counts().cached == 2


def test_a_long_prompt_is_fed_in_chunks_that_can_be_cancelled(tried: Subject) -> None:
    rows = prefill_rows(tried.traits.costs)
    states = tried.run(request_of("ar", prompt_of(700), 1))
    assert len(states) == 1 + -(-700 // rows)
    assert len(states) > 5
    assert states[-1].forwards == 0


def test_temperature_draws_depend_on_seed_and_position_alone(decoding: Subject) -> None:
    request = request_of("ar", prompt_of(20), temperature=1.0, seed=5)
    once = decoding.run(request)[-1].progress.committed
    again = decoding.run(request)[-1].progress.committed
    other = request_of("ar", prompt_of(20), temperature=1.0, seed=6)
    assert once == again
    assert once != decoding.run(other)[-1].progress.committed


def test_rows_with_the_drafter_on_are_refused_without_an_adapter(tried: Subject) -> None:
    cache = tried.cache()
    sequence, _ = cache.open((1,), 10)
    step = group((5, MASK_ID), 0, read=(1,), sequence=sequence, drafter=True)
    with pytest.raises(AssertionError, match="adapter"):
        tried.model(step, cache, Sampling())
