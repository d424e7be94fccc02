"""Laws of a reused suffix: what is computed with it, what it costs, and who never meets it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from engine.api import EXACT_MODES, Limits, Request
from engine.cache.pages import PAGE_TOKENS
from engine.cache.suffixes import DRIFT_MAX
from engine.decoders import strategy_for
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.network import Network
from engine.model.runner import ModelRunner
from tests.engine.graphs import graph_model
from tests.engine.seeded import CONFIG, CPU, MASK_ID, prompt_of, seeded_network
from tests.engine.subjects import FLOAT32, Subject, subject

BEFORE, SUFFIX, TAIL = prompt_of(60, 1), prompt_of(24, 2), (90,)
# What the user has typed, or removed, since the suffix was computed.
DRIFTS = [0, 1, 9, 40, -1, -20]


@pytest.fixture(scope="module", params=FLOAT32)
def plain(request: pytest.FixtureRequest) -> Subject:
    """A network whose attention depends on relative positions alone, without a query scale."""
    config = replace(CONFIG, rope=replace(CONFIG.rope, query_scale_beta=0.0))
    network = seeded_network(config=config)
    model = graph_model(network, "float32") if "onnx" in request.param else None
    runner = model or ModelRunner(network, device=CPU)
    return Subject(request.param, runner, Traits(MASK_ID), ())


@pytest.fixture(
    scope="module", params=itertools.product(("small", "adapted"), FLOAT32), ids=" ".join
)
def decoding(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


def asked(before: tuple[int, ...], mode: str = "ar", *, soon: bool, exact: bool = False) -> Request:
    prompt = (*before, *SUFFIX, *TAIL)
    suffix = (len(before), len(before) + len(SUFFIX))
    limits = Limits(12)
    return Request(prompt, mode, limits, exact=exact, suffix=suffix, reuses_suffix=soon)


def drifted(drift: int) -> tuple[int, ...]:
    return (*BEFORE, *prompt_of(drift, 3)) if drift >= 0 else BEFORE[:drift]


def reference(network: Network, before: tuple[int, ...], emitted: tuple[int, ...]) -> list[int]:
    """The greedy choice at each emitted place, in one pass: the suffix sees only the text that it
    was computed behind, which stands at the same distance before it."""
    tail = (*TAIL, *emitted[:-1])
    parts = (BEFORE, SUFFIX, before, tail)
    moved = len(before) - len(BEFORE)
    starts = (moved, len(before), 0, len(before) + len(SUFFIX))
    sees = ((0,), (0, 1), (2,), (1, 2, 3))
    part_of = [number for number, part in enumerate(parts) for _ in part]
    mask = torch.tensor([[other in sees[mine] for other in part_of] for mine in part_of])
    mask &= torch.ones_like(mask).tril()
    places = [
        start + i for start, part in zip(starts, parts, strict=True) for i in range(len(part))
    ]

    def attend(layer: int, query, key, value):
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(0, 1)

    ids = torch.tensor([token for part in parts for token in part])
    logits = network.logits(network(ids, torch.tensor(places), attend)[-len(tail) :])
    logits[:, MASK_ID] = float("-inf")
    return logits.argmax(-1).tolist()


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_reused_suffix_is_the_earlier_one_at_its_new_place(plain: Subject, drift: int) -> None:
    store = plain.cache()
    plain.run(asked(BEFORE, soon=False), store)
    before = drifted(drift)
    first, *_, last = plain.run(asked(before, soon=True), store)
    emitted = last.progress.committed
    assert list(emitted) == reference(plain.network, before, emitted)
    if drift:  # Without drift the whole prompt is cached.
        held = (len(before) if drift < 0 else len(BEFORE)) // PAGE_TOKENS * PAGE_TOKENS
        assert first.cached >= held + len(SUFFIX)


@pytest.mark.parametrize("mode", EXACT_MODES)
def test_speculation_with_a_reused_suffix_emits_what_ar_emits_with_it(
    decoding: Subject, mode: str
) -> None:
    def emitted(mode: str) -> tuple[int, ...]:
        store = decoding.cache()
        decoding.run(asked(BEFORE, soon=False), store)
        return decoding.run(asked(drifted(5), mode, soon=True), store)[-1].progress.committed

    assert emitted(mode) == emitted("ar")


@pytest.mark.parametrize("exact", [False, True])
def test_other_requests_never_meet_what_was_computed_with_it(
    decoding: Subject, exact: bool
) -> None:
    store, before = decoding.cache(), drifted(3)
    decoding.run(asked(BEFORE, soon=False), store)
    approximate = decoding.run(asked(before, soon=True), store)[-1].progress.confidences
    request = asked(before, soon=exact, exact=exact)  # An exact request may ask for it in vain.
    fresh, again = decoding.run(request), decoding.run(request, store)
    assert again[-1].progress.committed == fresh[-1].progress.committed
    assert approximate != pytest.approx(fresh[-1].progress.confidences, rel=1e-3), (
        "the network notices the difference"
    )
    assert again[0].cached <= len(before)


def test_a_suffix_that_was_reused_is_not_kept_as_the_new_prefix_s_own(decoding: Subject) -> None:
    """Otherwise the drift would add up without a limit."""
    store = decoding.cache(4096)
    decoding.run(asked(BEFORE, soon=False), store)
    half = (*BEFORE, *prompt_of(DRIFT_MAX // 2 + 1, 4))
    whole = (*half, *prompt_of(DRIFT_MAX // 2, 5))
    assert decoding.run(asked(half, soon=True), store)[0].cached > len(SUFFIX)
    first = decoding.run(asked(whole, soon=True), store)[0]
    assert first.cached <= len(whole), "too much has changed for the suffix"
    later = decoding.run(asked((*whole, 5), soon=True), store)[0]
    assert later.cached > len(whole), "its own suffix was computed and kept"


def test_another_request_may_replace_the_suffix_meanwhile(plain: Subject) -> None:
    """Requests take turns, so that others keep suffixes between the decision and its use."""
    request, store = asked(drifted(9), soon=True), plain.cache(4096)
    plain.run(asked(BEFORE, soon=False), store)
    states = decode(plain.model, store, strategy_for("ar", plain.traits), request, plain.traits)
    next(states)
    plain.run(asked(prompt_of(200, 7), soon=False), store)  # the same suffix, another prefix
    *_, last = states
    emitted = last.progress.committed
    assert list(emitted) == reference(plain.network, drifted(9), emitted)


@pytest.mark.parametrize("mode", ["ar", "block", "pruned_spec"])
def test_cancelling_a_request_with_a_reused_suffix_leaks_nothing(
    decoding: Subject, mode: str
) -> None:
    request = asked(drifted(40), mode, soon=True)
    for steps in range(5):  # The prompt up to the suffix, its end, and decoding.
        store = decoding.cache()
        decoding.run(replace(asked(BEFORE, soon=False), limits=Limits(0)), store)
        states = decoding.run(request, store, steps)
        assert store.counts().in_use == store.counts().reserved == 0
        assert states[-1].stopped == "cancelled" or states[-1].progress.finished
