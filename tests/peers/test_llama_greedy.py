"""Greedy continuations of a real model equal llama.cpp's, up to near-ties.

The peer writes; each token that it wrote must be the argmax of our logits behind the same tokens,
or miss it by no more than rounding explains: llama.cpp multiplies weights of 4 to 6 bits with
activations that it rounds to 8. Prompts are holes in a package that no model of this project saw.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip(
    "xllamacpp", reason="xllamacpp has no wheel for this system", exc_type=ImportError
)

from engine.model.source import open_checkpoint
from tests.peers.awkward import held_out_sources
from tests.peers.llama_peer import LlamaPeer
from tests.peers.real_model import Logits, our_logits, real_model

PROMPTS = 20
TOKENS_MAX = 16
# Logits. Of 320 tokens of Qwen2.5-Coder 0.5B in Q4_K_M seven were not our argmax, the farthest 0.22
# below it, with the weights multiplied out to fp32.
NEAR_TIE = 0.5


@pytest.fixture(scope="module")
def ours() -> Logits:
    return our_logits(real_model())


@pytest.fixture(scope="module")
def peer(ours: Logits) -> Iterator[LlamaPeer]:
    peer = LlamaPeer(real_model(), threads=2)
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def prompts(ours: Logits) -> list[tuple[int, ...]]:
    """Infilling prompts at even distances through the held-out package's larger files."""
    tokenizer = open_checkpoint(real_model()).tokenizer
    infill = tokenizer.infill
    assert infill is not None
    texts = held_out_sources(PROMPTS)
    found = []
    for index in range(PROMPTS):
        text = texts[index % len(texts)]
        at = 600 + (index * 997) % (len(text) - 1600)
        pieces = (text[at + 200 : at + 400], text[at - 500 : at], text[at + 40 : at + 200])
        found.append(infill.prompt(*(tokenizer.encode(piece) for piece in pieces)))
    return found


@pytest.mark.parametrize("number", range(PROMPTS))
def test_the_peers_tokens_are_ours(
    ours: Logits, peer: LlamaPeer, prompts: list[tuple[int, ...]], number: int
) -> None:
    prompt = prompts[number]
    written = peer.greedy(prompt, TOKENS_MAX)
    assert written
    logits = ours([*prompt, *written[:-1]])[len(prompt) - 1 :]
    best = logits.max(axis=-1)
    missed = best - np.take_along_axis(logits, np.array(written)[:, None], axis=-1)[:, 0]
    assert missed.max() <= NEAR_TIE
    # Near-ties are rare: hardly any token may need the excuse.
    assert (missed > 0).sum() <= 2
