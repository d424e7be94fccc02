"""A short form of the campaign that `make soak` runs at length."""

from __future__ import annotations

import pytest

from tests.dlm_lsp.session.campaign import play


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_random_campaign_keeps_every_rule(seed: int) -> None:
    counts = await play(1500, seed)
    assert counts["answered"] > 50
    assert counts["requests_sent"] > 50
    assert counts["prompts_warmed"] > 5
    assert counts["follow_ups"] > 0
