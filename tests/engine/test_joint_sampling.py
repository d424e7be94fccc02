"""Above temperature 0 a speculative mode has the distribution of "ar": three tokens jointly.

The exact joint distribution comes from plain causal passes of a network with five tokens, without
cache, steps or sampling code; the samples from the decoding loop, one seed each. They are the last
three of five tokens: by then every mode has verified drafts. Pearson's statistic over all triples
is compared with the 0.1 % point of its chi-square distribution.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch

import engine.decoders.strategy
import engine.sampling
from engine.api import BlockOptions, Limits, Request, Sampling
from engine.auto.step_times import StepTimes
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.loop import decode
from engine.model.network import Network
from engine.sampling import uniform
from tests.engine.graphs import GraphModel, graph_model
from tests.engine.seeded import CONFIG, DEVICE, MASK_ID, causal_logits, empty_cache, seeded_network
from tests.engine.subjects import CAPTURED, FLOAT32, runner

TINY = replace(
    CONFIG, vocabulary=5, hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, head_dim=8
)
TOKENS = tuple(token for token in range(TINY.vocabulary) if token != MASK_ID)
PROMPT = (4, 2, 0, 1, 4, 2, 0, 1, 4, 2)  # repeats itself: there is something to copy
LENGTH = 5
TEMPERATURE = 1.5
SAMPLES = 600
SIGNIFICANCE = 0.001
EXPECTED_MIN = 5.0  # of a cell; rarer triples are counted together
SPECULATIVE = ("linear_spec", "quadratic_spec", "pruned_spec", "copy_spec")
# A step of many rows costs what one row costs, so that the modes draft as much as they can.
TRAITS = Traits(MASK_ID, costs=StepTimes((1, 128), (1.0, 1.0), is_measured=False))


@cache
def network() -> Network:
    return seeded_network(3, TINY)


@cache
def exact_joint() -> dict[tuple[int, ...], float]:
    """The probability of every triple at the last three of five places after the prompt."""
    joint: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        joint = {
            (*text, token): mass * probability
            for text, mass in joint.items()
            for token, probability in zip(TOKENS, next_token(text), strict=True)
        }
    triples: dict[tuple[int, ...], float] = {}
    for text, mass in joint.items():
        triples[text[-3:]] = triples.get(text[-3:], 0.0) + mass
    assert abs(sum(triples.values()) - 1) < 1e-9
    return triples


def next_token(text: tuple[int, ...]) -> list[float]:
    """The probabilities of TOKENS after the prompt and a text."""
    logits = causal_logits(network(), PROMPT + text)[-1, list(TOKENS)].double()
    return torch.softmax(logits / TEMPERATURE, dim=-1).tolist()


@cache
def graph() -> GraphModel:
    return graph_model(network())


def sampled(mode: str, exact: bool, kind: str = "float32") -> Counter[tuple[int, ...]]:
    """Counts the last three tokens of the texts for many seeds.

    Args:
        kind: one of FLOAT32, what computes.
    """
    if kind == "onnx float32":
        model, store = graph(), ArrayCache(CacheShape.of(TINY), 64, half=False)
    else:
        model, store = runner(kind)(network().to(DEVICE), device=DEVICE), empty_cache(64, TINY)
    triples: Counter[tuple[int, ...]] = Counter()
    for seed in range(SAMPLES):
        sampling = Sampling(TEMPERATURE, seed=seed)
        request = Request(PROMPT, mode, Limits(LENGTH), sampling, BlockOptions(4), exact=exact)
        states = decode(model, store, STRATEGIES[mode], request, TRAITS)
        *_, last = states
        triples[last.progress.committed[-3:]] += 1
    return triples


def chance_of(triples: Counter[tuple[int, ...]]) -> float:
    """The probability of a statistic at least this large if the exact joint distribution holds."""
    assert triples.total() == SAMPLES
    assert triples.keys() <= exact_joint().keys(), "a token that cannot be drawn"
    expected, observed = [0.0], [0]  # the first cell takes all rare triples
    for triple, probability in exact_joint().items():
        if probability * SAMPLES < EXPECTED_MIN:
            expected[0] += probability * SAMPLES
            observed[0] += triples[triple]
        else:
            expected.append(probability * SAMPLES)
            observed.append(triples[triple])
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(expected) - 1
    assert freedom > 30, "too few cells to say anything"
    # The chi-square distribution's upper tail is a regularised incomplete gamma function.
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.parametrize("kind", FLOAT32)
@pytest.mark.parametrize("mode", SPECULATIVE)
def test_three_tokens_follow_the_exact_joint_distribution(mode: str, kind: str) -> None:
    # Exact steps are computed alike, captured or not.
    triples = sampled(mode, exact=mode == "linear_spec" and kind not in CAPTURED, kind=kind)
    assert chance_of(triples) > SIGNIFICANCE


@pytest.mark.parametrize("mode", SPECULATIVE)
def test_believing_every_draft_is_found_out(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A broken acceptance: what follows a wrong draft is emitted after the right token."""
    monkeypatch.setattr(
        engine.decoders.strategy, "accepted_length", lambda drafts, tokens: len(tokens)
    )
    assert chance_of(sampled(mode, exact=False)) < SIGNIFICANCE


def test_one_number_for_all_places_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each single token has the right distribution then, but their joint distribution is wrong."""
    monkeypatch.setattr(engine.sampling, "uniform", lambda seed, position: uniform(seed, 0))
    assert chance_of(sampled("copy_spec", exact=False)) < SIGNIFICANCE
