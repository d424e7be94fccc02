"""`dlm-lsp eval`: runs an evaluation and prints its tables.

Decides which arguments make two runs the same, and writes the files in the folder of a run. Does
not read settings files: figures depend on the command line alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.client.messages import BlockBody
from dlm_lsp.client.paths import identity
from dlm_lsp.evaluation.answers import Asking
from dlm_lsp.evaluation.options import EvalOptions
from dlm_lsp.evaluation.plan import EvalPlan, to_plan
from dlm_lsp.evaluation.run import Work, run_all
from dlm_lsp.evaluation.variants import to_variants, with_confidences
from dlm_lsp.settings.schema import Settings, load_settings
from dlm_lsp.version import VERSION
from engine.errors import ConfigError, EngineError
from engine.lab.evaluation.figures import by_kind
from engine.lab.evaluation.plot import can_draw, draw
from engine.lab.evaluation.records import Records
from engine.lab.evaluation.report import to_markdown, to_object
from engine.lab.evaluation.sandbox import Bounds, check_isolation
from engine.lab.evaluation.suites import digest

REPORT, JSON_REPORT, PLOT = "report.md", "report.json", "quality.svg"
_RESUME_NOTE = "The same command goes on where this one ended."
_VERBATIM = "asked with prompt and suffix as they are (--verbatim)"
_AS_IN_AN_EDITOR = (
    "asked as in an editor: the line break that ends a hole stands after the cursor, and the "
    "completion gets it"
)


def run(options: EvalOptions, client_settings: dict[str, object], as_json: bool) -> int:
    """Evaluates and prints the tables; returns 0, or 1 if the engine failed.

    Raises:
        ConfigError: an option, a file or the folder cannot be used.
    """
    console = Console(stderr=True, highlight=False)
    settings = _settings(client_settings)
    with console.status("Reading suites …"):
        plan = to_plan(options)
    work = _work(options, client_settings, settings, plan)
    arguments = _arguments(options, work, plan)
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
    table = to_markdown(records.all.values(), _notes(options, plan))
    if options.out is not None:
        _write(options.out, table, report, records)
    print(report if as_json else table, end="")
    return 0


def _settings(client_settings: Mapping[str, object]) -> Settings:
    loaded = load_settings(client_settings)
    if loaded.problems:
        sentence = loaded.problems[0].partition(": ")[2]
        raise ConfigError(sentence.removesuffix(" It is ignored."))
    return loaded.settings


def _work(
    options: EvalOptions, client_settings: dict[str, object], settings: Settings, plan: EvalPlan
) -> Work:
    has_tests = any(task.tests is not None for tasks in plan.suites.values() for task in tasks)
    if has_tests and options.execute == "isolated":
        check_isolation()
    variants = to_variants(options.modes, options.thresholds)
    return Work(
        suites=plan.suites,
        scripts=plan.scripts,
        variants=variants,
        typed_variants=with_confidences(variants, options.confidences),
        asking=Asking(
            tokens_max=options.tokens_max,
            block=BlockBody(**settings.block.model_dump()),
            is_raw=options.is_raw,
            is_automatic=options.is_automatic,
            is_verbatim=options.is_verbatim,
            is_one_line=options.is_one_line,
            execute=options.execute,
            bounds=Bounds(),
        ),
        keys_max=options.keys_max,
        client_settings=client_settings,
        settings=settings,
        shown_log=options.out if options.logs_shown else None,
    )


def _notes(options: EvalOptions, plan: EvalPlan) -> dict[str, str]:
    """Returns the notes on each suite for the reader."""
    notes: dict[str, str] = {}
    for suite, tasks in plan.suites.items():
        size = plan.sizes[suite]
        parts = [f"{len(tasks)} tasks"]
        if len(tasks) < size:
            parts = [f"{len(tasks)} of {size} tasks, drawn with seed {options.seed}"]
        if any(task.ends_line for task in tasks):
            parts.append(_VERBATIM if options.is_verbatim else _AS_IN_AN_EDITOR)
        notes[suite] = "; ".join(parts) + "."
    return notes


def _arguments(options: EvalOptions, work: Work, plan: EvalPlan) -> dict[str, object]:
    """Returns the arguments on which records depend, without modes and thresholds, which may be
    added to a run."""
    engine, host = work.settings.engine, to_host_settings(work.settings)
    if host.problem is not None:
        raise ConfigError(host.problem.message, remedy=host.problem.remedy)
    checkpoint = host.engine.checkpoint_path()
    return {
        "version": VERSION,
        "checkpoint": _identity(checkpoint) if engine.url is None else engine.url,
        "host": identity(host.engine) if engine.url is None else "",  # the user's adapters, too
        "device": engine.device,
        "dtype": engine.dtype,
        "backend": engine.backend,
        "threads": engine.threads,
        "block": work.asking.block.model_dump(),
        "tokens_max": options.tokens_max,
        "keys_max": options.keys_max,
        "seed": options.seed,
        "raw": options.is_raw,
        "automatic": options.is_automatic,
        "verbatim": options.is_verbatim,
        "one_line": options.is_one_line,
        "execute": options.execute,
        "suites": {
            name: {"tasks": len(tasks), "of": plan.sizes[name], "digest": digest(tasks)}
            for name, tasks in plan.suites.items()
        },
        "replay": [script.id for script in plan.scripts],
    }


def _identity(checkpoint: Path) -> dict[str, object]:
    """Returns data that identify the checkpoint by its files."""
    is_file = checkpoint.is_file()
    files = [checkpoint] if is_file else sorted(checkpoint.glob("*.safetensors"))
    stats = [file.stat() for file in files]
    weights = {f.name: [s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)}
    return {"name": checkpoint.name, "weights": weights}


def _write(folder: Path, table: str, report: str, records: Records) -> None:
    (folder / REPORT).write_text(f"# Evaluation\n\n{table}", encoding="utf-8")
    (folder / JSON_REPORT).write_text(report, encoding="utf-8")
    figures = by_kind(records.all.values())
    whole = {
        (each.suite, each.mode): each for each in figures
    }  # The figures of a whole suite come last.
    if whole and can_draw():
        draw(list(whole.values()), folder / PLOT)
    elif whole:
        print("dlm-lsp eval: no plot; pip install 'dlm-lsp[eval]' for one.", file=sys.stderr)
