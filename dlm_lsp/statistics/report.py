"""The figures that `dlm-lsp stats` shows, of rows of the statistics file. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlm_lsp.statistics.rows import Known


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of some suggestions.

    Attributes:
        kept_share: the share of the accepted characters that were still there 30 seconds later, of
            those suggestions where that is known; None without one.
        first_ms, answer_ms: the median and the 95th percentile where the engine was asked; None
            where it never was.
    """

    shown: int
    accepted: int
    partly: int
    typed: int
    dismissed: int
    kept_share: float | None
    first_ms: tuple[float, float] | None
    answer_ms: tuple[float, float] | None

    def to_object(self) -> dict[str, object]:
        """Returns the object that `--json` prints."""
        return {
            "shown": self.shown,
            "accepted": self.accepted,
            "partly": self.partly,
            "typed": self.typed,
            "dismissed": self.dismissed,
            "keptShare": _rounded(self.kept_share),
            "firstMs": _rounded(self.first_ms),
            "answerMs": _rounded(self.answer_ms),
        }


def figures(rows: Sequence[Known]) -> Figures:
    """Returns the figures of rows."""
    fates = [one.fate for one in rows]
    judged = [one for one in rows if one.kept is not None and one.accepted]
    accepted = sum(one.accepted for one in judged)
    asked = [one.row for one in rows if one.row.source != "cache"]
    return Figures(
        shown=len(rows),
        accepted=fates.count("accepted"),
        partly=fates.count("partly"),
        typed=fates.count("typed"),
        dismissed=fates.count("dismissed"),
        kept_share=sum(one.kept or 0 for one in judged) / accepted if accepted else None,
        first_ms=_spread([row.first_ms for row in asked]),
        answer_ms=_spread([row.answer_ms for row in asked]),
    )


def grouped(rows: Sequence[Known], name: Callable[[Known], str]) -> dict[str, Figures]:
    """Returns the figures by a name of each row, the most frequent first."""
    groups: dict[str, list[Known]] = {}
    for one in rows:
        groups.setdefault(name(one), []).append(one)
    ordered = sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return {title: figures(members) for title, members in ordered}


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the least value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    return (percentile(values, 0.5), percentile(values, 0.95)) if values else None


def _rounded(value: object) -> object:
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value
