"""Measures the syntax gate on holes in source files: `python -m dlm_lsp.evaluation.syntax`.

Each hole is asked for as by an editor, and the answer is judged with and without the gate: whether
the whole file then parses, and whether the answer is the file's own text up to spaces. The file's
own text is judged too, whole and its first line alone: the gate should refuse none of it. Prints
the table of `benchmarks/syntax.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.client.messages import BudgetBody, FinishedEvent, GenerateBody, LimitsBody
from dlm_lsp.postprocess.gated import GatedShaping
from dlm_lsp.postprocess.shaping import Rules, Shaped, rules_for, shape_final
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.context import gather
from dlm_lsp.session.document import Document
from dlm_lsp.settings.schema import load_settings
from engine.lab.evaluation.suites import Source, Task, hole_tasks

SEED = 7
ASKED = ("line_tail", "whole_line", "multi_line")
CHARS_MIN, CHARS_MAX, LINE_CHARS_MAX = 500, 40_000, 400


@dataclass(slots=True)
class Figures:
    """What happened to one language's holes, and the milliseconds of each verdict."""

    counts: Counter[str] = field(default_factory=Counter[str])
    times: list[float] = field(default_factory=list[float])

    def row(self, language: str) -> str:
        """Returns the language's row of the table."""
        seen, times = self.counts, sorted(self.times) or [0.0]
        answers = max(seen["answers"], 1)
        cells = (
            language,
            seen["answers"],
            f"{100 * seen['parses'] / answers:.0f} %",
            f"{100 * seen['parses behind the gate'] / answers:.0f} %",
            seen["cut"],
            seen["dropped"],
            seen["right"],
            seen["right and lost"],
            seen["own texts"],
            seen["own and lost"],
            f"{times[len(times) // 2]:.1f} / {times[int(0.95 * len(times))]:.0f}",
        )
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sources", nargs="+", metavar="LANGUAGE=FOLDER:SUFFIX", help="where a language's files are"
    )
    parser.add_argument("--holes", type=int, default=14, help="holes of each kind and language")
    parser.add_argument("--minutes", type=float, default=60.0, help="the longest time of a run")
    parser.add_argument("--seed", type=int, default=SEED, help="of the holes")
    parser.add_argument("--checkpoint", default="", help="a model; left out, none is asked")
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    groups: list[list[Task]] = []
    for source in options.sources:
        language, _, place = source.partition("=")
        folder, _, suffix = place.rpartition(":")
        drawn = hole_tasks(_files(Path(folder), suffix, language), options.holes, options.seed)
        tasks = [replace(task, language=language) for task in drawn]
        by_kind = [[task for task in tasks if task.kind == kind] for kind in ASKED]
        groups.append(list(chain.from_iterable(zip(*by_kind, strict=True))))
        figures[language] = Figures()
    try:
        asyncio.run(_measure(groups, figures, options.checkpoint, options.minutes))
    finally:  # what was measured until a host failed is not lost
        print(
            "| language | answers | parse | behind the gate | cut | dropped | right "
            "| right and lost | own texts | lost of them | ms, p50 / p95 |\n|" + "---|" * 11
        )
        for language, found in figures.items():
            print(found.row(language))


def _files(folder: Path, suffix: str, language: str) -> list[Source]:
    sources: list[Source] = []
    for path in sorted(folder.rglob(f"*{suffix}")):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        is_written = max(map(len, text.split("\n"))) < LINE_CHARS_MAX
        if is_written and CHARS_MIN < len(text) < CHARS_MAX:
            name = path.relative_to(folder)
            sources.append(Source(str(name.parent), str(name), text, language))
    return sources


async def _measure(
    groups: Sequence[Sequence[Task]],
    figures: dict[str, Figures],
    checkpoint: str,
    minutes: float,
) -> None:
    """Takes the languages in turn, so that a run that is out of time has some of each."""
    client: HostClient | None = None
    if checkpoint:
        asked = {"engine": {"checkpoint": checkpoint, "threads": 1}}
        client = HostClient(to_host_settings(load_settings(asked).settings))
        await client.ensure()
    end = time.monotonic() + 60 * minutes
    try:
        for task in chain.from_iterable(zip_longest(*groups)):
            if task is not None and time.monotonic() < end:
                await _judge(task, figures[task.language], client)
    finally:
        if client is not None:
            await client.close()


async def _judge(task: Task, found: Figures, client: HostClient | None) -> None:
    language, prefix = task.language, task.prefix
    own = task.reference.removesuffix("\n")
    suffix = task.reference[len(own) :] + task.suffix
    for automatic, lines_max in ((True, 1), (False, None)):
        rules = rules_for(prefix, suffix, automatic, language, lines_max)
        _, is_cut = _gated(language, prefix, suffix, rules, own, found)
        found.counts["own texts"] += 1
        found.counts["own and lost"] += is_cut
    if client is None:
        return
    raw = await _asked(client, language, prefix, suffix, len(own))
    rules = rules_for(prefix, suffix, task.kind != "multi_line", language, None)
    plain = shape_final(rules, raw)
    if not plain.text:
        return
    gated, is_cut = _gated(language, prefix, suffix, rules, raw, found)
    is_right = _squeezed(plain.text).startswith(_squeezed(own.split("\n")[0]))
    kept = _squeezed(gated.text).startswith(_squeezed(own.split("\n")[0]))
    found.counts["answers"] += 1
    found.counts["parses"] += _parses(language, prefix, plain.text, suffix[plain.replaced :])
    rest = suffix[gated.replaced :]
    found.counts["parses behind the gate"] += _parses(language, prefix, gated.text, rest)
    found.counts["cut"] += is_cut and bool(gated.text)
    found.counts["dropped"] += is_cut and not gated.text
    found.counts["right"] += is_right
    found.counts["right and lost"] += is_right and not kept


def _gated(
    language: str, prefix: str, suffix: str, rules: Rules, raw: str, found: Figures
) -> tuple[Shaped, bool]:
    """Returns the text behind the gate, and whether it is shorter; counts the time."""
    began = time.thread_time()
    gate = gate_for(language, prefix, suffix)
    shaped, is_cut = GatedShaping(rules, gate).final(raw)
    found.times.append(1000 * (time.thread_time() - began))
    return shaped, is_cut


def _parses(language: str, prefix: str, text: str, suffix: str) -> bool:
    """Returns whether the file with the text has no error; true without text and of a file that
    takes too long."""
    gate = gate_for(language, prefix, suffix)
    if gate is None or not text:
        return True
    try:
        return not gate.errors(text)
    except ValueError:
        return True


async def _asked(
    client: HostClient, language: str, prefix: str, suffix: str, num_chars: int
) -> str:
    context = gather(Document("file:///hole", language, 0, prefix + suffix), len(prefix), None)
    body = GenerateBody(
        client="eval",
        prefix=context.prefix,
        suffix=context.suffix,
        marks=context.marks,
        mode="ar",
        limits=LimitsBody(tokens_max=min(96, num_chars // 2 + 24)),
        budget=BudgetBody(prefix_tokens=320, suffix_tokens=96),
        draft=False,
    )
    async with aclosing(client.generate(body)) as events:
        async for event in events:
            if isinstance(event, FinishedEvent):
                return event.text
    return ""


def _squeezed(text: str) -> str:
    return "".join(text.split())


if __name__ == "__main__":
    main()
