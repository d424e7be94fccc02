"""When the model is sure enough of a suggestion for it to be shown while the user types. Pure.

The measure is the probability of the text by the model's own tokens, up to the end of a line: how
often a line is right is close to it (`benchmarks/silence.md`, which also has the defaults' choice).
Shown are the lines that together are probable enough; if the first is not, nothing is. A text
whose tokens are unknown, as from an older host, is always shown.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from dlm_lsp.session.confidence import values_before
from engine.api import LogProbs

UNSURE = "The model is not sure enough here."
AUTO = 0.4  # The least probability of what is shown with "auto".

_LINE_END = re.compile(r"(?<=\S)[ \t]*(\r\n|\r|\n)")


def threshold(
    setting: float | Literal["auto"], is_bundled: bool, tuned: float | None = None
) -> float:
    """Returns the least probability of what is shown; 0 shows everything.

    Args:
        setting: the setting `silence.confidence`.
        is_bundled: whether the bundled model answers, for which "auto" shows everything: it is
            there to try the editor with, and was not measured.
        tuned: what "auto" means for a real model by local evidence; None without any.
    """
    if setting != "auto":
        return setting
    if is_bundled:
        return 0.0
    return AUTO if tuned is None else tuned


def probability(text: str, logprobs: LogProbs) -> float | None:
    """Returns the joint probability of a text's tokens; None if they are unknown.

    Args:
        logprobs: the tokens of the text, which may go on after it.
    """
    return math.exp(sum(values_before(logprobs, len(text)))) if logprobs else None


def first_line(text: str) -> str:
    """Returns the text up to the end of the first line that is not blank."""
    found = _LINE_END.search(text)
    return text if found is None else text[: found.start()]


def is_sure(text: str, logprobs: LogProbs, least: float) -> bool:
    """Returns whether a text is probable enough as a whole."""
    known = probability(text, logprobs)
    return known is None or known >= least


def sure_lines(text: str, logprobs: LogProbs, least: float) -> str:
    """Returns the longest beginning of whole lines that is probable enough, without its last line
    break; "" if there is none. A line is whole if a line break follows it."""
    kept = ""
    for found in _LINE_END.finditer(text):
        if not is_sure(text[: found.start()], logprobs, least):
            break
        kept = text[: found.start()]
    return kept
