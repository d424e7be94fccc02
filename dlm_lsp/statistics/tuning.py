"""What local evidence says of the least confidence and of the typing delay. Pure.

Deterministic and monotone: a share counts only as far as it is certain (Wilson's bounds), so that
few data change nothing. What is below the least confidence is never shown, so nothing is known of
it: it is tried one step at a time, and given up where what is then shown is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dlm_lsp.statistics.rows import Known

LATEST = 1000  # The suggestions of a model that count.
SHOWN_MIN = 200  # Fewer change nothing.
LOWEST, HIGHEST, STEP = 25, 60, 5  # The confidences that "auto" may take, in hundredths.
SHARE = 0.25  # The share of the least confident suggestions that should be taken.
MOMENT_MS = 300.0  # What is typed away sooner was not read.
HURRIED = 0.25  # A share of suggestions typed away within a moment that is usual.
STRETCH_MAX = 1.75
_Z = 1.96  # Certain to 95 %, on both sides.


@dataclass(frozen=True, slots=True)
class Tuned:
    """What "auto" means for a model on this machine.

    Attributes:
        shown: the suggestions that it was found out by.
        confidence: the least probability of what is shown; why: the reason, as a sentence.
        stretch: the factor by which the typing delay is longer, from 1 to STRETCH_MAX;
            stretch_why: the reason.
    """

    shown: int
    confidence: float
    why: str
    stretch: float = 1.0
    stretch_why: str = ""


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Returns the lower and the upper bound of a share, (0, 1) without any observation."""
    if count == 0:
        return 0.0, 1.0
    share, square = successes / count, _Z * _Z / count
    middle = share + square / 2
    width = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = (middle - width) / (1 + square), (middle + width) / (1 + square)
    return (0.0 if successes == 0 else low), (1.0 if successes == count else high)


def tuned(latest: Sequence[Known], default: float) -> Tuned:
    """Returns what a model's latest automatic suggestions say.

    Args:
        default: the least probability that holds without evidence.
    """
    judged = [one for one in latest[:LATEST] if one.fate in ("accepted", "partly", "dismissed")]
    found = Tuned(len(judged), default, "", 1.0)
    if len(judged) < SHOWN_MIN:
        few = f"Suggestions known here: {len(judged)}; from {SHOWN_MIN} on they count."
        return replace(found, why=few, stretch_why=few)
    hurried = sum(map(_is_hurried, judged))
    least = wilson(hurried, len(judged))[0]
    stretch = min(STRETCH_MAX, 1 + max(0.0, least - HURRIED))
    return replace(
        found,
        stretch=round(stretch, 2),
        stretch_why=f"{hurried} of {len(judged)} suggestions were typed away within "
        f"{MOMENT_MS:.0f} ms; up to {HURRIED:.0%} is usual.",
        **_confidence(judged, default),
    )


def _is_hurried(one: Known) -> bool:
    """Whether a suggestion was typed away before it could be read."""
    return one.fate == "dismissed" and one.fate_ms is not None and one.fate_ms < MOMENT_MS


def _confidence(judged: Sequence[Known], default: float) -> dict[str, float | str]:
    """Returns the least confidence and why."""
    taken, counts = dict[int, int](), dict[int, int]()
    for one in judged:
        # What nobody read is no evidence against it.
        if one.row.line_probability is None or _is_hurried(one):
            continue
        at = step_of(one.row.line_probability)
        counts[at] = counts.get(at, 0) + 1
        taken[at] = taken.get(at, 0) + one.is_taken

    def bounds(at: int) -> tuple[float, float]:
        return wilson(taken.get(at, 0), counts.get(at, 0))

    first = at = min(max(step_of(default), LOWEST), HIGHEST)
    judge = at  # The step whose suggestions decided.
    while at < HIGHEST and bounds(at)[1] < SHARE:
        judge, at = at, at + STEP
    if at == first:
        while at > LOWEST and bounds(at)[0] >= SHARE and bounds(at - STEP)[1] >= SHARE:
            judge, at = at, at - STEP
    reason = (
        f"of {counts.get(judge, 0)} suggestions from {judge / 100:.2f} to "
        f"{(judge + STEP) / 100:.2f} {taken.get(judge, 0)} were taken"
    )
    if at == first:
        return {"confidence": default, "why": f"The default: {reason}, which moves nothing."}
    aim = "at least" if at < first else "surely less than"
    return {"confidence": at / 100, "why": f"Instead of {default:g}: {reason}, {aim} {SHARE:.0%}."}


def step_of(probability: float) -> int:
    """Returns the lower end of the step of a probability, in hundredths."""
    return math.floor(probability * 100 / STEP + 1e-9) * STEP
