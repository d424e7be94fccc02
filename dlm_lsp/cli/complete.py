"""`dlm-lsp complete`: fills holes in files with the language server's pipeline.

Prints live drafts in a terminal, the plain text into a pipe, or JSON for programs. Files are read,
never written. Does not know how a host is started.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dlm_lsp.cli.place import FilePlace, PlaceError, open_place, to_place
from dlm_lsp.cli.terminal import GUTTER, LiveView, ShownState, hole_at
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.client.messages import DOCUMENT_CHARS_MAX, GenerateBody, SamplingBody
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.context import gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.gate import why_not
from dlm_lsp.session.pipeline import Suggestion, complete, to_body
from dlm_lsp.session.related import related_to, with_related
from dlm_lsp.settings.files import project_file, user_file
from dlm_lsp.settings.schema import CLIENT, Settings, load_settings
from engine.api import Sampling
from engine.errors import ConfigError

LOADING_POLL_SECONDS = 0.1
# The codes of errors that another command line would avoid.
USAGE_CODES = ("invalid_request", "option", "not_pulled", "unknown_name")


@dataclass(frozen=True, slots=True)
class CompletionJob:
    """One hole to fill: its place, document and settings."""

    place: FilePlace
    document: Document
    offset: int
    settings: Settings
    related: tuple[Document, ...] = ()


def run(
    places: Sequence[str],
    client_settings: dict[str, object],
    sampling: Sampling,
    stop: tuple[str, ...],
    as_json: bool,
    exact: bool = False,
    related: Sequence[str] = (),
) -> int:
    """Fills every place, in order, from one host; returns the exit code.

    Args:
        related: files of which the model is shown what may help.
        exact: whether every mode must give the same tokens as "ar".

    Raises: ConfigError for a setting that was given and cannot be used.
    """
    try:
        others = tuple(
            _job(FilePlace(Path(path), 1, 1), client_settings).document for path in related
        )
        jobs = [
            replace(_job(to_place(argument), client_settings), related=others)
            for argument in places
        ]
    except PlaceError as error:
        print(f"dlm-lsp complete: {error}", file=sys.stderr)
        return 2
    body = SamplingBody(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
    asked = {"sampling": body, "stop": stop, "exact": exact}
    return asyncio.run(_fill_all(jobs, asked, as_json))


def _job(place: FilePlace, client_settings: dict[str, object]) -> CompletionJob:
    document, offset = open_place(place)
    found = project_file(place.path)
    loaded = load_settings(client_settings, (found,) if found else (), user_file())
    for problem in loaded.problems:
        source, _, sentence = problem.partition(": ")
        if source == CLIENT:
            raise ConfigError(sentence.removesuffix(" It is ignored."))
        print(f"dlm-lsp complete: {problem}", file=sys.stderr)
    if reason := why_not(document, offset, loaded, automatic=False):
        raise PlaceError(f"{place} is not read. {reason}")
    return CompletionJob(place, document, offset, loaded.settings)


async def _fill_all(
    jobs: Sequence[CompletionJob], asked: Mapping[str, object], as_json: bool
) -> int:
    """Fills every job; `asked` holds the command line's request fields beside the settings."""
    console = Console(highlight=False)
    client = HostClient(to_host_settings(jobs[0].settings))
    code = 0
    try:
        for job in jobs:
            document = job.document.uri[:DOCUMENT_CHARS_MAX]
            body = to_body(job.settings, automatic=False, client="cli")
            body = body.model_copy(update={"document": document, **asked})
            try:
                await _wait_until_loaded(client, console)
                if as_json:
                    print(json.dumps(to_object(job.place, await _last(job, body, client))))
                elif console.is_terminal:
                    await _watch(console, job, body, client)
                else:
                    _print_plainly(job, await _last(job, body, client), len(jobs) > 1)
            except HostError as error:
                code = max(code, 2 if error.code in USAGE_CODES else 1)
                _report(job.place, error, as_json)
            sys.stdout.flush()
    finally:
        await client.close()
    return code


