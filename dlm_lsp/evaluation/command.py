"""`dlm-lsp eval`: from its options to its tables.

Owns what is evaluated by default, which arguments make two runs the same, and what is written into
the folder of a run. Settings files are not read: a figure depends on the command line alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dlm_lsp.client import HostError
from dlm_lsp.evaluation.answers import Asking
from dlm_lsp.evaluation.options import HOLES, REPLAY, EvalOptions
from dlm_lsp.evaluation.replay import Script, draw_scripts
from dlm_lsp.evaluation.run import Work, run_all
from dlm_lsp.evaluation.variants import to_variants
from dlm_lsp.settings import Settings, load_settings
from dlm_lsp.version import VERSION
from engine.config import BUNDLED_CHECKPOINT
from engine.errors import ConfigError, EngineError
from engine.evaluation.figures import by_kind
from engine.evaluation.plot import can_draw, draw
from engine.evaluation.records import Records
from engine.evaluation.report import to_markdown, to_object
from engine.evaluation.sandbox import Bounds, check_isolation
from engine.evaluation.suites import (
    Task,
    digest,
    held_out_sources,
    hole_tasks,
    read_tasks,
)

HOLES_PER_KIND, REPLAYED_FILES = 200, 10
REPORT, JSON_REPORT, PLOT = "report.md", "report.json", "quality.svg"
_RESUME_NOTE = "The same command goes on where this one ended."


def run(options: EvalOptions, client_settings: dict[str, object], as_json: bool) -> int:
    """Evaluates and prints the tables; 0, or 1 where the engine failed on the way.

    Raises:
        ConfigError: an option, a file or the folder cannot be used.
    """
    console = Console(stderr=True, highlight=False)
    settings = _settings(client_settings)
    work = _work(options, client_settings, settings, console)
    arguments = _arguments(options, work)
    records = Records(options.out, arguments)
    try:
        asyncio.run(run_all(work, records, console))
    except KeyboardInterrupt:
        if options.out is not None:
            print(f"dlm-lsp eval: interrupted. {_RESUME_NOTE}", file=sys.stderr)
        raise
    except (HostError, EngineError) as error:
        note = "" if options.out is None else f" {_RESUME_NOTE}"
        print(f"dlm-lsp eval: {error}{note}", file=sys.stderr)
        return 1
    report = json.dumps(to_object(arguments, records.all.values()), indent=1) + "\n"
    table = to_markdown(records.all.values())
    if options.out is not None:
        _write(options.out, table, report, records)
    print(report if as_json else table, end="")
    return 0


def _settings(client_settings: Mapping[str, object]) -> Settings:
    loaded = load_settings(client_settings, None, None)
    if loaded.problems:
        sentence = loaded.problems[0].partition(": ")[2]
        raise ConfigError(sentence.removesuffix(" It is ignored."))
    return loaded.settings


def _work(
    options: EvalOptions, client_settings: dict[str, object], settings: Settings, console: Console
) -> Work:
    """Reads every suite before anything is asked, so that a wrong file is told of at once."""
    suites: dict[str, list[Task]] = {}
    scripts: list[Script] = []
    names = list(dict.fromkeys(options.suites))
    sources = []
    if HOLES in names or REPLAY in names:
        with console.status("Reading held-out files …"):
            sources = held_out_sources(options.corpus, options.out)
    for name in names:
        if name == HOLES:
            suites[HOLES] = hole_tasks(sources, options.limit or HOLES_PER_KIND, options.seed)
        elif name == REPLAY:
            files = [(f"{source.package}/{source.path}", source.text) for source in sources]
            scripts = draw_scripts(files, options.limit or REPLAYED_FILES, options.seed)
        else:
            tasks = _limited(read_tasks(Path(name)), options.limit)
            if tasks[0].suite in suites:
                raise ConfigError(
                    f"Two suites are called {tasks[0].suite}.",
                    remedy="Evaluate them one after the other.",
                    param="suite",
                )
            suites[tasks[0].suite] = tasks
    has_tests = any(task.tests is not None for tasks in suites.values() for task in tasks)
    if has_tests and options.execute == "isolated":
        check_isolation()
    return Work(
        suites=suites,
        scripts=scripts,
        variants=to_variants(options.modes, options.thresholds),
        asking=Asking(
            tokens_max=options.tokens_max,
            block_length=settings.block.length,
            is_shaped=options.is_shaped,
            execute=options.execute,
            bounds=Bounds(),
        ),
        keys_max=options.keys_max,
        client_settings=client_settings,
        settings=settings,
    )


def _limited(tasks: list[Task], limit: int | None) -> list[Task]:
    """So many of the tasks at most, spread evenly over them."""
    if limit is None or limit >= len(tasks):
        return tasks
    return [tasks[index * len(tasks) // limit] for index in range(limit)]


def _arguments(options: EvalOptions, work: Work) -> dict[str, object]:
    """All that a record depends on. Modes and thresholds are not: they may be added to a run."""
    engine = work.settings.engine
    checkpoint = Path(engine.checkpoint) if engine.checkpoint else BUNDLED_CHECKPOINT
    return {
        "version": VERSION,
        "checkpoint": _identity(checkpoint) if engine.url is None else engine.url,
        "device": engine.device,
        "dtype": engine.dtype,
        "threads": engine.threads,
        "block_length": work.asking.block_length,
        "tokens_max": options.tokens_max,
        "keys_max": options.keys_max,
        "seed": options.seed,
        "post": options.is_shaped,
        "execute": options.execute,
        "suites": {name: digest(tasks) for name, tasks in work.suites.items()},
        "replay": [script.id for script in work.scripts],
    }


def _identity(checkpoint: Path) -> dict[str, object]:
    """Which checkpoint it is, to anyone who has only the files."""
    files = sorted(checkpoint.glob("*.safetensors"))
    stats = [file.stat() for file in files]
    weights = {f.name: [s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)}
    return {"name": checkpoint.name, "weights": weights}


def _write(folder: Path, table: str, report: str, records: Records) -> None:
    (folder / REPORT).write_text(f"# Evaluation\n\n{table}", encoding="utf-8")
    (folder / JSON_REPORT).write_text(report, encoding="utf-8")
    figures = by_kind(records.all.values())
    whole = {(each.suite, each.mode): each for each in figures}  # a suite's whole comes last
    if whole and can_draw():
        draw(list(whole.values()), folder / PLOT)
    elif whole:
        print("dlm-lsp eval: no plot; pip install 'dlm-lsp[eval]' for one.", file=sys.stderr)
