"""Framing: any chunking gives the same messages, and a broken message affects no other."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.lsp.framing import BODY_BYTES_MAX, FrameReader, FramingError, to_frame

GOOD = b'{"jsonrpc":"2.0","method":"good"}'
bodies = st.lists(st.binary(max_size=60), max_size=8)


def read(data: bytes, cuts: list[int] | None = None) -> list[bytes | FramingError]:
    reader = FrameReader()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts or []), len(data)]
    return [
        item for start, end in itertools.pairwise(edges) for item in reader.feed(data[start:end])
    ]


@given(bodies, st.lists(st.integers(0, 1000), max_size=12))
def test_any_chunking_gives_the_same_bodies(sent: list[bytes], cuts: list[int]) -> None:
    assert read(b"".join(map(to_frame, sent)), cuts) == sent


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=12))
def test_any_bytes_in_any_chunking_give_the_same_result(data: bytes, cuts: list[int]) -> None:
    whole = [item for item in read(data + to_frame(GOOD)) if isinstance(item, bytes)]
    parts = [item for item in read(data + to_frame(GOOD), cuts) if isinstance(item, bytes)]
    assert parts == whole


@given(st.binary(max_size=200).filter(lambda data: b"ength" not in data))
def test_good_message_behind_any_garbage_is_read(data: bytes) -> None:
    assert read(data + to_frame(GOOD))[-1] == GOOD


def test_header_spellings_are_accepted() -> None:
    for header in (
        b"Content-Length: 2\r\n\r\n",
        b"content-length:2\r\n\r\n",
        b"Content-Length: 2\n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\n\r\n",
        b"Content-Length: 2\r\nContent-Type: x\r\n\r\n",
    ):
        assert read(header + b"{}" + to_frame(GOOD)) == [b"{}", GOOD]


def test_header_without_length_is_reported_once_and_skipped() -> None:
    result = read(b"X: 1\r\n\r\n{}\r\n\r\nY: 2\r\n\r\n{}" + to_frame(GOOD) + to_frame(GOOD))
    assert [type(item) for item in result] == [FramingError, bytes, bytes]
    assert "Content-Length" in result[0].message
    assert result[1:] == [GOOD, GOOD]


def test_length_too_small_costs_one_message() -> None:
    result = read(b"Content-Length: 5\r\n\r\n" + GOOD + to_frame(GOOD))
    assert result[0] == GOOD[:5]
    assert isinstance(result[1], FramingError)
    assert result[2:] == [GOOD]


@given(st.integers(1, 60))
def test_length_too_large_costs_nothing_when_the_rest_is_given_back(excess: int) -> None:
    reader = FrameReader()
    merged = GOOD + to_frame(b"{}") + to_frame(GOOD)
    bodies = []
    for body in reader.feed(b"Content-Length: %d\r\n\r\n" % (len(GOOD) + excess) + merged):
        assert isinstance(body, bytes)
        if body.startswith(GOOD) and len(body) > len(GOOD):
            reader.give_back(body[len(GOOD) :])
            body = GOOD
        bodies.append(body)
    assert bodies == [GOOD, b"{}", GOOD]


def test_length_beyond_the_limit_is_refused_without_reading() -> None:
    result = read(b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1) + to_frame(GOOD))
    assert isinstance(result[0], FramingError)
    assert str(BODY_BYTES_MAX) in result[0].message
    assert result[1:] == [GOOD]


def test_endless_header_does_not_pile_up() -> None:
    reader = FrameReader()
    errors = [item for _ in range(200) for item in reader.feed(b"x" * 4096)]
    assert [type(item) for item in errors] == [FramingError]
    assert len(reader._buffer) < 20_000
    assert list(reader.feed(b"\r\n\r\n" + to_frame(GOOD))) == [GOOD]
