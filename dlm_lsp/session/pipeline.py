"""From a context to suggestions: asks the engine host and shapes what comes back.

One async generator, used alike for automatic and invoked requests and by tests. Closing it cancels
the request in the engine. Knows no document, no LSP, no request that might supersede this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from dlm_lsp.client.host_client import HostError
from dlm_lsp.client.messages import (
    BlockBody,
    BudgetBody,
    DraftEvent,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    LimitsBody,
    Marks,
    SamplingBody,
    SpanBody,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.postprocess.shaping import Rules, draft_sources, shape_draft, shape_final
from dlm_lsp.session.context import Context
from dlm_lsp.settings.schema import Settings
from engine.api import AskedMode


class Generator(Protocol):
    """What the pipeline needs of a host client."""

    def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        """Streams one completion; closing the generator cancels it in the engine."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of the engine beside the text. `client` and `document` are for its log."""

    client: str = ""
    document: str = ""
    mode: AskedMode = "auto"
    limits: LimitsBody = field(default_factory=LimitsBody)
    sampling: SamplingBody = field(default_factory=SamplingBody)
    block: BlockBody = field(default_factory=BlockBody)
    budget: BudgetBody = field(default_factory=BudgetBody)
    stop: tuple[str, ...] = ()
    draft: bool = True
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The whole state of a completion after one event, shaped for the screen.

    Attributes:
        committed: will not change; a later one's starts with it. Inserted at the cursor.
        draft: text behind it that may still change; empty in a final suggestion.
        spans: confidence over `draft`, in code points.
        final: nothing follows.
        replaced: code points behind the cursor that the text replaces; known when final.
        marks: of the prompt, as the host used them.
        mode: that the host chose; never "auto".
        finish_reason: why it ended ("scope" where shaping ended it); None before.
        exact: the host says that it decoded in exact mode.
    """

    committed: str
    draft: str
    spans: tuple[SpanBody, ...]
    final: bool
    replaced: int
    usage: UsageBody
    marks: Marks
    mode: str
    finish_reason: str | None = None
    exact: bool = False


def options_for(settings: Settings, *, automatic: bool, drafts: bool, document: str) -> Options:
    """What the settings say for one request."""
    limits = settings.limits
    return Options(
        client="lsp",
        document=document,
        mode=settings.mode,
        limits=LimitsBody(
            tokens_max=limits.tokens_max if automatic else limits.tokens_max_invoked,
            milliseconds_max=limits.milliseconds_max,
        ),
        block=BlockBody(length=settings.block.length, threshold=settings.block.threshold),
        budget=BudgetBody(
            prefix_tokens=settings.context.prefix_tokens,
            suffix_tokens=settings.context.suffix_tokens,
        ),
        draft=drafts,
    )


def to_body(context: Context, options: Options) -> GenerateBody:
    """The request to the host."""
    return GenerateBody(
        client=options.client,
        document=options.document,
        prefix=context.prefix,
        suffix=context.suffix,
        marks=context.marks,
        budget=options.budget,
        mode=options.mode,
        limits=options.limits,
        sampling=options.sampling,
        block=options.block,
        stop=options.stop,
        draft=options.draft,
        exact=options.exact,
    )


async def complete(
    context: Context, rules: Rules, options: Options, client: Generator
) -> AsyncGenerator[Suggestion, None]:
    """Yields the state after each event of the host; the last one is final.

    The first, empty one tells the marks. Ends early, and cancels in the engine, once shaping lets
    nothing more through.

    Raises:
        HostError: the host cannot be used, or could not complete this.
    """
    marks, mode, exact = Marks(), "", False
    async with aclosing(client.generate(to_body(context, options))) as events:
        async for event in events:
            if isinstance(event, ErrorEvent):
                raise HostError(event.error.message, code=event.error.code)
            if isinstance(event, StartedEvent):
                marks, mode, exact = event.marks, event.mode, event.exact
                yield Suggestion("", "", (), False, 0, event.usage, marks, mode, exact=exact)
                continue
            if isinstance(event, DraftEvent):
                text, reason = event.committed, "scope"
            elif isinstance(event, FinishedEvent):
                text, reason, mode = event.text, event.finish_reason, event.mode
                exact = event.exact
            else:
                text, reason = event.text, "stopped"
            shaped = shape_final(rules, text)
            if isinstance(event, DraftEvent) and not shaped.complete:
                committed, draft = shape_draft(rules, event.committed, event.draft)
                spans = _shown_spans(rules, event)
                yield Suggestion(
                    committed, draft, spans, False, 0, event.usage, marks, mode, exact=exact
                )
                continue
            yield Suggestion(
                shaped.text, "", (), True, shaped.replaced, event.usage, marks, mode, reason, exact
            )
            return


def _shown_spans(rules: Rules, event: DraftEvent) -> tuple[SpanBody, ...]:
    """The event's confidences over the draft as it is shown; 1 for final text held back."""
    by_source = {
        index: span.confidence for span in event.spans for index in range(span.start, span.end)
    }
    sources = draft_sources(rules, event.committed, event.draft)
    confidences = [1.0 if source < 0 else by_source.get(source, 0.0) for source in sources]
    spans: list[SpanBody] = []
    for confidence, run in groupby(confidences):
        start = spans[-1].end if spans else 0
        spans.append(SpanBody(start=start, end=start + len(list(run)), confidence=confidence))
    return tuple(spans)
