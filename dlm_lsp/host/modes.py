"""What "auto" is on this host: the checkpoint's figures, the machine's and the host's own record.

The choice itself stands in `engine.auto.mode_selection`; here its inputs are brought together, for
requests and for whoever asks what a request would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.api import EXACT_MODES, EngineInfo, Limits, Usage
from engine.auto.mode_selection import (
    ModeChoice,
    ModeQuery,
    ModeRecord,
    decided_tokens,
    expected_span,
    explain,
    is_line_stop,
    select_mode,
)
from engine.auto.step_times import StepTimes, built_in_times


@dataclass(slots=True)
class ModeRecords:
    """How the finished requests of this host did, by mode. Lives on the event loop."""

    by_mode: dict[str, ModeRecord] = field(default_factory=dict[str, ModeRecord])

    def count(self, mode: str, usage: Usage, reason: str) -> None:
        """Adds a request that finished for this reason."""
        record = self.by_mode.get(mode, ModeRecord())
        self.by_mode[mode] = record.after(
            forwards=usage.forwards,
            rows=usage.rows,
            tokens=decided_tokens(usage.tokens, reason),
        )


def choose_mode(
    info: EngineInfo,
    records: Mapping[str, ModeRecord],
    limits: Limits,
    *,
    block_length: int,
    stop: tuple[str, ...] = (),
    exact: bool = False,
) -> ModeChoice:
    """What "auto" takes for a request like this."""
    modes = [mode for mode in info.modes if not exact or mode in EXACT_MODES]
    span = expected_span(limits.tokens_max, is_line=is_line_stop(stop))
    return select_mode(ModeQuery(span, block_length, modes), step_times(info), records, info.stats)


def step_times(info: EngineInfo) -> StepTimes:
    """The engine's measured curve; until there is one, the built-in."""
    return info.step_times or built_in_times(info.device)


def usual_choice(
    info: EngineInfo, records: Mapping[str, ModeRecord], block_length: int
) -> ModeChoice:
    """What "auto" takes for a request that says nothing else."""
    return choose_mode(info, records, Limits(), block_length=block_length)


def times_body(times: StepTimes | None) -> dict[str, object] | None:
    """The measured curve as `/health` shows it; None until it was measured."""
    if times is None:
        return None
    return {
        "rows": times.rows,
        "milliseconds": [round(time, 3) for time in times.milliseconds],
        "context": times.context,
    }


def auto_body(found: ModeChoice) -> dict[str, object]:
    """The choice as `/health` shows it."""
    return {"mode": found.mode, "why": explain(found)}
