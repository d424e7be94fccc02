"""Refines selected text: finds tokens that the model doubts, and writes anew what it knows better.

The selection is scored between its surroundings, in one forward. Words with a token below a
threshold are holes: each is filled while all other text stays as it is. A new text is taken only if
the selection with it is more probable by a margin, which is wider the less sure the model is of the
new text. So the result is never less probable than what was selected, and a text that the model
believes is left alone. Shows the whole selection after each event. Knows no requests of other
documents; `session.py` decides when it may run.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import (
    GIVEN_CHARS_MAX,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    LimitsBody,
    SpanBody,
    StartedEvent,
)
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.postprocess.syntax import SyntaxGate
from dlm_lsp.session.context import AnchoredMarks, Context, anchored, encodable, gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import CompletionSource, complete
from engine.api import LogProbs

THRESHOLD = 0.1  # Less probable tokens are doubted.
# In nats: with a new text of which the model is sure, the selection is 55 times as probable.
MARGIN = 4.0
SPANS_MAX = 12  # The doubts that are looked at in one run, the least probable first.
UNCHANGED = "The model would change nothing here."
_JOINED_CHARS = 4  # Doubts this close together are one hole.
_SPARE_TOKENS = 3  # That a new text may have more than the doubted one.
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Whole words of a text of which the model doubts a token, and that token's probability."""

    start: int
    end: int
    probability: float


