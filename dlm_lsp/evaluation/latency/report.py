"""The typing latencies as JSON and tables, one section for each processor and model.

Owns how samples become figures, and how they are stored: a run replaces its own section and keeps
those of other processors and models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlm_lsp.evaluation.latency.answers import Ours, Theirs
from engine.lab.bench.conditions import to_sentence
from engine.lab.bench.sections import read_sections
from engine.lab.tables import to_table

FORMAT = 1
JSON_FILE, TABLE_FILE = "typing.json", "typing.md"
RATIO_MAX = 0.4  # The aim: the median time to the first text, of llama.cpp's median.
SHARES = (50, 95, 99)
_HEADER = """\
# How long a suggestion takes while somebody types

A simulated typist types missing lines of files of Python's standard library into a simulated
editor with a real language server process and a real engine host; the next key comes when the
request after the last one is answered, and no suggestion is accepted. The same keys go to
llama.cpp's `/infill` in its own process, in the same run, place by place in turn, asked as
llama.vim asks it: 256 lines above and 64 below, at most 128 tokens, after 250 ms no further line,
the prompt cached, and the server's settings those of its presets for infilling. Both have one slot,
the same GGUF file and the same number of threads, and only the one that is asked works.

"First text" is the time from the key until the first draft with text, or the answer, for requests
that showed any; llama.cpp does not stream its answer, so that its time is that of the answer.
"Cold" is the first request after a file was opened or another place of it was gone to, "after a
rest" the same where the cursor had rested before, so that the prompt was read ahead (`dlm/warm`);
"warm" are the keys after that, also those whose answer had been shown already and is typed
through, and "engine asked" those of them that are not. "Of llama.cpp's" is the ratio of the
medians, and in brackets the median of the ratios by key. "Recomputed" are the prompt tokens that
were not found in the cache. Times are milliseconds."""

Kind = Literal["cold", "rested", "warm"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of both engines; `theirs` is None where llama.cpp was not asked: where llama.vim
    would not ask, and behind the number of keys that it takes part in."""

    is_busy: bool
    kind: Kind
    ours: Ours
    theirs: Theirs | None


@dataclass(frozen=True, slots=True)
class TypingSection:
    """One run.

    Attributes:
        processor: the name by `engine.device.cpu_name`; with `model` and `threads` the key.
        conditions: by name, in the order of the report.
    """

    processor: str
    model: str
    threads: int
    conditions: Mapping[str, str | int | float | None]
    samples: Sequence[Sample]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.processor, self.model, self.threads


def percentile(values: Sequence[float], share: int) -> float:
    """Returns the smallest of the values that `share` per cent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share / 100) - 1, 0)]


ROWS: tuple[tuple[str, Callable[[Sample], bool]], ...] = (
    ("cold", lambda sample: sample.kind == "cold"),
    ("after a rest", lambda sample: sample.kind == "rested"),
    ("warm", lambda sample: sample.kind == "warm"),
    (
        "warm, engine asked",
        lambda sample: sample.kind == "warm" and sample.ours.recomputed is not None,
    ),
)


def times_table(samples: Sequence[Sample]) -> list[str]:
    """The times of one condition as a Markdown table."""
    rows = []
    for name, fits in ROWS:
        chosen = [sample for sample in samples if fits(sample)]
        first = [one.ours.first for one in chosen if one.ours.first is not None]
        theirs = [one.theirs.final for one in chosen if one.theirs is not None]
        final = [one.ours.final for one in chosen]
        cells = (_shares(first), _shares(final), _shares(theirs))
        rows.append((name, len(chosen), len(first), *cells, _ratio(chosen)))
    names = ("", "requests", "shown", "first text p50 / p95 / p99", "answer", "llama.cpp")
    return to_table((*names, "first text of llama.cpp's"), rows)


def tokens_table(samples: Sequence[Sample]) -> list[str]:
    """The recomputed prompt tokens of one condition as a Markdown table."""
    rows = []
    for name, fits in ROWS:
        chosen = [sample for sample in samples if fits(sample)]
        ours = [one.ours.recomputed for one in chosen if one.ours.recomputed is not None]
        theirs = [one.theirs.recomputed for one in chosen if one.theirs is not None]
        rows.append((name, len(ours), _shares(ours), _shares(theirs)))
    return to_table(("recomputed", "engine asked", "tokens p50 / p95 / p99", "llama.cpp"), rows)


def medians_ratio(samples: Sequence[Sample]) -> float | None:
    """Returns the median time to first text, of llama.cpp's; None without both."""
    first = [one.ours.first for one in samples if one.ours.first is not None]
    theirs = [one.theirs.final for one in samples if one.theirs is not None]
    return percentile(first, 50) / percentile(theirs, 50) if first and theirs else None


def to_text(sections: Sequence[TypingSection]) -> str:
    """The whole report as Markdown."""
    lines = [_HEADER]
    for section in sections:
        threads = f"{section.threads} thread{'s' * (section.threads > 1)}"
        lines += ["", f"## {section.model} on {section.processor}, {threads}", ""]
        lines.append(to_sentence(section.conditions))
        for is_busy, title in ((False, "Nothing else runs"), (True, "Beside a busy core")):
            samples = [sample for sample in section.samples if sample.is_busy == is_busy]
            if not samples:
                continue
            warm = medians_ratio([sample for sample in samples if sample.kind == "warm"])
            lines += ["", f"### {title}", "", *times_table(samples), "", *tokens_table(samples)]
            if warm is not None:
                verdict = "met" if warm <= RATIO_MAX else "**not met**"
                lines += ["", f"Warm, ≤ {RATIO_MAX:g} × llama.cpp's: {warm:.2f}, {verdict}."]
    return "\n".join(lines) + "\n"


def write(folder: Path, section: TypingSection) -> None:
    """Writes the section and those that the folder has into both files.

    Raises: ConfigError if the existing file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = [one for one in read(folder / JSON_FILE) if one.key != section.key]
    sections = sorted((*others, section), key=lambda one: one.key)
    content = {"format": FORMAT, "sections": [asdict(each) for each in sections]}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    # One sample a line keeps differences readable.
    text = text.replace('{"is_busy"', '\n{"is_busy"') + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    (folder / TABLE_FILE).write_text(to_text(sections), encoding="utf-8")


def read(file: Path) -> list[TypingSection]:
    """The sections of a file; none if there is no file.

    Raises: ConfigError if the file cannot be read, or has another format.
    """
    return read_sections(file, FORMAT, _section)


def _section(entry: Mapping[str, Any]) -> TypingSection:
    samples = tuple(
        Sample(
            one["is_busy"],
            one["kind"],
            Ours(**one["ours"]),
            None if one["theirs"] is None else Theirs(**one["theirs"]),
        )
        for one in entry["samples"]
    )
    return TypingSection(**{**entry, "samples": samples})


def _shares(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return " / ".join(_number(percentile(values, share)) for share in SHARES)


def _ratio(samples: Sequence[Sample]) -> str:
    """The ratio of the medians, and in brackets the median of the ratios by key."""
    whole = medians_ratio(samples)
    by_key = [
        one.ours.first / one.theirs.final
        for one in samples
        if one.ours.first is not None and one.theirs is not None
    ]
    return "–" if whole is None or not by_key else f"{whole:.2f} ({percentile(by_key, 50):.2f})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
