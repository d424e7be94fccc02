"""From a context to suggestions: asks the engine host and shapes the text of its answers.

One async generator serves automatic requests, invoked requests and tests. Closing it cancels the
request in the engine. Knows no document, no LSP and no other request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

from dlm_lsp.client.errors import HostError
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
    SpanBody,
    StartedEvent,
    StoppedEvent,
    UsageBody,
)
from dlm_lsp.postprocess.gated import GatedShaping
from dlm_lsp.postprocess.shaping import Rules, shape_draft
from dlm_lsp.postprocess.syntax import SyntaxGate
from dlm_lsp.session.confidence import aligned
from dlm_lsp.session.context import Context
from dlm_lsp.session.sureness import is_sure, sure_lines
from dlm_lsp.settings.schema import Settings
from engine.api import LogProbs

UNSURE = "unsure"  # The `finish_reason` of a text that ends where the model is not sure of more.


class CompletionSource(Protocol):
    """Where completions come from; `HostClient` is one."""

    def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        """Streams one completion; closing the generator cancels it in the engine."""
        ...


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The whole state of a completion after one event, shaped for the screen.

    Attributes:
        committed: the text to insert at the cursor that no longer changes; every later suggestion
            of the run begins with it.
        draft: the text after `committed` that may still change; empty in a final suggestion.
        spans: the confidences of parts of `draft`, in code points.
        held: the number of characters of `draft` that the engine has decided and the syntax gate
            has not judged yet: the final text begins with them or ends before.
        final: whether this is the last suggestion.
        replaced: the number of code points after the cursor to replace; known in the final one.
        marks: the marks that the host used for the prompt.
        mode: the mode that the host chose; never "auto".
        finish_reason: why the completion ended ("scope" if shaping ended it, "syntax" if the
            syntax gate took text away, UNSURE if the model was not sure of more); None before.
        exact: whether the host decoded in exact mode.
        logprobs: the tokens of the text that no longer changes, as far as the model wrote it; empty
            if unknown.
        hidden: the text after `draft` that the engine has decided, but of which the model is not
            sure yet.
    """

    committed: str = ""
    draft: str = ""
    spans: tuple[SpanBody, ...] = ()
    held: int = 0
    final: bool = False
    replaced: int = 0
    usage: UsageBody = field(default_factory=UsageBody)
    marks: Marks = field(default_factory=Marks)
    mode: str = ""
    finish_reason: str | None = None
    exact: bool = False
    logprobs: LogProbs = ()
    hidden: str = ""


def to_body(settings: Settings, *, automatic: bool, client: str) -> GenerateBody:
    """Returns the request body that the settings describe, without text; `complete` adds the text.

    Args:
        client: the client's name, by which the host serves clients in turn.
    """
    limits = settings.limits
    return GenerateBody(
        client=client,
        prefix="",
        mode=settings.mode,
        soon=automatic,
        limits=LimitsBody(
            tokens_max=limits.tokens_max if automatic else limits.tokens_max_invoked,
            milliseconds_max=limits.milliseconds_max,
        ),
        block=BlockBody(**settings.block.model_dump()),
        budget=BudgetBody(
            prefix_tokens=settings.context.prefix_tokens,
            suffix_tokens=settings.context.suffix_tokens,
            related_tokens=settings.context.related_tokens,
        ),
    )


async def complete(
    context: Context,
    rules: Rules | Callable[[], Rules],
    body: GenerateBody,
    source: CompletionSource,
    gate: SyntaxGate | Callable[[], SyntaxGate | None] | None = None,
    least: float = 0.0,
) -> AsyncGenerator[Suggestion, None]:
    """Yields the state after each event of the host; the last state is final.

    The first state is empty and carries the marks. The generator ends early and cancels the
    request in the engine once shaping would remove all further text, or none can be sure.

    Args:
        rules: the rules of shaping, or what makes them.
        body: the request without its text, which comes from the context.
        gate: what judges the text at the context's cursor, or what makes it; None judges nothing.
            Rules and gate take some milliseconds to make, which pass while the engine reads the
            prompt.
        least: how probable what is shown must be (`session/sureness.py`); 0 shows everything.

    Raises:
        HostError: the host cannot be used or could not complete this request.
    """
    text = {
        "name": context.name,
        "prefix": context.prefix,
        "suffix": context.suffix,
        "marks": context.marks,
        "repository": context.repository,
        "related": context.related,
    }
    latest, shaping = Suggestion(), None
    async with aclosing(source.generate(body.model_copy(update=text))) as events:
        async for event in events:
            if shaping is None:
                shaping = GatedShaping(
                    rules() if callable(rules) else rules, gate() if callable(gate) else gate
                )
            if least > 0 and not isinstance(event, StartedEvent | ErrorEvent):
                latest = _surely(latest, event, shaping, least)
            elif isinstance(event, DraftEvent):
                latest = _drafted(latest, event, shaping)
            else:
                latest = _after(latest, event, shaping)
            yield latest
            if latest.final:
                return


