"""The figures of a run as Markdown tables with a legend, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from engine.lab.evaluation.figures import Figures, ReplayFigures, by_kind, by_length, of_replays
from engine.lab.evaluation.records import AnyRecord

LEGEND = """\
exact: the text is what stood there, except for white space at its end. first line: the first line
is. similarity: 1 - Levenshtein distance / longer length, the mean. pass@1: the program with the
unchanged completion ran to its end. wrong length: another number of lines; on one line, the
numbers of words and signs differ by more than 2 and by more than half. endless: neither the model
nor a rule of where completions stop ended it within its tokens: 64 and one for each character of
the reference, up to --max-tokens. tokens/forward: emitted tokens over forwards after the prompt.
prompt ms: the median time to compute a prompt. ms: the time from request to whole text with the
prompt in the cache, as while typing. A share of N tasks is uncertain by up to 1/sqrt(N): 10 points
for 100 tasks, 3 for 1000."""
REPLAY_LEGEND = """\
right: the whole suggestion is what was typed next. partly: only its first line is. wrong: neither.
silent: there was no suggestion. These are shares of requests, in which a wrong suggestion counts
for each key while it is typed through. unwanted: suggestions where nothing was to be typed.
suggestions: each counts once; of them right: to the end of their line. keys saved: the share of the
keys that the text takes without suggestions, if one key accepts each right one.
ms: the time from request to answer, also for a suggestion that was shown before and is typed
through."""


def to_markdown(records: Iterable[AnyRecord], notes: Mapping[str, str] | None = None) -> str:
    """All tables by suite, with a legend.

    Args:
        notes: a note above the table of a suite, by the suite's name.
    """
    records = list(records)
    kinds, lengths, replays = by_kind(records), by_length(records), of_replays(records)
    parts: list[str] = []
    for suite in dict.fromkeys(each.suite for each in kinds):
        own = [each for each in kinds if each.suite == suite]
        parts += [*_heading(suite, notes), *_table("kind", own), ""]
        parts += _length_table([each for each in lengths if each.suite == suite])
        parts += _taken(own)
    if kinds:
        parts += ["", LEGEND]
    for suite in dict.fromkeys(each.suite for each in replays):
        parts += _heading(suite, notes)
        parts += _replay_table([each for each in replays if each.suite == suite])
    if replays:
        parts += ["", REPLAY_LEGEND]
    return "\n".join(parts).strip() + "\n"


def to_object(arguments: Mapping[str, object], records: Iterable[AnyRecord]) -> dict[str, object]:
    """The object that `--json` prints: shares from 0 to 1, times in milliseconds."""
    records = list(records)
    return {
        "arguments": dict(arguments),
        "kinds": [asdict(each) for each in by_kind(records)],
        "lengths": [asdict(each) for each in by_length(records)],
        "replays": [asdict(each) for each in of_replays(records)],
    }


def _heading(suite: str, notes: Mapping[str, str] | None) -> list[str]:
    note = (notes or {}).get(suite)
    return ["", f"## {suite}", "", *([note, ""] if note else [])]


def _taken(figures: Sequence[Figures]) -> list[str]:
    """The modes that the engine chose for modes such as "auto"."""
    whole = {each.mode: each for each in figures}  # a suite's whole comes last
    lines: list[str] = []
    for mode, each in whole.items():
        if any(not mode.startswith(name) for name in each.took):
            counts = ", ".join(f"{name} for {count}" for name, count in each.took.items())
            lines += ["", f"{mode} took {counts} of {each.tasks} tasks."]
    return lines


def _table(group: str, figures: Sequence[Figures]) -> list[str]:
    has_passed = any(each.passed is not None for each in figures)
    names = [group, "mode", "tasks", "exact", "first line", "similarity"]
    names += ["pass@1"] if has_passed else []
    names += ["wrong length", "endless", "tokens/forward", "tokens/s", "prompt ms"]
    names += ["ms p50", "ms p95"]
    rows = [
        [
            *(each.group.replace("_", " "), each.mode, str(each.tasks)),
            *(_share(each.exact), _share(each.first_line), f"{each.similarity:.2f}"),
            *([_share(each.passed)] if has_passed else []),
            *(_share(each.wrong_length), _share(each.endless)),
            *(_number(each.tokens_per_forward, 2), _number(each.tokens_per_second, 1)),
            *(_number(value) for value in (each.prompt_ms_p50, each.ms_p50, each.ms_p95)),
        ]
        for each in figures
    ]
    return _markdown(names, rows)


def _length_table(figures: Sequence[Figures]) -> list[str]:
    """A row for each bucket, with the modes side by side: pass@1, or exact if nothing was run."""
    modes = list(dict.fromkeys(each.mode for each in figures))
    buckets = list(dict.fromkeys(each.group for each in figures))
    found = {(each.group, each.mode): each for each in figures}
    has_passed = any(each.passed is not None for each in figures)
    what = "pass@1" if has_passed else "exact"
    names = ["length", "tasks", *(f"{what}, {mode}" for mode in modes)]
    rows = []
    for bucket in buckets:
        own = [found.get((bucket, mode)) for mode in modes]
        tasks = max(each.tasks for each in own if each is not None)
        shares = [each and (each.passed if has_passed else each.exact) for each in own]
        rows.append([bucket, str(tasks), *map(_share, shares)])
    return _markdown(names, rows)


def _replay_table(figures: Sequence[ReplayFigures]) -> list[str]:
    names = ["mode", "files", "requests", "right", "partly", "wrong", "silent", "unwanted"]
    names += ["suggestions", "of them right", "keys saved", "ms p50", "ms p95"]
    rows = [
        [
            *(each.mode, str(each.files), str(each.asks)),
            *map(_share, (each.right, each.partly, each.wrong, each.silent, each.unwanted)),
            *(str(each.new), _share(each.new_right), _share(each.keys_saved)),
            *(_number(each.ms_p50), _number(each.ms_p95)),
        ]
        for each in figures
    ]
    return _markdown(names, rows)


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The table with padded columns, so that it can be read in a terminal."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(c.ljust(w) for c, w in zip(cells, widths, strict=True))} |"

    return [line(names), f"|{'|'.join('-' * (w + 2) for w in widths)}|", *map(line, rows)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
