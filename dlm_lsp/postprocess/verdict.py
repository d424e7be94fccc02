"""What a rule says of one line of a completion."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """Whether a line stays."""

    KEEP = 0
    UNSURE = 1  # The line may grow into one that must be removed.
    END = 2


def worst(*verdicts: Verdict) -> Verdict:
    """Returns the verdict that removes most."""
    return max(verdicts, key=lambda verdict: verdict.value, default=Verdict.KEEP)