@dataclass(frozen=True, slots=True)
class Fill:
    """What the model writes in the place of a doubt, and how probable it is once it is whole; 0
    before, and for a text that is of no use."""

    text: str
    probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Refined:
    """The whole selection after an event.

    Attributes:
        text: what would stand in its place.
        spans: the parts of `text` that are doubted still or being written, in code points.
    """

    text: str
    spans: tuple[SpanBody, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class Refining:
    """What a run needs.

    Attributes:
        source: the engine host.
        body: a request by hand by the document's settings, without text.
        make_gate: what makes the syntax gate between two texts; None judges nothing.
        threshold: the probability below which a token is doubted.
    """

    source: CompletionSource
    body: GenerateBody
    make_gate: Callable[[str, str], SyntaxGate | None] | None = None
    threshold: float = THRESHOLD


async def refine(
    document: Document, start: int, end: int, with_: Refining
) -> AsyncGenerator[Refined, None]:
    """Yields the selection `document.text[start:end]` as it is refined; the last one is final.

    Closing the generator cancels the work in the engine.

    Raises:
        HostError: the host cannot be used, or could not complete a request.
    """
    assert 0 < end - start <= GIVEN_CHARS_MAX
    run = SelectionRun(document, start, end, with_)
    text = document.text[start:end]
    scores = await run.scored(text)
    doubts = doubted(text, scores, with_.threshold)
    yield Refined(text, _spans(doubts, 0))
    shift = 0
    for index, doubt in enumerate(doubts):
        at = replace(doubt, start=doubt.start + shift, end=doubt.end + shift)
        rest = doubts[index + 1 :]
        fill = Fill("")
        async with aclosing(run.filled(text, scores, at)) as fills:
            async for fill in fills:
                new = fill.text
                shown = text[: at.start] + new + text[at.end :]
                writing = SpanBody(start=at.start, end=at.start + len(new), confidence=0.0)
                moved = shift + len(new) - (at.end - at.start)
                yield Refined(shown, (writing, *_spans(rest, moved)))
        changed = text[: at.start] + fill.text + text[at.end :]
        if fill.probability > 0 and changed != text:
            anew = await run.scored(changed)
            gain = total(anew, at.start) - total(scores, at.start)
            if gain + math.log(fill.probability) > MARGIN:
                shift += len(changed) - len(text)
                text, scores = changed, anew
        yield Refined(text, _spans(rest, shift))
    yield Refined(text, final=True)


class SelectionRun:
    """The engine's requests for one selection. Keeps where their prompts begin, so that they share
    what is cached."""

    def __init__(self, document: Document, start: int, end: int, with_: Refining) -> None:
        self._document = document
        self._start, self._end = start, end
        self._with = with_
        self._marks: AnchoredMarks | None = None

    async def scored(self, text: str) -> LogProbs:
        """Returns the tokens of a text in the place of the selection, with their log probabilities.

        Raises: HostError.
        """
        context = self._context(text, 0, len(text))
        asked = self._with.body.model_copy(
            update={
                "name": context.name,
                "prefix": context.prefix,
                "suffix": context.suffix,
                "marks": context.marks,
                "given": encodable(text),
                "draft": False,
            }
        )
        async with aclosing(self._with.source.generate(asked)) as events:
            async for event in events:
                if isinstance(event, StartedEvent):
                    self._marks = AnchoredMarks(anchored(context, event.marks).prefix_start, None)
                if isinstance(event, ErrorEvent):
                    raise HostError(event.error.message, code=event.error.code)
                if isinstance(event, FinishedEvent):
                    return event.logprobs
        raise HostError("The engine host ended the request without an answer.", code="host_lost")

    async def filled(self, text: str, scores: LogProbs, at: Doubt) -> AsyncGenerator[Fill, None]:
        """Yields what the model writes in the place of a doubt, as it grows.

        It is of no use if it is longer than a word or two in that place, or would change what
        stands behind it.

        Raises: HostError.
        """
        context = self._context(text, at.start, at.end)
        rules = rules_for(context.prefix, context.suffix, False, context.language_id, 1)
        make_gate = self._with.make_gate
        gate = make_gate(context.prefix, context.suffix) if make_gate else None
        tokens = sum(at.start < end <= at.end for end, _ in scores)
        limits = LimitsBody(tokens_max=max(tokens, 1) + _SPARE_TOKENS)
        body = self._with.body.model_copy(update={"limits": limits})
        async with aclosing(complete(context, rules, body, self._with.source, gate)) as states:
            async for state in states:
                new = state.committed + state.draft
                if not state.final:
                    if new:
                        yield Fill(new)
                    continue
                is_of_use = new.strip() and not state.replaced and state.finish_reason != "length"
                total = sum(value for _, value in state.logprobs)
                yield Fill(new, math.exp(total) if is_of_use else 0.0)

    def _context(self, text: str, at: int, to: int) -> Context:
        """Returns the context of text[at:to], with `text` in the place of the selection."""
        document, start = self._document, self._start
        whole = document.text[:start] + text[:at] + text[to:] + document.text[self._end :]
        return gather(replace(document, text=whole), start + at, self._marks)


def why_not_refined(text: str) -> str | None:
    """Returns why a text cannot be refined as one sentence, or None."""
    if not text.strip():
        return "There is nothing to refine in the selection."
    if len(text) > GIVEN_CHARS_MAX:
        return f"The selection has {len(text)} characters; select up to {GIVEN_CHARS_MAX}."
    return None


def doubted(text: str, scores: LogProbs, threshold: float) -> tuple[Doubt, ...]:
    """Returns the words of a text with a token below the threshold, in order.

    Args:
        scores: the offset at which each token ends, and its log probability.
    """
    found: list[Doubt] = []
    start = 0
    for end, value in scores:
        piece = text[start:end]
        if piece.strip() and math.exp(value) < threshold:
            lead = len(piece) - len(piece.lstrip())
            found.append(_word_around(text, start + lead, end, math.exp(value)))
        start = max(start, end)
    joined: list[Doubt] = []
    for doubt in found:
        if joined and _are_near(text, joined[-1], doubt):
            last = joined.pop()
            least = min(last.probability, doubt.probability)
            joined.append(Doubt(last.start, max(last.end, doubt.end), least))
        else:
            joined.append(doubt)
    worst = sorted(joined, key=lambda doubt: doubt.probability)[:SPANS_MAX]
    return tuple(sorted(worst, key=lambda doubt: doubt.start))


def _word_around(text: str, start: int, end: int, probability: float) -> Doubt:
    """Returns the doubt of text[start:end], extended to whole words and to one line."""
    for word in _WORD.finditer(text, max(text.rfind("\n", 0, start), 0)):
        if word.start() >= end:
            break
        if word.end() > start:
            start, end = min(start, word.start()), max(end, word.end())
    line_end = re.search(r"[\r\n]", text[start:end])
    if line_end is not None and line_end.start():
        end = start + line_end.start()
    return Doubt(start, start + len(text[start:end].rstrip()), probability)


def _are_near(text: str, first: Doubt, second: Doubt) -> bool:
    between = text[first.end : second.start]
    return len(between) <= _JOINED_CHARS and "\n" not in between and "\r" not in between


def _spans(doubts: Sequence[Doubt], shift: int) -> tuple[SpanBody, ...]:
    return tuple(
        SpanBody(start=one.start + shift, end=one.end + shift, confidence=one.probability)
        for one in doubts
    )


def total(scores: LogProbs, start: int) -> float:
    """Returns the log probability of the tokens that end after an offset."""
    return sum(value for end, value in scores if end > start)
