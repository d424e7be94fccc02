"""What was measured of one request, by both engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ours:
    """This server's answer. Times are milliseconds from sending the request.

    Attributes:
        first: until text was shown: the first draft with text, or the answer; None without any.
        final: until the answer.
        recomputed: the prompt tokens that the engine computed; None if it was not asked, because
            what was shown before still stood.
    """

    first: float | None
    final: float
    recomputed: int | None


@dataclass(frozen=True, slots=True)
class Theirs:
    """The answer of llama.cpp's `/infill`, which comes whole.

    Attributes:
        final: milliseconds from sending the request until the answer.
        recomputed: the prompt tokens that it computed.
        is_empty: whether it had no text.
    """

    final: float
    recomputed: int
    is_empty: bool
