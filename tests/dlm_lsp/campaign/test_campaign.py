"""Short forms of the campaigns that `make soak` runs at length."""

from __future__ import annotations

import pytest

from tests.dlm_lsp.campaign import in_session
from tests.dlm_lsp.campaign.play import play_in_process, play_process, play_real
from tests.dlm_lsp.campaign.texts import LANGUAGES, offset_of, place, real_texts


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_session_keeps_every_rule(seed: int) -> None:
    counts = (await in_session.play(1500, seed)).counts
    assert counts["answered"] > 50
    assert counts["requests_sent"] > 50
    assert counts["prompts_warmed"] > 5
    assert counts["follow_ups"] > 0


@pytest.mark.parametrize("seed", [0, 1, 2, 5, 7])
async def test_a_server_keeps_every_rule_over_lsp_s_bytes(seed: int) -> None:
    """As clients with different encodings, line ends, ways to tell settings, and menus."""
    counts = (await play_in_process(800, seed)).counts
    assert counts["requests"] == counts["answers"] > 150
    assert counts["answers with text"] > 0
    assert counts["requests sent"] > 10
    assert counts["hostile"] > 5


async def test_a_server_process_keeps_every_rule() -> None:
    counts = (await play_process(400, 3)).counts
    assert counts["requests"] == counts["answers"] > 80


@pytest.mark.slow
async def test_a_server_with_a_real_engine_answers_again_after_its_host_is_killed() -> None:
    played = await play_real(120, 4)
    assert played.counts["requests"] == played.counts["answers"]
    assert played.counts["hosts killed"] == 5
    print(*played.notes, sep="\n")


def test_the_texts_are_real_files_and_positions_are_found_again() -> None:
    assert len(LANGUAGES) == 12
    assert all(any(real_texts(language)) for language in LANGUAGES)
    text = "a😀\r\n語\té\rx\n"
    for encoding in ("utf-8", "utf-16", "utf-32"):
        for offset in range(len(text) + 1):
            if text[max(offset - 1, 0) : offset + 1] != "\r\n":
                assert offset_of(text, *place(text, offset, encoding), encoding) == offset
    assert offset_of(text, 0, 2, "utf-16") is None
    assert offset_of(text, 9, 0) is None
