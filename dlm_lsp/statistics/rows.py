"""What is recorded of a suggestion: figures and a few words of a fixed form, never text or a path.

Plain data. Knows neither the file nor who records.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal

# "unknown" until anything else is known; "typed" if the user typed it to its end by hand.
Fate = Literal["unknown", "accepted", "partly", "typed", "dismissed"]
TAKEN: tuple[Fate, ...] = ("accepted", "partly")
OTHER = "other"

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9+#._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Row:
    """One suggestion that was shown.

    Attributes:
        time: when it was shown first, of `time.time`.
        language, model, mode, source: words of `plain_word`; the mode is the one that decoded, and
            the source says whether the engine was asked, or the text was there already.
        automatic: whether a keystroke and not the user's explicit wish caused the request.
        lines, characters: the size of its text.
        probability: the joint probability of its text; None if unknown.
        line_probability: that of its first line.
        first_ms: the milliseconds from the request to its first text on the screen.
        answer_ms: the milliseconds from the request to the answer.
    """

    id: int
    time: float
    language: str
    model: str
    mode: str
    automatic: bool
    lines: int
    characters: int
    probability: float | None
    line_probability: float | None
    first_ms: float
    answer_ms: float
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """What has become known of a suggestion; None leaves a figure as it is.

    Attributes:
        fate_ms: the milliseconds from showing it to its fate.
        accepted: the characters of it that are accepted.
        kept: how many of these were still there a while later.
    """

    id: int
    fate: Fate | None = None
    fate_ms: float | None = None
    accepted: int | None = None
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A row of the file: a suggestion with all that has become known of it."""

    row: Row
    fate: str
    fate_ms: float | None
    accepted: int
    kept: int | None

    @property
    def is_taken(self) -> bool:
        """Whether the user accepted it, or a part of it."""
        return self.fate in TAKEN


def new_id() -> int:
    """Returns an id that no other window uses."""
    return secrets.randbits(62)


def plain_word(text: str) -> str:
    """Returns a language's or model's name if it is one word of a plain form, else OTHER."""
    return text if _WORD.fullmatch(text) else OTHER
