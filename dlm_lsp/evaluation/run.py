"""One run of the evaluation: every task and every file in every mode, each kept as it is found.

Owns the order of the work and its progress. The host is asked one thing at a time, so that times
are of an engine that does nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm_lsp.client import HostClient
from dlm_lsp.engine_link import to_host_settings
from dlm_lsp.evaluation.answers import Asking, ask, judge, judged, prepare
from dlm_lsp.evaluation.options import REPLAY
from dlm_lsp.evaluation.replay import Script, replay
from dlm_lsp.evaluation.variants import Variant
from dlm_lsp.settings import Settings
from engine.evaluation.baselines import (
    BASELINES,
    FREQUENT_LINE,
    PREVIOUS_LINE,
    FrequentLines,
    previous_line,
)
from engine.evaluation.records import Records
from engine.evaluation.suites import Task

_POLL_SECONDS = 0.1
_LINES = 10  # of progress for a whole run, where the output is no terminal


@dataclass(frozen=True, slots=True)
class Work:
    """What a run does.

    Attributes:
        suites: tasks by suite.
        scripts: files to be typed.
        keys_max: most keys typed in one file.
        client_settings: of an editor, for the replay; `settings` is what they come to.
    """

    suites: dict[str, list[Task]]
    scripts: list[Script]
    variants: Sequence[Variant]
    asking: Asking
    keys_max: int
    client_settings: dict[str, object]
    settings: Settings


class Ticker:
    """Progress on stderr: a bar in a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console, bar: Progress, total: int) -> None:
        self._console, self._bar, self._total, self._done = console, bar, total, 0
        self._task = bar.add_task("evaluating", total=total)

    def tick(self, what: str) -> None:
        """One more is done."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=what)
        if not self._console.is_terminal and self._done * _LINES % self._total < _LINES:
            self._console.print(f"{self._done} of {self._total} done, now {what}", soft_wrap=True)


async def run_all(work: Work, records: Records, console: Console) -> None:
    """Does all of the work that the records do not hold yet.

    Raises:
        HostError: the host cannot be used; what was found is kept.
        EngineFailure: a session reported an error, or a program's jail cannot be built.
    """
    client = HostClient(to_host_settings(work.settings))
    try:
        with _progress(work, console) as ticker:
            await add_baselines(work, records, ticker)
            if any(work.suites.values()):
                await _wait_until_loaded(client)
            for suite, tasks in work.suites.items():
                for task in tasks:
                    await _answer(client, task, work, records)
                    ticker.tick(suite)
            for script in work.scripts:
                for variant in work.variants:
                    await _type(script, variant, work, records)
                    ticker.tick(REPLAY)
    finally:
        await client.close()


async def add_baselines(work: Work, records: Records, ticker: Ticker) -> None:
    """What the trivial baselines answer to every task."""
    for suite, tasks in work.suites.items():
        frequent = FrequentLines(tasks)
        complete = {PREVIOUS_LINE: previous_line, FREQUENT_LINE: frequent.complete}
        for name in BASELINES:
            for task in tasks:
                if not records.has(suite, task.id, name):
                    records.add(judged(task, name, complete[name](task), work.asking))
                    await asyncio.sleep(0)  # where an interrupt is taken
            ticker.tick(suite)


async def _answer(client: HostClient, task: Task, work: Work, records: Records) -> None:
    """One task in every mode that has not answered it yet."""
    missing = [each for each in work.variants if not records.has(task.suite, task.id, each.label)]
    if not missing:
        return
    question = await prepare(client, task)
    for variant in missing:
        text, finished = await ask(client, question, variant, work.asking)
        # In a thread, so that a program that takes long does not hold up what the loop has to do.
        record = await asyncio.to_thread(judge, question, variant, text, finished, work.asking)
        records.add(record)


async def _type(script: Script, variant: Variant, work: Work, records: Records) -> None:
    if records.has(REPLAY, script.id, variant.label):
        return
    settings = dict(work.client_settings)
    block = variant.block(work.asking.block_length)
    settings["mode"] = variant.mode
    settings["block"] = block.model_dump(by_alias=True, exclude_none=True)
    records.add(await replay(script, variant.label, settings, work.keys_max))


async def _wait_until_loaded(client: HostClient) -> None:
    await client.ensure()
    while (await client.health()).state == "loading":
        await asyncio.sleep(_POLL_SECONDS)


@contextmanager
def _progress(work: Work, console: Console) -> Iterator[Ticker]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    total = sum(map(len, work.suites.values())) + len(work.suites) * len(BASELINES)
    total += len(work.scripts) * len(work.variants)
    is_shown = console.is_terminal
    with Progress(*columns, console=console, disable=not is_shown, transient=True) as bar:
        yield Ticker(console, bar, total)
