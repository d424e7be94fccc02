"""The work of an evaluation: reads, cuts and samples the suites that its options name.

Every suite is read before the host is asked, so that an invalid file is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlm_lsp.evaluation.options import HOLES, REPLAY, EvalOptions
from dlm_lsp.evaluation.replay import TypingScript, draw_scripts
from engine.errors import ConfigError
from engine.lab.evaluation.suites import (
    Source,
    Task,
    held_out_sources,
    hole_tasks,
    read_suites,
    sample,
)

HOLES_PER_KIND, REPLAYED_FILES = 200, 10

_LIMITED = re.compile(r"(?P<name>.+):(?P<limit>[1-9]\d*)")


@dataclass(slots=True)
class EvalPlan:
    """The tasks and files of an evaluation.

    Attributes:
        suites: the tasks by suite.
        sizes: the full sizes of suites that were sampled, by name.
        scripts: the files to be typed.
    """

    suites: dict[str, list[Task]] = field(default_factory=dict[str, list[Task]])
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    scripts: list[TypingScript] = field(default_factory=list[TypingScript])


def to_plan(options: EvalOptions) -> EvalPlan:
    """Returns the plan of an evaluation. Raises ConfigError, which names the file or option."""
    wanted = [_with_limit(text, options.limit) for text in dict.fromkeys(options.suites)]
    names = [name for name, _ in wanted]
    for name in (HOLES, REPLAY):
        if names.count(name) > 1:
            raise _twice(name)
    plan = EvalPlan()
    sources = []
    if HOLES in names or REPLAY in names:
        sources = _of_languages(held_out_sources(options.corpus, options.out), options.languages)
    has_made = False
    for name, limit in wanted:
        if name == HOLES:
            drawn = hole_tasks(sources, limit or HOLES_PER_KIND, options.seed)
            tasks = _of_kinds(drawn, options.kinds)
            _add(plan, HOLES, tasks, len(tasks))
        elif name == REPLAY:
            files = [(f"{source.package}/{source.path}", source.text) for source in sources]
            plan.scripts = draw_scripts(files, limit or REPLAYED_FILES, options.seed)
        else:
            for suite, tasks in read_suites(Path(name), options.infillings).items():
                has_made = has_made or suite != Path(name).name
                _add(plan, suite, sample(tasks, limit, options.seed), len(tasks))
    if options.infillings and not has_made:
        raise ConfigError(
            "--infilling is of files with HumanEval's whole problems, and there is none.",
            remedy="Leave it out, or give such a file with --suite.",
            param="infilling",
        )
    return plan


def _of_languages(sources: list[Source], wanted: Sequence[str]) -> list[Source]:
    found = sorted({source.language for source in sources})
    _check(wanted, found, "held-out files of", "language")
    return [source for source in sources if not wanted or source.language in wanted]


def _of_kinds(tasks: list[Task], wanted: Sequence[str]) -> list[Task]:
    """Returns the holes of these kinds, which are the same whichever others are drawn."""
    found = list(dict.fromkeys(task.kind for task in tasks))
    _check(wanted, found, "held-out holes of the kind", "kinds")
    return [task for task in tasks if not wanted or task.kind in wanted]


def _check(wanted: Sequence[str], found: Sequence[str], what: str, param: str) -> None:
    """Raises ConfigError if something is wanted that was not found."""
    for name in wanted:
        if name not in found:
            raise ConfigError(
                f"There are no {what} {name}.",
                remedy=f"There are some of {', '.join(found)}.",
                param=param,
            )


def _add(plan: EvalPlan, suite: str, tasks: list[Task], size: int) -> None:
    if suite in plan.suites:
        raise _twice(suite)
    plan.suites[suite] = tasks
    plan.sizes[suite] = size


def _twice(suite: str) -> ConfigError:
    return ConfigError(
        f"Two suites are called {suite}.",
        remedy="Evaluate them one after the other.",
        param="suite",
    )


def _with_limit(text: str, limit: int | None) -> tuple[str, int | None]:
    """Splits off a suite's limit, which no readable file's name ends with."""
    match = _LIMITED.fullmatch(text)
    return (text, limit) if match is None else (match["name"], int(match["limit"]))
