"""From a request and its place to the input of the pipeline. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dlm_lsp.client.messages import DOCUMENT_CHARS_MAX, GenerateBody, SamplingBody
from dlm_lsp.postprocess.shaping import Rules, rules_for
from dlm_lsp.postprocess.syntax import SyntaxGate
from dlm_lsp.session.context import AnchoredMarks, Context, encodable, gather
from dlm_lsp.session.place import CompletionPlace
from dlm_lsp.session.requests import Ask

GREEDY = SamplingBody()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input of `pipeline.complete`: the context, what makes the shaping rules, the request
    body, what makes the syntax gate, if there is one, and how probable what is shown must be."""

    context: Context
    make_rules: Callable[[], Rules]
    body: GenerateBody
    make_gate: Callable[[], SyntaxGate | None] | None = None
    least: float = 0.0


def prepare(
    ask: Ask,
    place: CompletionPlace,
    marks: AnchoredMarks | None,
    body: GenerateBody,
    sampling: SamplingBody,
    lines_max: int | None = None,
) -> Prepared:
    """Returns the input of the pipeline for a request.

    Args:
        marks: the marks of the document's last prompt in the snapshot; None without one.
        body: the request body by the settings.
        lines_max: the largest number of lines of a suggestion; None means any number.
        sampling: how tokens are drawn; a run that is not greedy shows no drafts.
    """
    limits = body.limits
    if ask.tokens_max is not None:
        limits = limits.model_copy(update={"tokens_max": ask.tokens_max})
    context = gather(place.document, place.offset, place.moved_in(marks))
    asked = {
        "document": encodable(ask.uri)[:DOCUMENT_CHARS_MAX],
        "limits": limits,
        "sampling": sampling,
        "draft": sampling == GREEDY,
        "mode": ask.mode or body.mode,
    }
    around = (context.prefix, context.suffix, ask.automatic, context.language_id, lines_max)
    return Prepared(context, partial(rules_for, *around), body.model_copy(update=asked))
