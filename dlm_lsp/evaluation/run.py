"""One run of the evaluation: every task and file in every mode; each result is kept at once.

Owns the order of the work and its progress. The host gets one request at a time, so that requests
do not slow each other down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.evaluation.answers import Asking, ask, judge, judged, prepare
from dlm_lsp.evaluation.options import REPLAY
from dlm_lsp.evaluation.replay import TypingScript, replay
from dlm_lsp.evaluation.shown import write
from dlm_lsp.evaluation.variants import Variant
from dlm_lsp.settings.schema import Settings
from engine.lab.evaluation.baselines import (
    BASELINES,
    FREQUENT_LINE,
    PREVIOUS_LINE,
    FrequentLines,
    previous_line,
)
from engine.lab.evaluation.records import Records
from engine.lab.evaluation.suites import Task

_POLL_SECONDS = 0.1
# Outside a terminal: the progress lines of a run, and the longest time without one.
_LINES, _SILENT_SECONDS = 10, 60


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a run.

    Attributes:
        suites: the tasks by suite.
        scripts: the files to be typed.
        variants: the ways of decoding of the tasks; `typed_variants` are those of the replay.
        keys_max: the largest number of keys typed in one file.
        client_settings: an editor's settings for the replay; `settings` is their resolved form.
        shown_log: the folder for the log of shown suggestions; None keeps none.
    """

    suites: dict[str, list[Task]]
    scripts: list[TypingScript]
    variants: Sequence[Variant]
    typed_variants: Sequence[Variant]
    asking: Asking
    keys_max: int
    client_settings: dict[str, object]
    settings: Settings
    shown_log: Path | None = None


class Ticker:
    """Progress on stderr: a bar in a terminal, otherwise occasional lines."""

    def __init__(self, console: Console, bar: Progress, total: int) -> None:
        self._console, self._bar, self._total, self._done = console, bar, total, 0
        self._began = self._told = time.monotonic()
        self._task = bar.add_task("evaluating", total=total)

    def tick(self, what: str) -> None:
        """Counts one more judged completion or typed file."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=what)
        now = time.monotonic()
        is_due = self._done * _LINES % self._total < _LINES or now - self._told > _SILENT_SECONDS
        if is_due and not self._console.is_terminal:
            self._told = now
            passed = timedelta(seconds=round(now - self._began))
            line = f"{self._done} of {self._total} done after {passed}, now {what}"
            self._console.print(line, soft_wrap=True)


async def run_all(work: Work, records: Records, console: Console) -> None:
    """Does all of the work that the records do not contain yet.

    Raises:
        HostError: the host cannot be used; earlier results are kept.
        EngineFailure: a session reported an error, or a program cannot be isolated.
    """
    client = HostClient(to_host_settings(work.settings))
    try:
        with _progress(work, records, console) as ticker:
            await add_baselines(work, records, ticker)
            if any(work.suites.values()):
                await _wait_until_loaded(client)
            for tasks in work.suites.values():
                for task in tasks:
                    await _answer(client, task, work, records, ticker)
            for script in work.scripts:
                for variant in work.typed_variants:
                    await _type(script, variant, work, records, ticker)
    finally:
        await client.close()


async def add_baselines(work: Work, records: Records, ticker: Ticker) -> None:
    """Adds the trivial baselines' answers to every task."""
    for suite, tasks in work.suites.items():
        frequent = FrequentLines(tasks)
        complete = {PREVIOUS_LINE: previous_line, FREQUENT_LINE: frequent.complete}
        for name in BASELINES:
            for task in tasks:
                if not records.has(suite, task.id, name):
                    text = complete[name](task)
                    records.add(judged(task, name, text, work.asking, _outcomes(task, records)))
                    ticker.tick(f"{suite}, {name}")
                    await asyncio.sleep(0)  # Lets an interrupt through.


async def _answer(
    client: HostClient, task: Task, work: Work, records: Records, ticker: Ticker
) -> None:
    """Asks one task in every mode that has not answered it yet."""
    missing = [each for each in work.variants if not records.has(task.suite, task.id, each.label)]
    if not missing:
        return
    question = await prepare(client, task, work.asking)
    for variant in missing:
        answer = await ask(client, question, variant, work.asking)
        outcomes = _outcomes(task, records)
        # On a thread, so that a slow program does not block the event loop.
        record = await asyncio.to_thread(judge, question, variant, answer, work.asking, outcomes)
        records.add(record)
        ticker.tick(task.suite)


def _outcomes(task: Task, records: Records) -> dict[str, str | None]:
    """Returns known outcomes of a task's completions, as most modes write the same text."""
    return {record.text: record.outcome for record in records.of_task(task.suite, task.id)}


async def _type(
    script: TypingScript, variant: Variant, work: Work, records: Records, ticker: Ticker
) -> None:
    if records.has(REPLAY, script.id, variant.label):
        return
    settings = dict(work.client_settings)
    block = variant.block(work.asking.block)
    settings["mode"] = variant.mode
    settings["block"] = block.model_dump(by_alias=True, exclude_none=True)
    if variant.confidence is not None:
        settings["silence"] = {"confidence": variant.confidence}
    keep = partial(write, work.shown_log) if work.shown_log is not None else None
    records.add(await replay(script, variant.label, settings, work.keys_max, keep=keep))
    ticker.tick(REPLAY)


async def _wait_until_loaded(client: HostClient) -> None:
    await client.ensure()
    while (await client.health()).state == "loading":
        await asyncio.sleep(_POLL_SECONDS)


@contextmanager
def _progress(work: Work, records: Records, console: Console) -> Iterator[Ticker]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    modes = [*BASELINES, *(variant.label for variant in work.variants)]
    pairs = [(suite, task.id) for suite, tasks in work.suites.items() for task in tasks]
    keys = [(*pair, mode) for pair in pairs for mode in modes]
    typed = work.typed_variants
    keys += [(REPLAY, script.id, each.label) for script in work.scripts for each in typed]
    found = sum(records.has(*key) for key in keys)
    if found:
        console.print(f"{found} of {len(keys)} were found before.", soft_wrap=True)
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        yield Ticker(console, bar, len(keys) - found)
