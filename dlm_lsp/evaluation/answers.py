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
    UsageBody,
)
from dlm_lsp.evaluation.variants import Variant
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.context import Context, gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import CompletionSource, complete
from engine.lab.evaluation.metrics import compare, length_bucket
from engine.lab.evaluation.records import Record
from engine.lab.evaluation.sandbox import Bounds, run_program
from engine.lab.evaluation.suites import Task

# A task may use one token for each character of its reference plus this many, which is two or three
# times what it needs. Further tokens cost time and make no answer right.
TOKENS_SPARE = 64
# The finish reasons of a completion that ended by itself or by a rule of where completions stop.
ENDED = ("end", "stop", "scope", "syntax")


@dataclass(frozen=True, slots=True)
class Asking:
    """The options by which every task of a run is asked and judged.

    Attributes:
        tokens_max: the largest number of tokens of a completion.
        block: the run's options of block diffusion, of which variants change some.
        is_raw: whether to judge all that the model writes, not the text that an editor inserts.
        is_automatic: whether to stop where a completion stops that typing asked for.
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
    is_raw: bool
    is_automatic: bool
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


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion of a task.

    Attributes:
        text: what the hole is filled with.
        reason: why it ended, as `Suggestion.finish_reason` or the host's last event says.
        mode: the mode that the host chose.
    """

    text: str
    reason: str
    mode: str
    usage: UsageBody


async def ask(
    client: CompletionSource, question: Question, variant: Variant, asking: Asking
) -> Answer:
    """Returns the greedy completion of a task in one mode.

    It ends where it would in an editor, and the engine is then stopped, unless raw text is asked.

    Raises:
        HostError: the host cannot be used or could not complete this task.
    """
    tokens_max = min(asking.tokens_max, len(question.task.reference) + TOKENS_SPARE)
    limits = LimitsBody(tokens_max=tokens_max)
    block = variant.block(asking.block)
    stop = ("\n",) if asking.is_one_line and question.task.ends_line else ()
    if asking.is_raw:
        done = await _finished(client, question.context, limits, variant, block, stop)
        return Answer(done.text + question.end, done.finish_reason, done.mode, done.usage)
    context = question.context
    # The rules are an editor's: the line break that ends a hole stands after the cursor.
    after = ("\n" if question.task.ends_line and not question.end else "") + context.suffix
    rules = rules_for(context.prefix, after, asking.is_automatic, context.language_id)
    body = GenerateBody(
        client="eval", prefix="", mode=variant.mode, limits=limits, block=block, stop=stop
    )
    gate = gate_for(context.language_id, context.prefix, after)
    async with aclosing(complete(context, rules, body, client, gate)) as suggestions:
        async for last in suggestions:
            if last.final:
                text = _inserted(question, last.committed, last.replaced)
                return Answer(text, last.finish_reason or "", last.mode, last.usage)
    raise HostError("The engine host ended the request without an answer.", code="host_lost")


def judge(
    question: Question,
    variant: Variant,
    answer: Answer,
    asking: Asking,
    outcomes: Mapping[str, str | None],
) -> Record:
    """Returns the record of a completion. Runs the completion's program, which may take seconds.

    Args:
        answer: the result of `ask`.
        outcomes: the outcomes of the task's earlier programs, by completion.
    """
    usage = answer.usage
    return replace(
        judged(question.task, variant.label, answer.text, asking, outcomes),
        ended=answer.reason in ENDED,
        took=answer.mode,
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
    suffix, end = question.task.suffix, "\n" if question.task.ends_line else ""
    whole = text + (end + suffix)[replaced:]
    return whole.removesuffix(suffix) if whole.endswith(suffix) else text + end


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
