"""Text becomes the same token ids as in llama.cpp, from the same GGUF file.

This is tested on small vocabularies, one for each way of splitting text that both know, and on a
real model if there is one. llama.cpp gets no begin token and reads markers as text. Three intended
differences are left out of the comparison: llama.cpp takes "<tool_call>" in a text for the added
token, takes "▁" for a blank, and its replacement of Tekken's pattern knows only ASCII's capitals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "xllamacpp", reason="xllamacpp has no wheel for this system", exc_type=ImportError
)

from engine.model.gguf_file import read_gguf
from engine.model.gguf_tokenizer import tokenizer_from_gguf
from engine.model.tokenizer import Tokenizer
from tests.peers.awkward import AWKWARD, held_out_sources, mixtures
from tests.peers.llama_peer import LlamaPeer, write_model
from tests.vocabularies import byte_level_metadata, sentencepiece_metadata

MADE: dict[str, dict[str, Any]] = {
    **{
        pre: byte_level_metadata(pre)
        for pre in ("qwen2", "llama-bpe", "tekken", "starcoder", "gpt-2", "default")
    },
    "deepseek-coder": byte_level_metadata("deepseek-coder"),
    "sentencepiece": sentencepiece_metadata(),
}


@dataclass(frozen=True)
class Pair:
    """One file, read by both."""

    ours: Tokenizer
    peer: LlamaPeer
    name: str

    def check(self, text: str) -> None:
        if self.name == "tekken":
            text = text.encode("ascii", "ignore").decode()
        elif self.name == "sentencepiece":
            text = text.replace("▁", "")
        ids = self.ours.encode(text)
        assert ids == self.peer.tokens(text)
        assert self.ours.decode(ids) == text


@pytest.fixture(scope="module", params=MADE)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    write_model(path, MADE[request.param])
    yield from pair_of(path)


@pytest.fixture(scope="module")
def real(real_model: Path) -> Iterator[Pair]:
    yield from pair_of(real_model)


def pair_of(path: Path) -> Iterator[Pair]:
    peer = LlamaPeer(path)
    yield Pair(tokenizer_from_gguf(read_gguf(path).metadata, path.name), peer, path.stem)
    peer.close()


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_text_on_small_vocabularies(made: Pair, name: str) -> None:
    made.check(AWKWARD[name])


def test_mixtures_on_small_vocabularies(made: Pair) -> None:
    for text in mixtures(200):
        made.check(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_text_on_a_real_model(real: Pair, name: str) -> None:
    real.check(AWKWARD[name])


@pytest.mark.slow
def test_mixtures_on_a_real_model(real: Pair) -> None:
    for text in mixtures(1000):
        real.check(text)


@pytest.mark.slow
def test_held_out_sources_on_a_real_model(real: Pair) -> None:
    for text in held_out_sources(100):
        real.check(text)
