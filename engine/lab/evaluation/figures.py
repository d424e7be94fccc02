"""The figures of a run: shares, means and percentiles by suite, kind, length and mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.lab.evaluation.metrics import percentile
from engine.lab.evaluation.records import AnyRecord, Record, ReplayRecord
from engine.lab.evaluation.sandbox import PASSED

ALL = "all"


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares and means over the tasks of one kind, or of one length, in one mode.

    Attributes:
        passed: pass@1, the share of programs that passed; None if none was run.
        endless: the share that did not end by itself.
        tokens_per_forward, tokens_per_second: of all tasks together, the first one after the
            prompt; None for a baseline.
        ms_p50, ms_p95, prompt_ms_p50: None for a baseline.
        took: the number of tasks by the mode that the engine chose; empty for a baseline.
    """

    suite: str
    group: str
    mode: str
    tasks: int
    exact: float
    first_line: float
    similarity: float
    passed: float | None
    wrong_length: float
    endless: float
    tokens_per_forward: float | None
    tokens_per_second: float | None
    ms_p50: float | None
    ms_p95: float | None
    prompt_ms_p50: float | None
    took: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """Shares of requests over all files typed in one mode.

    Attributes:
        right: the whole suggestion is what was typed next.
        partly: only its first line is.
        wrong, silent: neither is; there was no suggestion. The four shares sum to 1.
        unwanted: the share of the requests without anything to type that showed something.
        keys_saved: the share of the keys that the text takes without suggestions.
        new: the suggestions, each once, however many keys it was typed through.
        new_right: the share of these that were right to the end of their line; None without any.
    """

    suite: str
    mode: str
    files: int
    asks: int
    right: float
    partly: float
    wrong: float
    silent: float
    unwanted: float | None
    keys_saved: float
    ms_p50: float | None
    ms_p95: float | None
    new: int
    new_right: float | None


def by_kind(records: Iterable[AnyRecord]) -> list[Figures]:
    """The figures of every suite, kind and mode in their order; those of a whole suite last."""
    found = [record for record in records if isinstance(record, Record)]
    suites = dict.fromkeys(record.suite for record in found)
    figures: list[Figures] = []
    for suite in suites:
        own = [record for record in found if record.suite == suite]
        kinds = list(dict.fromkeys(record.kind for record in own))
        for kind in kinds:
            figures += _by_mode(suite, kind, [record for record in own if record.kind == kind])
        if len(kinds) > 1:
            figures += _by_mode(suite, ALL, own)
    return figures


def by_length(records: Iterable[AnyRecord]) -> list[Figures]:
    """The figures of every suite, bucket of lengths and mode, the shortest first."""
    found = [record for record in records if isinstance(record, Record)]
    figures: list[Figures] = []
    for suite in dict.fromkeys(record.suite for record in found):
        own = [record for record in found if record.suite == suite]
        buckets = {record.bucket for record in own}
        for bucket in sorted(
            buckets, key=lambda name: int(name.partition("-")[0].rstrip("+ words"))
        ):
            figures += _by_mode(suite, bucket, [r for r in own if r.bucket == bucket])
    return figures


def of_replays(records: Iterable[AnyRecord]) -> list[ReplayFigures]:
    """The figures of every mode in which files were typed."""
    found = [record for record in records if isinstance(record, ReplayRecord)]
    modes = dict.fromkeys((record.suite, record.mode) for record in found)
    return [
        _replay(suite, mode, [r for r in found if (r.suite, r.mode) == (suite, mode)])
        for suite, mode in modes
    ]


def _by_mode(suite: str, group: str, records: Sequence[Record]) -> list[Figures]:
    return [
        _figures(suite, group, mode, [record for record in records if record.mode == mode])
        for mode in dict.fromkeys(record.mode for record in records)
    ]


def _figures(suite: str, group: str, mode: str, records: Sequence[Record]) -> Figures:
    count = len(records)
    outcomes = [record.outcome for record in records if record.outcome is not None]
    forwards = sum(record.forwards for record in records)
    times = [record.ms for record in records if record.ms is not None]
    prompts = [record.prompt_ms for record in records if record.prompt_ms is not None]
    return Figures(
        suite=suite,
        group=group,
        mode=mode,
        tasks=count,
        exact=sum(record.exact for record in records) / count,
        first_line=sum(record.first_line for record in records) / count,
        similarity=sum(record.similarity for record in records) / count,
        passed=outcomes.count(PASSED) / len(outcomes) if outcomes else None,
        wrong_length=sum(record.wrong_length for record in records) / count,
        endless=sum(not record.ended for record in records) / count,
        tokens_per_forward=sum(r.tokens for r in records) / forwards if forwards else None,
        tokens_per_second=1000 * sum(r.tokens for r in records) / sum(times) if times else None,
        ms_p50=percentile(times, 0.5),
        ms_p95=percentile(times, 0.95),
        prompt_ms_p50=percentile(prompts, 0.5),
        took=dict(Counter(record.took for record in records if record.took).most_common()),
    )


def _replay(suite: str, mode: str, records: Sequence[ReplayRecord]) -> ReplayFigures:
    asks = max(1, sum(record.asks for record in records))
    elsewhere = sum(record.elsewhere for record in records)
    without = max(1, sum(record.keys_without for record in records))
    times = [ms for record in records for ms in record.ms]
    new = sum(record.new for record in records)
    return ReplayFigures(
        suite=suite,
        mode=mode,
        files=len(records),
        asks=sum(record.asks for record in records),
        right=sum(record.right for record in records) / asks,
        partly=sum(record.partly for record in records) / asks,
        wrong=sum(record.wrong for record in records) / asks,
        silent=sum(record.silent for record in records) / asks,
        unwanted=sum(r.unwanted for r in records) / elsewhere if elsewhere else None,
        keys_saved=1 - sum(record.keys for record in records) / without,
        ms_p50=percentile(times, 0.5),
        ms_p95=percentile(times, 0.95),
        new=new,
        new_right=sum(record.new_right for record in records) / new if new else None,
    )
