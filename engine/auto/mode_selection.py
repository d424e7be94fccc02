"""Chooses the decoding mode that is expected to be the fastest for a request, for mode "auto".

The expected cost of a span is the number of forwards it takes, from the tokens that a forward of
the mode decides, times the cost of such a forward by the step-time curve. The functions are pure.
Torch-free; measures nothing and keeps nothing, since the host keeps the records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures
from engine.auto.step_times import StepTimes

# The first wins a tie.
CANDIDATES = ("ar", "copy_spec", "pruned_spec", "linear_spec", "block", "quadratic_spec")
LINE_TOKENS = 12  # expected tokens of a request for a single line
GAIN_MIN = 1.02  # a smaller gain over "ar" is within the noise of the curve

PRIOR_FORWARDS = 64.0  # forwards after which a record counts as much as the prior
FORWARDS_MAX = 2048.0  # older requests fade, so that a record follows what the user writes

# Copying in unknown code: one forward in four verifies a draft of 3 tokens and gains one token.
# Where copying expects no gain, it decodes as "ar" does and has the same cost.
COPY_FIGURES = ModeFigures(1.25, 1.75)
AR_FIGURES = ModeFigures(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """Totals over finished requests of one mode, counted after the prompt; older requests fade.

    Attributes:
        forwards: the number of forwards.
        rows: the number of rows that they computed.
        tokens: the number of tokens that they decided.
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
        """The mean figures of a forward, weighted with those of `prior`."""
        weight = PRIOR_FORWARDS
        total = self.forwards + weight
        return ModeFigures(
            (self.tokens + weight * prior.tokens_per_forward) / total,
            (self.rows + weight * prior.rows_per_forward) / total,
        )


@dataclass(frozen=True, slots=True)
class ModeQuery:
    """The properties of a request on which the choice depends.

    Attributes:
        span: the number of tokens that it is expected to emit; see `expected_span`.
        block_length: the request's block length.
        modes: the modes that may be chosen: the checkpoint's, without "block" for exact requests.
    """

    span: int
    block_length: int
    modes: Collection[str]


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """The chosen mode and the figures behind the choice.

    Attributes:
        costs: the expected milliseconds per token, for every mode that could be chosen.
        is_measured: false for a built-in curve, whose costs are ratios rather than times.
    """

    mode: str
    costs: Mapping[str, float]
    is_measured: bool


def expected_span(tokens_max: int, *, is_line: bool) -> int:
    """The expected number of tokens: `tokens_max`, or less for a single line."""
    return min(tokens_max, LINE_TOKENS) if is_line else tokens_max


def select_mode(
    query: ModeQuery,
    times: StepTimes,
    records: Mapping[str, ModeRecord],
    stats: CheckpointStats | None,
) -> ModeChoice:
    """The mode with the least expected cost; "ar" unless another mode is expected to gain.

    A mode is a candidate only if the checkpoint's figures name it or this host has a record of it,
    and "block" only if the figures say that its text is as good as that of "ar".
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
    """The figures of a forward; None if the mode must not be chosen or nothing is known of it."""
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
    """The expected milliseconds per token of a span whose first token comes with the prompt."""
    wanted = max(query.span - 1, 1)
    # A cycle decides at most one block, and at least one whole cycle is computed.
    forwards_per_cycle = 2 if mode == "linear_spec" else 1
    per_forward = min(figures.tokens_per_forward, query.block_length / forwards_per_cycle)
    cycles = wanted / (per_forward * forwards_per_cycle)
    forwards = forwards_per_cycle * max(cycles, 1.0)
    rows = _rows(mode, figures, query)
    plain, masked = times.at(rows), times.at(rows, masks=True)
    cost = {"ar": plain, "copy_spec": plain, "linear_spec": (plain + masked) / 2}.get(mode, masked)
    return forwards * cost / wanted


def _rows(mode: str, figures: ModeFigures, query: ModeQuery) -> float:
    """The rows of a forward: whole blocks in "block", masks as well in "pruned_spec", else no more
    rows than can be kept."""
    length = query.block_length
    if mode == "pruned_spec":
        return figures.rows_per_forward
    if mode == "block":
        return float(length)
    longest = min(length, max(query.span - 1, 1))
    if mode == "quadratic_spec":
        return float(longest * (length + 1))
    return min(figures.rows_per_forward, longest)


def quadratic_length(times: StepTimes, longest: int) -> int:
    """The default number B of tokens per block for quadratic speculation: the largest power of two
    from 2 to `longest` whose B (B + 1) rows cost no more than two forwards of one row.

    A cycle of linear speculation is two forwards as well. A block of 32 has 1,056 rows. A card
    computes them while it reads the weights; a processor takes fifty times the time of one row.
    """
    length = 2
    limit = 2 * times.at(1)
    while 2 * length <= longest and times.at(2 * length * (2 * length + 1), masks=True) <= limit:
        length *= 2
    return length


def explain(found: ModeChoice) -> str:
    """The figures as one line of text, the cheapest mode first."""
    unit = "ms" if found.is_measured else "steps of one row (not measured yet)"
    costs = sorted(found.costs.items(), key=lambda item: item[1])
    listed = ", ".join(f"{mode} {cost:.3g}" for mode, cost in costs)
    return f"per token {listed} {unit}"


def decided_tokens(tokens: int, reason: str) -> int:
    """The tokens that forwards after the prompt decided: all but the first, and a stop token."""
    return max(tokens - 1, 0) + (reason == "end")


def is_line_stop(stop: Collection[str]) -> bool:
    """Whether decoding ends with the line."""
    return "\n" in stop
