"""LSP's framing without input or output: extracts message bodies from chunks of bytes.

Bytes that are not well framed are reported once and skipped up to the next whole header line, so
that a broken message does not affect later ones. Knows neither JSON nor methods nor the source of
the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BODY_BYTES_MAX = 1 << 29  # An editor sends even a 100 MB file in one message.
HEADER_BYTES_MAX = 1 << 13

# Matches a whole header line. The name may follow garbage on the same line, such as the end of a
# body whose stated length was too small. JSON strings cannot contain raw line ends.
_LENGTH_LINE = re.compile(rb"Content-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FramingError:
    """A report of skipped bytes; `message` says why they were skipped."""

    message: str


class FrameReader:
    """Collects bytes and yields message bodies in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._length: int | None = None
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | FramingError]:
        """Adds bytes; yields every body that they complete and every error."""
        self._buffer += data
        while True:
            if self._length is None:
                error = self._read_header()
                if error is not None:
                    yield error
            if self._length is None or len(self._buffer) < self._length:
                return
            with memoryview(self._buffer) as view:
                body = bytes(view[: self._length])
            self._drop(self._length)
            self._length = None
            yield body

    def give_back(self, rest: bytes) -> None:
        """Puts bytes back, to be read before those that follow; may be called while `feed` runs.

        These are the bytes after a whole message whose stated length was too large.
        """
        self._buffer[:0] = rest
        self._searched = 0

    def _read_header(self) -> FramingError | None:
        """Sets `_length` when a header block is complete, and removes the block.

        Returns an error for the first of a run of skipped bytes, otherwise None.
        """
        error: FramingError | None = None
        while self._length is None:
            end = self._header_end()
            if end is None and len(self._buffer) <= HEADER_BYTES_MAX:
                break
            block = bytes(self._buffer[: end if end is not None else -HEADER_BYTES_MAX // 2])
            self._drop(len(block))
            problem, self._length = _read_block(block)
            if problem and not self._skipping:
                error = error or FramingError(f"{problem}; it was skipped")
            self._skipping = self._length is None
        return error

    def _header_end(self) -> int | None:
        """Returns the end of the blank line after the first header block."""
        start = max(0, self._searched - 3)
        for match in re.finditer(rb"\n\r?\n", self._buffer[start:]):
            return start + match.end()
        self._searched = len(self._buffer)
        return None

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._searched = 0


def to_frame(body: bytes) -> bytes:
    """Returns a message body with its header."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _read_block(block: bytes) -> tuple[str | None, int | None]:
    """Returns the problem of a header block, if any, and its content length."""
    lengths = list(_LENGTH_LINE.finditer(block))
    if not lengths:
        return "a header without a valid Content-Length", None
    length = int(lengths[-1][1])
    if length > BODY_BYTES_MAX:
        return f"a message of {length} bytes (at most {BODY_BYTES_MAX} are read)", None
    lead = block[: lengths[-1].start()]
    lines = lead.replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] != b"" or any(line and b":" not in line for line in lines):
        return "bytes before a header", length
    return None, length
