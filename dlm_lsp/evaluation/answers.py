"""Completes tasks with the engine host or a baseline, and judges each completion into a record.

Every mode of a task finds the task's prompt in the cache, so that no mode's time depends on the
order of modes. Knows neither how a host is reached nor where records are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import (
    BlockBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    LimitsBody,
)
from dlm_lsp.evaluation.variants import Variant
from dlm_lsp.postprocess.gated import GatedShaping
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.context import Context, gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import CompletionSource
from engine.lab.evaluation.metrics import compare, length_bucket
from engine.lab.evaluation.records import Record
from engine.lab.evaluation.sandbox import Bounds, run_program
from engine.lab.evaluation.suites import Task

# A task may use one token for each character of its reference plus this many, which is two or three
# times what it needs. Further tokens cost time and make no answer right.
TOKENS_SPARE = 64
ENDED = ("end", "stop")  # The finish reasons of a completion that ended by itself.


@dataclass(frozen=True, slots=True)
class Asking:
    """The options by which every task of a run is asked and judged.

    Attributes:
        tokens_max: the largest number of tokens of a completion.
        block: the run's options of block diffusion, of which variants change some.
        is_shaped: whether to judge the text that an editor would insert, not the raw text.
        is_verbatim: whether to ask with a task's prefix and suffix unchanged. Otherwise the line
            break that ends a hole of whole lines stands after the cursor, as in an editor, and is
            added to the completion.
        is_one_line: whether completions of whole lines end at their first line break, as those that
            an editor asks for one line do.
        execute: "isolated", "unprotected" or "never".
        bounds: the limits of one program.
    """

    tokens_max: int
    block: BlockBody
    is_shaped: bool
    is_verbatim: bool
    is_one_line: bool
    execute: str
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Question:
    """A task whose prompt is in the host's cache.

    Attributes:
        end: the part of the hole that stands after the cursor: its line break, or nothing.
    """

    task: Task
    end: str
    context: Context
    prompt_ms: float


async def prepare(client: CompletionSource, task: Task, asking: Asking) -> Question:
    """Brings a task's prompt into the host's cache.

    Raises:
        HostError: the host cannot be used.
    """
    end = "\n" if task.ends_line and not asking.is_verbatim else ""
    document = Document("file:///evaluation", task.language, 0, task.prefix + end + task.suffix)
    context = gather(document, len(task.prefix), None)
    warm = await _finished(client, context, LimitsBody(tokens_max=0), Variant("ar"), BlockBody())
    return Question(task, end, context, warm.usage.prefill_ms)


async def ask(
    client: CompletionSource, question: Question, variant: Variant, asking: Asking
) -> tuple[str, FinishedEvent]:
    """Returns the greedy completion of a task in one mode, and the host's last event.

    Raises:
        HostError: the host cannot be used or could not complete this task.
    """
    tokens_max = min(asking.tokens_max, len(question.task.reference) + TOKENS_SPARE)
    limits = LimitsBody(tokens_max=tokens_max)
    block = variant.block(asking.block)
    stop = ("\n",) if asking.is_one_line and question.task.ends_line else ()
    finished = await _finished(client, question.context, limits, variant, block, stop)
    if not asking.is_shaped:
        return finished.text + question.end, finished
    context = question.context
    rules = rules_for(context.prefix, context.suffix, False, context.language_id)
    gate = gate_for(context.language_id, context.prefix, context.suffix)
    shaped, _ = GatedShaping(rules, gate).final(finished.text)
    return _inserted(question, shaped.text, shaped.replaced), finished


def judge(
    question: Question,
    variant: Variant,
    answer: tuple[str, FinishedEvent],
    asking: Asking,
    outcomes: Mapping[str, str | None],
) -> Record:
    """Returns the record of a completion. Runs the completion's program, which may take seconds.

    Args:
        answer: the result of `ask`.
        outcomes: the outcomes of the task's earlier programs, by completion.
    """
    text, finished = answer
    usage = finished.usage
    return replace(
        judged(question.task, variant.label, text, asking, outcomes),
        ended=finished.finish_reason in ENDED,
        took=finished.mode,
        tokens=usage.tokens,
        forwards=usage.forwards,
        prompt_ms=question.prompt_ms,
        ms=usage.total_ms,
    )


def judged(
    task: Task,
    mode: str,
    text: str,
    asking: Asking,
    outcomes: Mapping[str, str | None],
) -> Record:
    """Returns the record of any text as the completion of a task, without times.

    Args:
        outcomes: the outcomes of the task's earlier programs, by completion.
    """
    found = compare(text, task.reference)
    outcome = outcomes[text] if text in outcomes else _run(task, text, asking)
    return Record(
        suite=task.suite,
        id=task.id,
        mode=mode,
        kind=task.kind,
        bucket=length_bucket(task.reference),
        text=text,
        exact=found.exact,
        first_line=found.first_line,
        similarity=round(found.similarity, 4),
        wrong_length=found.wrong_length,
        ended=True,
        outcome=outcome,
        tokens=0,
        forwards=0,
        prompt_ms=None,
        ms=None,
    )


def _run(task: Task, text: str, asking: Asking) -> str | None:
    if task.tests is None or asking.execute == "never":
        return None
    is_isolated = asking.execute == "isolated"
    return run_program(task.program(text), asking.bounds, is_isolated=is_isolated).reason


def _inserted(question: Question, text: str, replaced: int) -> str:
    """Returns the raw completion that gives the same text as a shaped one."""
    suffix = question.task.suffix
    whole = text + (question.end + suffix)[replaced:]
    return whole.removesuffix(suffix) if whole.endswith(suffix) else text + question.end


async def _finished(
    client: CompletionSource,
    context: Context,
    limits: LimitsBody,
    variant: Variant,
    block: BlockBody,
    stop: tuple[str, ...] = (),
) -> FinishedEvent:
    body = GenerateBody(
        client="eval",
        prefix=context.prefix,
        suffix=context.suffix,
        marks=context.marks,
        mode=variant.mode,
        limits=limits,
        block=block,
        stop=stop,
        draft=False,
    )
    async with aclosing(client.generate(body)) as events:
        async for event in events:
            if isinstance(event, ErrorEvent):
                raise HostError(event.error.message, code=event.error.code)
            if isinstance(event, FinishedEvent):
                return event
    raise HostError("The engine host ended the request without an answer.", code="host_lost")
