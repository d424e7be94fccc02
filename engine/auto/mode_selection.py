"""Which mode is expected to be the fastest for a request: what "auto" means.

Expected cost of a span = forwards it takes, by what a forward of the mode decides, times what such
a forward costs by the step-time curve. Pure functions over frozen values, the same answer for the
same figures. Torch-free; measures nothing and keeps nothing: the host keeps the records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures
from engine.auto.step_times import StepTimes

# Modes that emit what "ar" emits, and block diffusion; on a tie the first one wins.
CANDIDATES = ("ar", "copy_spec", "linear_spec", "block", "quadratic_spec")
LINE_TOKENS = 12  # of a request for a single line
GAIN_MIN = 1.02  # over "ar", to leave it: less is within the noise of the curve

PRIOR_FORWARDS = 64.0  # how many forwards of its own a mode needs to be believed over its prior
FORWARDS_MAX = 2048.0  # older requests fade, so that a record follows what the user writes

# Of copying in code that nothing is known of: 1 in 4 forwards verifies a draft of 3 tokens, and
# gains 1. Wherever copying itself expects no gain it is "ar", whose cost it then has.
COPY_FIGURES = ModeFigures(1.25, 1.75)
AR_FIGURES = ModeFigures(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """Totals over finished requests of one mode, counted after the prompt; older ones fade.

    Attributes:
        forwards: device calls.
        rows: that they computed.
        tokens: that they decided.
    """

    forwards: float = 0.0
    rows: float = 0.0
    tokens: float = 0.0

    def after(self, *, forwards: int, rows: int, tokens: int) -> ModeRecord:
        """The record with one more request."""
        if forwards <= 0:
            return self
        room = max(FORWARDS_MAX - forwards, 0.0)
        kept = min(1.0, room / self.forwards) if self.forwards else 0.0
        return ModeRecord(
            self.forwards * kept + forwards, self.rows * kept + rows, self.tokens * kept + tokens
        )

    def figures(self, prior: ModeFigures) -> ModeFigures:
        """What a forward of the mode does, starting from `prior`."""
        weight = PRIOR_FORWARDS
        total = self.forwards + weight
        return ModeFigures(
            (self.tokens + weight * prior.tokens_per_forward) / total,
            (self.rows + weight * prior.rows_per_forward) / total,
        )


@dataclass(frozen=True, slots=True)
class ModeQuery:
    """What a choice depends on of a request.

    Attributes:
        span: tokens expected to be emitted, as `expected_span` says.
        block_length: the request's.
        modes: that may be taken at all: the checkpoint's, without "block" where exactness is asked
            for.
    """

    span: int
    block_length: int
    modes: Collection[str]


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """What was chosen, and the figures it was chosen by.

    Attributes:
        costs: expected milliseconds per token of every mode that could be taken.
        is_measured: false where the curve is a built-in one, which gives ratios rather than times.
    """

    mode: str
    costs: Mapping[str, float]
    is_measured: bool


def expected_span(tokens_max: int, *, is_line: bool) -> int:
    """Tokens to expect: as many as may be emitted, fewer where a single line is asked for."""
    return min(tokens_max, LINE_TOKENS) if is_line else tokens_max


def select_mode(
    query: ModeQuery,
    times: StepTimes,
    records: Mapping[str, ModeRecord],
    stats: CheckpointStats | None,
) -> ModeChoice:
    """The mode with the least expected cost, "ar" unless another one is expected to gain.

    A mode of which nothing is known is no candidate: neither the checkpoint's figures name it nor
    has this host finished a request in it. "block" is one only where the figures say that its
    text is as good as that of "ar".
    """
    costs: dict[str, float] = {}
    for mode in CANDIDATES:
        figures = _figures(mode, query, records.get(mode), stats)
        if figures is not None:
            costs[mode] = _cost(mode, figures, query, times)
    mode = "ar"
    for other, cost in costs.items():
        if cost < costs[mode] and cost * GAIN_MIN < costs["ar"]:
            mode = other
    return ModeChoice(mode, costs, times.is_measured)


def _figures(
    mode: str, query: ModeQuery, record: ModeRecord | None, stats: CheckpointStats | None
) -> ModeFigures | None:
    """What a forward of the mode does; None where it must not be taken or nothing is known."""
    if mode == "ar":
        return AR_FIGURES
    if mode not in query.modes:
        return None
    if mode == "block" and not (stats and stats.block_is_on_par):
        return None
    prior = stats.modes.get(mode) if stats else None
    if prior is None and mode == "copy_spec":
        prior = COPY_FIGURES
    if prior is None:
        if record is None or record.forwards < PRIOR_FORWARDS:
            return None
        return ModeFigures(record.tokens / record.forwards, record.rows / record.forwards)
    return record.figures(prior) if record else prior


def _cost(mode: str, figures: ModeFigures, query: ModeQuery, times: StepTimes) -> float:
    """Expected milliseconds per token of a span whose first token comes with the prompt."""
    wanted = max(query.span - 1, 1)
    # A forward decides at most a block, and a cycle is never begun by halves.
    forwards_per_cycle = 2 if mode == "linear_spec" else 1
    per_forward = min(figures.tokens_per_forward, query.block_length / forwards_per_cycle)
    cycles = wanted / (per_forward * forwards_per_cycle)
    forwards = forwards_per_cycle * max(cycles, 1.0)
    return forwards * times.at(_rows(mode, figures, query)) / wanted


def _rows(mode: str, figures: ModeFigures, query: ModeQuery) -> float:
    """Of a forward: block diffusion computes whole blocks, the others no more than can be kept."""
    length = query.block_length
    if mode == "block":
        return float(length)
    longest = min(length, max(query.span - 1, 1))
    if mode == "quadratic_spec":
        return float(longest * (length + 1))
    return min(figures.rows_per_forward, longest)


def quadratic_length(times: StepTimes, longest: int) -> int:
    """Tokens per block for quadratic speculation where nobody says how many: the longest power of
    two, from 2 to `longest`, whose B (B + 1) rows cost no more than two forwards of one row.

    A cycle of linear speculation is two forwards as well. Blocks of 32 are 1,056 rows, which a card
    computes beside its reading of the weights, and a processor in fifty times of a row's time.
    """
    length = 2
    while 2 * length <= longest and times.at(2 * length * (2 * length + 1)) <= 2 * times.at(1):
        length *= 2
    return length


def explain(found: ModeChoice) -> str:
    """The figures as one line, cheapest first."""
    unit = "ms" if found.is_measured else "steps of one row (not measured yet)"
    costs = sorted(found.costs.items(), key=lambda item: item[1])
    listed = ", ".join(f"{mode} {cost:.3g}" for mode, cost in costs)
    return f"per token {listed} {unit}"


def decided_tokens(tokens: int, reason: str) -> int:
    """Tokens that the forwards behind the prompt decided: not the first one, but a stop token."""
    return max(tokens - 1, 0) + (reason == "end")


def is_line_stop(stop: Collection[str]) -> bool:
    """Whether decoding ends with the line."""
    return "\n" in stop
