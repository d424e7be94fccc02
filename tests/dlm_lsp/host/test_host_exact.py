"""Exact mode through the host: it reaches the engine, is answered, or is refused by field name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlm_lsp.client.messages import FinishedEvent, StartedEvent
from engine.api import EXACT_MODES
from tests.dlm_lsp.host.test_host_generate import BODY, JSON, events_of, refusal
from tests.toy_backend import ToyHost


@pytest.mark.parametrize("exact", [True, False])
async def test_exact_reaches_the_engine_and_is_answered(host: ToyHost, exact: bool) -> None:
    events = await events_of(host, {**BODY, "mode": "linear_spec", "exact": exact})
    assert host.backend.jobs[0].request.exact is exact
    assert isinstance(events[0], StartedEvent)
    assert isinstance(events[-1], FinishedEvent)
    assert events[0].exact is events[-1].exact is exact


@pytest.mark.parametrize("device", ["cpu", "cuda"])
async def test_auto_picks_a_mode_that_can_be_exact(host: ToyHost, device: str) -> None:
    host.backend.info = replace(host.backend.info, device=device)
    await events_of(host, {**BODY, "mode": "auto", "exact": True})
    assert host.backend.jobs[0].request.mode in EXACT_MODES


async def test_block_diffusion_cannot_be_exact_and_says_so(host: ToyHost) -> None:
    payload = '{"prefix": "x = ", "mode": "block", "exact": true}'
    status, error = await refusal(host, payload, headers=JSON)
    assert (status, error["param"]) == (400, "exact")
    assert "block" in error["message"]
