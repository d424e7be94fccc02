"""Probes have one obvious line missing; the verdict says no more than the figures bear."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lab.verify.modes import Decoded, Difference, Reference, first_difference
from engine.lab.verify.probes import (
    Believed,
    bits_of,
    hole_prompt,
    similarity,
    untried_format,
    verdict,
)
from engine.lab.verify.texts import PROBES
from engine.prompt import InfillFormat
from tests.engine.seeded import causal_logits, prompt_of, seeded_network
from tests.tiny import byte_tokenizer, tekken_tokenizer


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.middle)
def test_every_probe_misses_one_line_with_code_after_it(probe) -> None:
    assert "\n" not in probe.middle
    assert probe.middle == probe.middle.strip()
    assert probe.after.strip()
    assert "¦" not in probe.before + probe.middle + probe.after


@pytest.mark.parametrize("probe", [p for p in PROBES if "def " in p.before + p.after])
def test_a_python_probe_with_its_filling_is_python(probe) -> None:
    compile(probe.before + probe.middle + probe.after, "probe", "exec")


def test_a_prompt_holds_prefix_and_whole_suffix_in_order() -> None:
    tokenizer = byte_tokenizer()
    infill = tokenizer.infill
    assert isinstance(infill, InfillFormat)
    for probe in PROBES:
        prompt = hole_prompt(probe.before, probe.after, infill, tokenizer)
        places = [prompt.index(i) for i in (infill.far, infill.prefix, infill.near, infill.middle)]
        far, prefix, near = (tokenizer.decode(prompt[a + 1 : b]) for a, b in pairwise(places))
        assert prefix == probe.before
        assert near + far == probe.after
        assert near.count("\n") <= 2


def believed(own: float, other: float, alone: float) -> Believed:
    return Believed(own, other, alone, 0.5)


@given(st.integers(3, 40), st.integers(0, 2**32))
def test_a_format_whose_suffix_helps_every_hole_works(count: int, seed: int) -> None:
    draw = random.Random(seed).uniform
    holes = [believed(2 + draw(-0.1, 0.1), 5 + draw(-1, 1), 6 + draw(-1, 1)) for _ in range(count)]
    assert verdict(holes) is True


@given(st.integers(3, 40), st.integers(0, 2**32))
def test_a_format_that_costs_every_hole_does_not_work(count: int, seed: int) -> None:
    draw = random.Random(seed).uniform
    holes = [believed(6 + draw(-1, 1), 6 + draw(-1, 1), 3 + draw(-1, 1)) for _ in range(count)]
    assert verdict(holes) is False


def test_too_few_holes_or_none_with_an_effect_tell_nothing() -> None:
    assert verdict([believed(1, 9, 9)] * 2) is None
    assert verdict([believed(3, 3, 3)] * 12) is None
    # Markers may help as any frame does; only its own suffix's help shows that it is read.
    assert verdict([believed(3, 3 + 0.1 * (-1) ** i, 6 + i / 10) for i in range(12)]) is None


def test_bits_are_those_of_a_plain_causal_pass() -> None:
    network = seeded_network()
    prompt, middle = prompt_of(20), prompt_of(5, seed=1)
    likelihoods = causal_logits(network, (*prompt, *middle)).log_softmax(-1).exp().log2()
    expected = -sum(float(likelihoods[19 + i, token]) for i, token in enumerate(middle)) / 5
    bits, end = bits_of(network, prompt, middle, (2, 7, 2))
    assert bits == pytest.approx(expected, rel=1e-4)
    last = likelihoods[-1].exp2()
    assert end == pytest.approx(float(last[2] + last[7]), rel=1e-4)


@given(st.text(max_size=30), st.text(max_size=30))
def test_similarity_is_1_only_for_equal_texts(left: str, right: str) -> None:
    assert similarity(left, left) == 1.0
    assert (similarity(left, right) == 1.0) == (left == right)


def test_markers_that_nobody_vouches_for_are_tried_suffix_first() -> None:
    tokenizer = tekken_tokenizer()
    assert tokenizer.infill is None
    untried = untried_format(tokenizer, (11,))
    assert untried is not None
    assert untried.prompt((7,), (8,), (9,)) == (1, 16, 9, 7, 14, 8)
    assert untried_format(byte_tokenizer(infilling=False), (2,)) is None


def test_the_first_difference_from_ar_comes_with_the_gap_of_its_logits() -> None:
    logits = causal_logits(seeded_network(), prompt_of(4))
    tokens = tuple(logits.argmax(-1).tolist())
    reference = Reference(Decoded(tokens, False, 3, 3, 1.0), logits, noise=0.5)
    assert first_difference(tokens, reference) is None
    second = int(logits[2].topk(2).indices[1])
    gap = float(logits[2].max() - logits[2, second])
    found = first_difference((*tokens[:2], second, tokens[3]), reference)
    assert found == Difference(2, pytest.approx(gap), 0.5)
    assert Difference(0, 1.0, 0.5).is_near_tie
    assert not Difference(0, 1.01, 0.5).is_near_tie
