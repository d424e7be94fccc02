"""When the model is sure enough of a suggestion for it to be shown while the user types. Pure.

The measure is the probability of the suggestion's whole first line, by the model's own tokens: how
often the line is right is close to it (`benchmarks/silence.md`, which also has the defaults'
choice). A suggestion whose tokens are unknown, as of an older host, is always shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dlm_lsp.session.confidence import PlaceKind, confidence_of, first_line_end
from engine.api import LogProbs

UNSURE = "The model is not sure enough here."
# The least probability of the first line with "auto".
AUTO: Mapping[PlaceKind, float] = {"blank": 0.3, "behind": 0.3, "between": 0.3}


def threshold(setting: float | Literal["auto"], kind: PlaceKind, is_bundled: bool) -> float:
    """Returns the least probability of the first line at a kind of place; 0 shows everything.

    Args:
        setting: the setting `silence.confidence`.
        is_bundled: whether the bundled model answers, for which "auto" shows everything: it is
            there to try the editor with, and was not measured.
    """
    if setting != "auto":
        return setting
    return 0.0 if is_bundled else AUTO[kind]


def is_sure(text: str, logprobs: LogProbs, least: float) -> bool:
    """Returns whether a whole suggestion may be shown."""
    confidence = confidence_of(text, logprobs)
    return least <= 0 or confidence is None or confidence.line >= least


def may_begin(committed: str, logprobs: LogProbs, least: float) -> bool:
    """Returns whether a suggestion may be shown of which only this beginning is written.

    A whole first line is judged as such. Less of it is shown if it is so probable that the line
    mostly will be: at the square root of the least probability. Nothing is shown before the first
    token is committed.
    """
    if least <= 0:
        return True
    confidence = confidence_of(committed, logprobs)
    if confidence is None:
        return bool(committed)
    is_line = first_line_end(committed) < len(committed)
    return confidence.line >= (least if is_line else least**0.5)
