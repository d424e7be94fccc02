"""Fast mode leaves "ar" at near-ties alone, exact mode nowhere; and a mistake would be told."""

from __future__ import annotations

import pytest

import engine.decoders.strategy
from engine.api import BlockOptions, Limits, Request
from engine.lab.bench.parity import compare
from engine.lab.verify.modes import LOSSLESS, Runner
from tests.engine.subjects import DTYPES, NAMES, Subject, subject


def requests(tried: Subject, *, exact: bool) -> list[Request]:
    """One for each prompt, in blocks small enough for the quadratic mode."""
    return [
        Request(prompt, "ar", Limits(16), block=BlockOptions(6), exact=exact)
        for prompt in tried.prompts[: 2 if exact else 4]
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_modes_leave_ar_first_at_a_near_tie(name: str, dtype: str) -> None:
    tried = subject(name, dtype)
    for parity in compare(tried.model, requests(tried, exact=False)):
        assert parity.is_rounding, parity
        assert parity.noise > 0
        assert all(difference.gap >= 0 for difference in parity.differences)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_modes_never_leave_ar_and_have_no_noise(name: str, dtype: str) -> None:
    tried = subject(name, dtype)
    for parity in compare(tried.model, requests(tried, exact=True)):
        assert (parity.noise, parity.differences, parity.share) == (0.0, (), 0.0)


def test_a_wrong_acceptance_is_not_taken_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draft is believed: the tokens after a wrong one have a gap that noise cannot make."""
    tried = subject("tiny", "float32")
    asked = requests(tried, exact=False)
    monkeypatch.setattr(
        engine.decoders.strategy, "accepted_length", lambda drafts, tokens: len(tokens)
    )
    for parity in compare(tried.model, asked, ("copy_spec",)):
        assert parity.share > 0
        assert not parity.is_rounding


@pytest.mark.parametrize("mode", LOSSLESS)
def test_stops_do_not_shorten_what_is_compared(mode: str) -> None:
    tried = subject("tiny", "float32")
    request = Request(tried.prompts[0], mode, Limits(8), block=BlockOptions(6))
    first = Runner(tried.model).decode(request).tokens[0]
    stopping = Request(tried.prompts[0], mode, Limits(8), stop_token_ids=(first,))
    assert compare(tried.model, [stopping], (mode,))[0].differences == ()
