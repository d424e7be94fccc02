"""How benchmarks ask the engine: a timed request, "auto". No torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from engine.api import Finished, Request
from engine.auto.mode_selection import ModeQuery, ModeRecord, decided_tokens, select_mode
from engine.auto.step_times import StepTimes
from engine.engine import Engine
from engine.errors import EngineFailure
from engine.lab.bench.decode_rows import Timed

_CURVE_SECONDS_MAX = 120.0


@contextmanager
def idle() -> Iterator[None]:
    """Keeps the machine idle."""
    yield


def run_request(engine: Engine, request: Request, wanted: str = "") -> Timed:
    """Decodes a request to its end.

    Args:
        wanted: the text that stood in the hole.

    Raises:
        EngineFailure: The request failed.
    """
    cycles, tokens, finished = 0, 0, None
    for event in engine.stream(request):
        usage = getattr(event, "usage", None)
        if usage is not None and usage.tokens > tokens:
            cycles, tokens = cycles + 1, usage.tokens
        finished = event
    if not isinstance(finished, Finished):
        raise EngineFailure(f"The engine answered {finished}.")
    usage = finished.usage
    return Timed(
        mode=request.mode,
        tokens=usage.tokens,
        decided=decided_tokens(usage.tokens, finished.reason),
        cycles=cycles + (finished.reason == "end"),
        forwards=usage.forwards,
        rows=usage.rows,
        seconds=(usage.total_ms - usage.prefill_ms) / 1000,
        text=finished.text,
        is_exact=finished.text == wanted,
        prefill_seconds=usage.prefill_ms / 1000,
        cached=usage.cached_tokens,
    )


@dataclass(slots=True)
class AutoMode:
    """Decodes as a host set to "auto": by step times, checkpoint stats and its own record."""

    engine: Engine
    times: StepTimes
    records: dict[str, ModeRecord] = field(default_factory=dict[str, ModeRecord])

    def __call__(self, request: Request, wanted: str = "") -> Timed:
        """As `run_request`, in the chosen mode instead of the request's own."""
        query = ModeQuery(request.limits.tokens_max, request.block.length, self.engine.info.modes)
        mode = select_mode(query, self.times, self.records, self.engine.info.stats).mode
        timed = run_request(self.engine, replace(request, mode=mode), wanted)
        self.records[mode] = self.records.get(mode, ModeRecord()).after(
            forwards=timed.forwards, rows=timed.rows, tokens=timed.decided
        )
        return timed


def wait_for_curve(engine: Engine) -> StepTimes:
    """The step times, once the idle engine has measured them.

    Raises:
        EngineFailure: They were not measured in time.
    """
    give_up = time.monotonic() + _CURVE_SECONDS_MAX
    while engine.info.step_times is None:
        if time.monotonic() > give_up:
            raise EngineFailure("The step times were not measured in time.")
        time.sleep(0.05)
    return engine.info.step_times
