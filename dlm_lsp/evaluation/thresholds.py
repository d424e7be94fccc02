"""Which thresholds of silence would have shown what: `python -m dlm_lsp.evaluation.thresholds`.

Reads the logs of replays that showed everything (`dlm-lsp eval --suite replay --confidence 0
--log-shown --out FOLDER`) and applies thresholds to each suggestion, so that one replay answers for
all. Only suggestions that the engine has just made count: the rest of one that was typed through
would count once for every key. What a threshold saves in keys takes a replay with it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from dlm_lsp.evaluation.shown import PLACE_KINDS, PlaceKind, Shown, ShownInFile, read
from dlm_lsp.session.confidence import values_before
from dlm_lsp.session.sureness import is_sure, sure_lines
from engine.errors import ConfigError

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Half = Literal["calibration", "test", "all"]
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """What one threshold shows of logged suggestions.

    Attributes:
        kind: the kind of place; None is all of them.
        shown, silent: the suggestions of which something is shown, and the others.
        right: shown ones of which all that is shown comes next.
        line: shown ones of which the first line comes next, with the right ones.
        silent_line: silent ones of which the first line would have come next.
        characters: the characters that the right ones would save, less one key each.
    """

    kind: PlaceKind | None
    threshold: float
    shown: int
    right: int
    line: int
    silent: int
    silent_line: int
    characters: int

    @property
    def wrong(self) -> int:
        """The shown ones of which not even the first line comes next."""
        return self.shown - self.line


def half_of(file_id: str) -> Half:
    """Returns the half of the files that a file belongs to."""
    return "test" if sha256(file_id.encode()).digest()[0] % 2 else "calibration"


def fresh_suggestions(files: Sequence[ShownInFile], half: Half) -> list[Shown]:
    """Returns the suggestions that the engine had just made, with known tokens, of a half."""
    return [
        one
        for file in files
        if half in ("all", half_of(file.id))
        for one in file.shown
        if one.logprobs and not one.is_cached
    ]


def rows_of(suggestions: Sequence[Shown], thresholds: Sequence[float]) -> list[ThresholdRow]:
    """Returns a row for each threshold at each kind of place, then at all places together."""
    rows: list[ThresholdRow] = []
    for kind in (*PLACE_KINDS, None):
        of_kind = [one for one in suggestions if kind in (None, one.kind)]
        if of_kind:
            rows += [_row(kind, of_kind, least) for least in thresholds]
    return rows


def separation(suggestions: Sequence[Shown]) -> dict[str, float]:
    """Returns how well measures tell right first lines from others: the area under the curve of
    right over wrong ones that are shown; 0.5 is chance. Empty unless there are both."""
    right = [one for one in suggestions if _is_line_right(one)]
    wrong = [one for one in suggestions if not _is_line_right(one)]
    if not (right and wrong):
        return {}
    return {name: _area(measure, right, wrong) for name, measure in _MEASURES.items()}


def to_tables(files: Sequence[ShownInFile], half: Half, thresholds: Sequence[float]) -> str:
    """Returns the tables of a half of the files, in Markdown."""
    suggestions = fresh_suggestions(files, half)
    num_files = sum(half in ("all", half_of(file.id)) for file in files)
    parts = [f"{len(suggestions)} suggestions in {num_files} files ({half})."]
    areas = separation(suggestions)
    if areas:
        parts.append(
            "Area under the curve, right first lines against others: "
            + ", ".join(f"{name} {area:.3f}" for name, area in areas.items())
            + "."
        )
    rows = rows_of(suggestions, thresholds)
    for kind in dict.fromkeys(row.kind for row in rows):
        parts.append(f"**{kind or 'all places'}**")
        parts.append(_table([row for row in rows if row.kind == kind]))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables of one or more folders; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dlm_lsp.evaluation.thresholds")
    parser.add_argument("folder", nargs="+", type=Path, help="of a replay with --log-shown")
    parser.add_argument("--mode", help="only logs of this mode, such as 'ar, sure to 0'")
    parser.add_argument("--half", choices=HALVES, default="all", help="of the files, by name (all)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    try:
        files = [file for folder in options.folder for file in read(folder)]
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    files = [file for file in files if options.mode in (None, file.mode)]
    if options.json:
        suggestions = fresh_suggestions(files, options.half)
        rows = [{**asdict(row), "wrong": row.wrong} for row in rows_of(suggestions, THRESHOLDS)]
        found = {"half": options.half, "separation": separation(suggestions), "rows": rows}
        print(json.dumps(found, indent=1))
    else:
        print(to_tables(files, options.half, THRESHOLDS), end="")
    return 0


def _row(kind: PlaceKind | None, suggestions: Sequence[Shown], least: float) -> ThresholdRow:
    pairs = [(one, _shown_text(one, least)) for one in suggestions]
    shown = [(one, text) for one, text in pairs if text]
    right = [text for one, text in shown if _is_right(one, text)]
    silent = [one for one, text in pairs if not text]
    return ThresholdRow(
        kind=kind,
        threshold=least,
        shown=len(shown),
        right=len(right),
        line=sum(_is_line_right(one) for one, _ in shown),
        silent=len(silent),
        silent_line=sum(_is_line_right(one) for one in silent),
        characters=sum(len(text) - 1 for text in right),
    )


def _shown_text(one: Shown, least: float) -> str:
    """Returns the lines of a suggestion that a threshold shows."""
    if least <= 0 or is_sure(one.text, one.logprobs, least):
        return one.text
    return sure_lines(one.text, one.logprobs, least)


def _is_right(one: Shown, text: str) -> bool:
    """Returns whether the shown part of a suggestion comes next."""
    return one.verdict == "right" or (len(text) < len(one.text) and one.same >= len(text))


def _is_line_right(one: Shown) -> bool:
    return one.verdict in ("right", "partly")


def _first_line(one: Shown) -> list[float]:
    """Returns the log-probabilities of the first line with text, or of the first token."""
    text = one.text
    lead = len(text) - len(text.lstrip())
    end = text.find("\n", lead)
    return values_before(one.logprobs, len(text) if end < 0 else end) or [one.logprobs[0][1]]


_MEASURES: dict[str, Callable[[Shown], float]] = {
    "probability of the first line": lambda one: sum(_first_line(one)),
    "its geometric mean": lambda one: sum(_first_line(one)) / len(_first_line(one)),
    "its least token": lambda one: min(_first_line(one)),
    "first token": lambda one: one.logprobs[0][1],
    "geometric mean of the text": lambda one: sum(v for _, v in one.logprobs) / len(one.logprobs),
    "fewest tokens": lambda one: -float(len(one.logprobs)),
}


def _area(
    measure: Callable[[Shown], float], right: Sequence[Shown], wrong: Sequence[Shown]
) -> float:
    of_wrong = [measure(one) for one in wrong]
    wins = sum(
        (value > other) + 0.5 * (value == other)
        for value in map(measure, right)
        for other in of_wrong
    )
    area = wins / (len(right) * len(wrong))
    assert math.isfinite(area)
    return round(area, 3)


def _table(rows: Sequence[ThresholdRow]) -> str:
    lines = [
        "| at least | shown | all right | first line right | wrong | kept silent | of them right |"
        " characters saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"{row.line / row.shown:.0%}" if row.shown else "-"
        lines.append(
            f"| {row.threshold:g} | {row.shown} | {row.right} | {row.line} ({share}) | {row.wrong} "
            f"| {row.silent} | {row.silent_line} | {row.characters} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
