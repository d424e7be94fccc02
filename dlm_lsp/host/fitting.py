"""Chooses how much of the text around a cursor a prompt holds, by how soon its answer is wanted.

On a CPU a token of a prompt costs milliseconds, so that the whole context of a new place can take
seconds. While the user types, the host therefore takes the layout of which the engine has most, and
at a new place a short one; once nothing else is to be done, the whole context with texts of other
files is computed, and the following requests have it. Owns the lengths of short prompts; knows
neither files nor requests.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum, auto

from dlm_lsp.host.backend import Backend
from dlm_lsp.host.layout import Layout, PromptBudget, TextPieces, lay_out
from dlm_lsp.host.modes import step_times
from engine.auto.step_times import StepTimes, prefill_rows

# A prompt that lacks no more tokens than this is computed as it is: a few steps of decoding.
MISSING_MAX = 64
# The time in which a short prompt can be computed from nothing.
COLD_MS = 1000.0
_PREFIX_MIN, _SUFFIX_MIN = 96, 32  # tokens of a short prompt on any machine


class Haste(Enum):
    """When a prompt's answer is wanted."""

    NONE = auto()  # The whole context is worth its time.
    SOON = auto()  # The user is typing.
    IDLE = auto()  # Only the cache is to be filled.


def fitting_layout(
    pieces: TextPieces, budget: PromptBudget, backend: Backend, haste: Haste
) -> Layout:
    """Returns the prompt for these pieces.

    Raises:
        RequestError: as `layout.lay_out`.
    """
    times = step_times(backend.info)
    budget = replace(budget, related=min(budget.related, _cold_tokens(times)))
    whole = lay_out(pieces, backend.tokenizer, budget)
    if haste is Haste.NONE:
        return whole
    if haste is Haste.IDLE:
        is_short = pieces.prefix_start and whole.prefix_tokens < budget.prefix // 2
        if not is_short:
            return whole
        return lay_out(replace(pieces, prefix_start=None), backend.tokenizer, budget)
    short = short_budget(times, budget)
    best, least = whole, backend.uncached(whole.prompt, whole.suffix)
    alone = replace(budget, related=0)
    # The second budget has the whole prefix, which is cached if the cursor has moved a little.
    for smaller in dict.fromkeys((alone, replace(alone, suffix=short.suffix), short)):
        if least <= MISSING_MAX:
            break
        if smaller == budget:
            continue
        layout = lay_out(pieces, backend.tokenizer, smaller)
        missing = backend.uncached(layout.prompt, layout.suffix)
        if missing < least:
            best, least = layout, missing
    return best


def short_budget(times: StepTimes, budget: PromptBudget) -> PromptBudget:
    """Returns the part of a budget that takes COLD_MS from nothing on this machine, three quarters
    of it for the prefix and nothing for other files. Until the machine has been measured it is the
    budget without them."""
    if not times.is_measured:
        return replace(budget, related=0)
    tokens = _cold_tokens(times)
    return PromptBudget(
        min(budget.prefix, max(int(tokens * 0.75), _PREFIX_MIN)),
        min(budget.suffix, max(int(tokens / 4), _SUFFIX_MIN)),
    )


def _cold_tokens(times: StepTimes) -> int:
    """Returns how many tokens of a prompt COLD_MS compute; until the machine has been measured,
    more than a prompt has."""
    if not times.is_measured:
        return sys.maxsize
    # A busy machine ends its measurement after a few rows, whose times hardly differ: what they say
    # of more rows is far too little.
    rows = min(prefill_rows(times), times.rows[-1])
    return int(COLD_MS * rows / times.at(rows))
