"""Texts of events: whole characters only, no beginning of a stop text, committed never shrinks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from engine.api import MASKED
from engine.decoders.strategy import DraftPlace, Progress
from engine.model.spelling import byte_alphabet
from engine.model.tokenizer import Tokenizer
from engine.transcript import Transcript, mean_confidence


def byte_tokenizer() -> Tokenizer:
    """A tokenizer with one token per byte, whose id is the byte."""
    vocabulary = {character: byte for byte, character in byte_alphabet().items()}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


TOKENIZER = byte_tokenizer()


def committed(data: bytes, *confidences: float) -> Progress:
    """The progress of these bytes, one token each; certain without confidences."""
    return Progress(tuple(data), confidences or (1.0,) * len(data))


def feed(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], Transcript]:
    """`committed` after each byte."""
    transcript = Transcript(TOKENIZER, stop)
    data = text.encode()
    shown = []
    for count in range(len(data) + 1):
        transcript.update(committed(data[:count]))
        shown.append(transcript.committed)
    return shown, transcript


@given(
    st.text(alphabet="ab\né€😀", max_size=20), st.lists(st.text("ab\né", min_size=1, max_size=4))
)
def test_committed_grows_into_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    shown, transcript = feed(text, tuple(stops))
    ends = [text.find(stop) for stop in stops if stop in text]
    final = transcript.finish()
    if ends:
        # Byte by byte, the stop text completed first ends the decoding.
        assert transcript.stopped
        assert text.startswith(final)
        assert not any(stop in final for stop in stops)
    else:
        assert final == text
    for earlier, later in zip(shown, [*shown[1:], final], strict=True):
        assert later.startswith(earlier)
        assert "�" not in later


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello\nworld", ("\n",), "hello"),
        ("a<b<end>c", ("<end>",), "a<b"),
        ("xyx", ("xyz",), "xyx"),
        ("aab", ("ab", "aab"), ""),
    ],
)
def test_stop_texts(text: str, stop: tuple[str, ...], expected: str) -> None:
    assert feed(text, stop)[1].finish() == expected


def test_a_token_may_hold_several_stop_texts_and_the_earliest_wins() -> None:
    transcript = Transcript(TOKENIZER, ("cd", "b"))
    transcript.update(committed(b"abcd"))
    assert transcript.finish() == "a"


def test_the_beginning_of_a_stop_text_is_draft_until_it_is_none() -> None:
    transcript = Transcript(TOKENIZER, ("</end>",))
    transcript.update(committed(b"x</e"))
    assert transcript.committed == "x"
    assert transcript.draft(())[0] == "</e"
    transcript.update(committed(b"x</e."))
    assert transcript.committed == "x</e."


def places(*tokens: str | None) -> list[DraftPlace]:
    return [
        DraftPlace(None) if token is None else DraftPlace(byte, 0.5)
        for token in tokens
        for byte in ([0] if token is None else token.encode())
    ]


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ((), ""),
        ((None, None), ""),
        ((None, "a", None, None), MASKED + "a"),
        ((None, "é", None, "b"), MASKED + "é" + MASKED + "b"),
    ],
)
def test_drafts_show_masks_up_to_the_last_decided_place(
    draft: tuple[str | None, ...], text: str
) -> None:
    shown, spans = Transcript(TOKENIZER, ()).draft(places(*draft))
    assert shown == text
    assert "".join(shown[span.start : span.end] for span in spans) == text
    for span in spans:
        assert span.confidence == (0 if shown[span.start] == MASKED else 0.5)


def test_half_a_character_beside_a_mask_is_not_shown() -> None:
    half = DraftPlace("é".encode()[0], 0.5)
    assert (
        Transcript(TOKENIZER, ()).draft([half, DraftPlace(None), *places("b")])[0] == MASKED + "b"
    )


def test_a_broken_character_at_the_end_is_replaced() -> None:
    transcript = Transcript(TOKENIZER, ())
    transcript.update(committed("a€".encode()[:2]))
    assert transcript.committed == "a"
    assert transcript.finish() == "a�"


def test_each_token_of_a_text_tells_where_it_ends_and_its_probability() -> None:
    transcript = Transcript(TOKENIZER, ())
    transcript.update(committed("aé".encode(), 0.5, 1.0, 0.25))
    assert transcript.logprobs == ((1, -0.693), (1, 0.0), (2, -1.386))
    transcript.update(committed("aéb".encode(), 0.5, 1.0, 0.25, 0.0))
    assert transcript.logprobs[3:] == ((3, round(math.log(1e-12), 3)),)


def test_no_token_reaches_behind_a_stop_text() -> None:
    transcript = Transcript(TOKENIZER, ("bc",))
    transcript.update(committed(b"abcd", 0.5, 0.5, 0.5, 0.5))
    assert transcript.finish() == "a"
    assert [end for end, _ in transcript.logprobs] == [1, 1, 1, 1]


def test_mean_confidence_is_geometric() -> None:
    assert mean_confidence([]) == 1
    assert mean_confidence([0.25, 1.0]) == pytest.approx(0.5)