def _drafted(latest: Suggestion, event: DraftEvent, shaping: GatedShaping) -> Suggestion:
    """Returns the state after a draft; it is final if no more text could be shown."""
    latest = replace(latest, usage=event.usage)
    gated = shaping.draft(event.committed, event.draft)
    shaped = gated.shaped
    if shaped.complete:
        return _finished(latest, shaping, event.committed, "scope", event.logprobs)
    return replace(
        latest,
        committed=shaped.committed,
        draft=shaped.draft,
        spans=_shown_spans(shaped.sources, event.spans),
        held=gated.held,
        logprobs=aligned(event.logprobs, event.committed, shaped.committed + shaped.draft),
    )


def _surely(
    latest: Suggestion,
    event: DraftEvent | FinishedEvent | StoppedEvent,
    shaping: GatedShaping,
    least: float,
) -> Suggestion:
    """Returns the state after an event, with those lines alone of which the model is sure.

    It is final once no further line can be sure.
    """
    latest, ended = replace(latest, usage=event.usage), None
    written = event.committed if isinstance(event, DraftEvent) else event.text
    whole = shape_draft(shaping.rules, written, "")
    if not isinstance(event, DraftEvent):
        ended = _after(latest, event, shaping)
    elif whole.complete or (written and not event.logprobs):
        ended = _drafted(latest, event, shaping)
    if written and not event.logprobs:  # The host does not tell.
        return ended or latest
    if ended is not None and is_sure(ended.committed, ended.logprobs, least):
        return ended
    lines = sure_lines(written, event.logprobs, least)
    if ended is not None or not is_sure(written, event.logprobs, least):
        return _finished(ended or latest, shaping, lines, UNSURE, event.logprobs)
    assert isinstance(event, DraftEvent), "any other event ends the run"
    sure = {"committed": lines, "draft": "", "spans": ()}
    latest = _drafted(latest, event.model_copy(update=sure), shaping)
    if latest.final:
        return latest
    shown = len(latest.committed) + len(latest.draft)
    return replace(latest, hidden=whole.committed[shown:])


def _after(
    latest: Suggestion,
    event: StartedEvent | FinishedEvent | StoppedEvent | ErrorEvent,
    shaping: GatedShaping,
) -> Suggestion:
    """Returns the state after any other event. Raises HostError for an error event."""
    if isinstance(event, ErrorEvent):
        raise HostError(event.error.message, code=event.error.code)
    latest = replace(latest, usage=event.usage)
    if isinstance(event, StartedEvent):
        return replace(latest, marks=event.marks, mode=event.mode, exact=event.exact)
    if isinstance(event, FinishedEvent):
        latest = replace(latest, mode=event.mode, exact=event.exact)
        return _finished(latest, shaping, event.text, event.finish_reason, event.logprobs)
    return _finished(latest, shaping, event.text, "stopped", event.logprobs)


def _finished(
    latest: Suggestion, shaping: GatedShaping, text: str, reason: str, logprobs: LogProbs
) -> Suggestion:
    shaped, is_cut = shaping.final(text)
    if shaped.complete and reason == "length":
        reason = "scope"  # Its last token shows that it had ended.
    # What is left of a text that the token limit cut has not ended.
    is_empty = reason == UNSURE and not text  # There was nothing to take away.
    if is_cut and not is_empty and reason != "stopped" and not (reason == "length" and shaped.text):
        reason = "syntax"
    return replace(
        latest,
        committed=shaped.text,
        draft="",
        spans=(),
        held=0,
        hidden="",
        final=True,
        replaced=shaped.replaced,
        finish_reason=reason,
        logprobs=aligned(logprobs, text, shaped.text),
    )


def _shown_spans(sources: Sequence[int], spans: Sequence[SpanBody]) -> tuple[SpanBody, ...]:
    """Returns the confidences over the shown draft; 1 for committed text that is held back.

    Args:
        sources: the indices of `ShapedDraft.sources`.
        spans: the confidences over the model's draft.
    """
    by_source = {index: span.confidence for span in spans for index in range(span.start, span.end)}
    confidences = [1.0 if source < 0 else by_source.get(source, 0.0) for source in sources]
    shown: list[SpanBody] = []
    for confidence, run in groupby(confidences):
        start = shown[-1].end if shown else 0
        shown.append(SpanBody(start=start, end=start + len(list(run)), confidence=confidence))
    return tuple(shown)
