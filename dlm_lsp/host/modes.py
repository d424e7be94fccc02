"""The inputs of the mode "auto" on a host: figures of the checkpoint, machine and past requests.

`engine.auto.mode_selection` makes the choice; this module collects its inputs, for requests and
for reports of what a request would get.
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
    """The records of this host's finished requests, by mode. Used on the event loop only."""

    by_mode: dict[str, ModeRecord] = field(default_factory=dict[str, ModeRecord])

    def count(self, mode: str, usage: Usage, reason: str) -> None:
        """Adds a request that finished for `reason`."""
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
    """Returns the mode that "auto" chooses for a request."""
    modes = [mode for mode in info.modes if not exact or mode in EXACT_MODES]
    span = expected_span(limits.tokens_max, is_line=is_line_stop(stop))
    return select_mode(ModeQuery(span, block_length, modes), step_times(info), records, info.stats)


def step_times(info: EngineInfo) -> StepTimes:
    """Returns the engine's measured step times, or the built-in ones before the measurement."""
    return info.step_times or built_in_times(info.device, has_masks=info.mask_adapter)


def usual_choice(
    info: EngineInfo, records: Mapping[str, ModeRecord], block_length: int
) -> ModeChoice:
    """Returns the mode that "auto" chooses for a request with default options."""
    return choose_mode(info, records, Limits(), block_length=block_length)


def times_body(times: StepTimes | None) -> dict[str, object] | None:
    """Returns the measured step times as `/health` shows them; None before the measurement."""
    if times is None:
        return None
    return {
        "rows": times.rows,
        "milliseconds": [round(time, 3) for time in times.milliseconds],
        "withMasks": [round(time, 3) for time in times.with_masks],
        "context": times.context,
    }


def auto_body(found: ModeChoice) -> dict[str, object]:
    """Returns the choice as `/health` shows it."""
    return {"mode": found.mode, "why": explain(found)}
