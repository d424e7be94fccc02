"""The certificate: every emitted token is the choice of its own causal row over fp32 logits, and
that row's ancestors are exactly the prompt and the emitted text. In every causal mode, fast and
exact, in torch in both dtypes and on ONNX graphs of every product; block diffusion's certificate is
in `test_laws.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import engine.decoders.strategy
from engine.api import EXACT_MODES, BlockOptions, Limits, Request, Sampling
from engine.model.readout import to_readings
from tests.engine.subjects import FLOAT32, KINDS, NAMES, subject
from tests.engine.witness import certified, greedy, replayed

TOKENS = 16


def request_of(prompt: tuple[int, ...], mode: str, **options: object) -> Request:
    return replace(Request(prompt, mode, Limits(TOKENS), block=BlockOptions(6)), **options)


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@pytest.mark.parametrize("mode", EXACT_MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_each_token_is_the_argmax_of_its_own_row(
    name: str, kind: str, mode: str, exact: bool
) -> None:
    tried = subject(name, kind)
    for prompt in tried.prompts[:2]:
        decisions = certified(tried, request_of(prompt, mode, exact=exact))
        assert len(decisions) == TOKENS
        for decision in decisions:
            assert decision.token == greedy(decision.logits, tried.traits.mask_id)


@pytest.mark.parametrize("mode", EXACT_MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_drawn_token_is_drawn_from_its_own_row(kind: str, mode: str) -> None:
    """Above temperature 0: the draw of (seed, position) from that row's logits alone."""
    tried = subject("tiny", kind)
    sampling = Sampling(0.9, seed=11)
    prompt = tried.prompts[1]
    decisions = certified(tried, request_of(prompt, mode, sampling=sampling, exact=True))
    for place, decision in enumerate(decisions, len(prompt)):
        logits, mask_id = decision.logits[None], tried.traits.mask_id
        (reading,) = to_readings(logits, [place], sampling, mask_id=mask_id)
        assert reading.token == decision.token


@pytest.mark.parametrize("mode", EXACT_MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_exact_replays_to_the_bit(name: str, kind: str, mode: str) -> None:
    """The deciding rows' logits are those of one pass over prompt and text with an empty cache."""
    tried = subject(name, kind)
    request = request_of(tried.prompts[0], mode, exact=True)
    decisions = certified(tried, request)
    tokens = [decision.token for decision in decisions]
    for decision, logits in zip(decisions, replayed(tried, request, tokens), strict=True):
        assert torch.equal(decision.logits, logits)


@pytest.mark.parametrize("kind", FLOAT32)
@pytest.mark.parametrize("mode", ["linear_spec", "copy_spec", "quadratic_spec", "pruned_spec"])
def test_a_wrong_acceptance_has_no_certificate(
    monkeypatch: pytest.MonkeyPatch, mode: str, kind: str
) -> None:
    """Believing every draft leaves tokens whose rows do not follow the emitted text."""
    tried = subject("tiny", kind)
    monkeypatch.setattr(
        engine.decoders.strategy, "accepted_length", lambda drafts, tokens: len(tokens)
    )
    prompt = tried.prompts[0]
    with pytest.raises(AssertionError):
        certified(tried, request_of(prompt, mode))


def test_greedy_takes_the_lowest_of_equal_logits() -> None:
    assert greedy(torch.tensor([0.0, 2.0, 2.0, 9.0]), mask_id=3) == 1