async def _wait_until_loaded(client: HostClient, console: Console) -> None:
    """Waits until the model is loaded, so that the figures of completions exclude loading.

    A host that cannot load reports that to the next request.
    """
    # This shows nothing if the output is no terminal.
    with console.status("Starting the engine …") as spinner:
        await client.ensure()
        while (health := await client.health()).state == "loading":
            spinner.update(Text(health.message))
            await asyncio.sleep(LOADING_POLL_SECONDS)


async def _watch(
    console: Console, job: CompletionJob, body: GenerateBody, client: HostClient
) -> None:
    """Shows the drafts in the surrounding text, and the figures below."""
    hole = hole_at(str(job.place), job.document.text, job.offset)
    with LiveView(console) as view:
        view.show(hole, ShownState())
        async with aclosing(_suggestions(job, body, client)) as suggestions:
            async for suggestion in suggestions:
                figures = Text(f" {figures_of(suggestion)}", GUTTER) if suggestion.final else None
                view.show(
                    hole,
                    ShownState(
                        suggestion.committed,
                        suggestion.draft,
                        suggestion.spans,
                        suggestion.replaced,
                    ),
                    figures,
                )


async def _last(job: CompletionJob, body: GenerateBody, client: HostClient) -> Suggestion:
    # Drafts are asked for although none is shown, since they tell when the completion has ended.
    async with aclosing(_suggestions(job, body, client)) as suggestions:
        return [suggestion async for suggestion in suggestions][-1]


def _suggestions(
    job: CompletionJob, body: GenerateBody, client: HostClient
) -> AsyncGenerator[Suggestion, None]:
    context = gather(job.document, job.offset, None)
    context = with_related(context, related_to(job.document, job.offset, job.related))
    lines_max = job.settings.limits.lines
    rules = rules_for(context.prefix, context.suffix, False, context.language_id, lines_max)
    gate = None
    if job.settings.syntax:
        gate = gate_for(context.language_id, context.prefix, context.suffix)
    return complete(context, rules, body, client, gate)


def to_object(place: FilePlace, suggestion: Suggestion) -> dict[str, Any]:
    """Returns the object that `--json` prints for a place. Times are milliseconds."""
    usage = suggestion.usage
    return {
        "file": str(place.path),
        "line": place.line,
        "column": place.column,
        "text": suggestion.committed,
        "replaced": suggestion.replaced,
        "mode": suggestion.mode,
        "exact": suggestion.exact,
        "finish_reason": suggestion.finish_reason,
        "tokens": usage.tokens,
        "forwards": usage.forwards,
        "tokens_per_forward": _tokens_per_forward(suggestion),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "prefill_ms": round(usage.prefill_ms, 1),
        "first_draft_ms": _rounded(usage.first_draft_ms),
        "total_ms": round(usage.total_ms, 1),
    }


def figures_of(suggestion: Suggestion) -> str:
    """Returns one line for users with the figures of a completion."""
    usage = suggestion.usage
    text = "" if suggestion.committed else "nothing to insert: "
    first = "" if usage.first_draft_ms is None else f"first draft {usage.first_draft_ms:.0f} ms, "
    return " · ".join(
        (
            f"{text}{usage.tokens} tokens, {usage.forwards} forwards "
            f"({_tokens_per_forward(suggestion):.1f} each)",
            f"{first}all {usage.total_ms:.0f} ms",
            f"{usage.cached_tokens}/{usage.prompt_tokens} cached",
            f"{suggestion.mode}{', exact' * suggestion.exact}, {suggestion.finish_reason}",
        )
    )


def _tokens_per_forward(suggestion: Suggestion) -> float:
    usage = suggestion.usage
    return round(usage.tokens / usage.forwards, 3) if usage.forwards else 0.0


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _print_plainly(job: CompletionJob, suggestion: Suggestion, with_place: bool) -> None:
    if with_place:
        print(f"{job.place}:")
    print(suggestion.committed, end="" if suggestion.committed.endswith("\n") else "\n")
    print(figures_of(suggestion), file=sys.stderr)


def _report(place: FilePlace, error: HostError, as_json: bool) -> None:
    if as_json:
        failure = {"code": error.code, "message": error.message, "remedy": error.remedy}
        where = {"file": str(place.path), "line": place.line, "column": place.column}
        print(json.dumps({**where, "error": failure}))
    print(f"dlm-lsp complete: {place}: {error}", file=sys.stderr)
