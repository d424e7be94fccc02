"""The engine's runs for one session's requests: starts them, follows them and shows drafts.

Owns the request bodies made from the settings, and the last result. The session decides which
request is answered and how.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import DOCUMENT_CHARS_MAX, SamplingBody
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.cache import Completion, ResultCache, remainder
from dlm_lsp.session.context import anchored, encodable, moved
from dlm_lsp.session.document import Document, Encoding
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.generation import Deviation, Generation, typed_through
from dlm_lsp.session.next_edit import Asked, Proposal, next_edit
from dlm_lsp.session.pipeline import UNSURE, Suggestion, complete, to_body
from dlm_lsp.session.place import CompletionPlace
from dlm_lsp.session.prepare import GREEDY, Prepared, prepare
from dlm_lsp.session.refine import Refined, Refining, refine
from dlm_lsp.session.related import RelatedDocuments, with_related
from dlm_lsp.session.requests import Ask, DraftNotice, Editor, RefineAsk, RefinementNotice
from dlm_lsp.session.slots import RequestSlot
from dlm_lsp.settings.schema import Settings

# The first answer to an explicit request is greedy; further answers are drawn with these.
FURTHER = tuple(SamplingBody(temperature=0.8, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4))


class EngineRuns:
    """The runs of one session.

    Args:
        cache: receives the result of each run.
        documents: keeps the marks of each document's last prompt.
        related: chooses texts of other documents for a prompt.
        settings_of: returns the settings of a document by its URI.
        least_of: returns how sure the model must be of what a request is shown.

    Attributes:
        latest: the final state of the run that ended last.
    """

    def __init__(
        self,
        editor: Editor,
        encoding: Encoding,
        link: EngineLink,
        documents: Documents,
        cache: ResultCache,
        related: RelatedDocuments,
        settings_of: Callable[[str], Settings],
        least_of: Callable[[Ask], float],
    ) -> None:
        self.latest: Suggestion | None = None
        self._editor = editor
        self._encoding = encoding
        self._link = link
        self._documents = documents
        self._cache = cache
        self._related = related
        self._settings_of = settings_of
        self._least_of = least_of
        # The host serves windows in turn, so that each needs a name of its own.
        self._client = f"lsp-{secrets.token_hex(4)}"

    async def first(self, slot: RequestSlot, place: CompletionPlace) -> tuple[Completion, bool]:
        """Returns the greedy answer, and whether the run that was taken over produced it.

        A new run replaces a run that was taken over but deviates from the typed text.

        Raises: HostError if the host fails.
        """
        if slot.generation is not None:
            try:
                left = await self._follow(slot, slot.generation, place)
            except Deviation:
                left = None
            if left is not None:
                return left, True
            slot.generation.cancel()
        if not slot.ask.automatic:
            await self._choose_related(slot.ask.uri, place, by_hand=True)
        slot.generation = self._run(slot.ask, place)
        left = await self._follow(slot, slot.generation, place)
        assert left is not None, "a run continues the text that it was started on"
        return left, False

    async def _follow(
        self, slot: RequestSlot, generation: Generation, place: CompletionPlace
    ) -> Completion | None:
        """Shows a run's drafts at this place and returns its result, or None if it deviates.

        Raises: Deviation as soon as the deviation is certain.
        """
        typed = place.prefix[len(generation.prefix) :]
        async with aclosing(generation.follow()) as states:
            async for state in states:
                self._note_marks(slot.ask.uri, generation, state)
                view = typed_through(state, typed)
                if not state.final:
                    if view is not None and (view.committed or view.draft):
                        self._show_draft(slot, place, view)
                    continue
                self.latest = state
                self._link.worked()
                completion = _completion(generation.prefix, generation.suffix, state)
                if slot.ask.is_plain and state.finish_reason != "stopped":
                    self._cache.put(slot.ask.uri, completion)
                left = remainder(completion, place.prefix, place.suffix)
                if left is not None and left.text:
                    self._show_draft(
                        slot, place, replace(state, committed=left.text, replaced=left.replaced)
                    )
                return left
        raise AssertionError("a run ends with a final state or an error")

    async def further(self, slot: RequestSlot, place: CompletionPlace) -> list[Completion]:
        """Returns sampled further answers to an explicit request; failed runs are left out."""
        runs = [
            self._run_quietly(slot.ask, place, sampling)
            for sampling in FURTHER[: slot.ask.count - 1]
        ]
        results = await asyncio.gather(*runs, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, HostError):
                raise result
        return [result for result in results if isinstance(result, Completion)]

    def ahead(self, uri: str, place: CompletionPlace) -> Generation:
        """Starts the greedy run that an automatic request at a place would start."""
        return self._run(Ask(uri, place.cursor), place)

    async def keep(self, uri: str, generation: Generation) -> None:
        """Waits for the end of a run that nobody follows and caches its result.

        Raises: HostError if the host fails.
        """
        async with aclosing(generation.follow()) as states:
            async for state in states:
                if state.final and state.finish_reason != "stopped":
                    self._cache.put(uri, _completion(generation.prefix, generation.suffix, state))

    async def warm(self, uri: str, place: CompletionPlace) -> None:
        """Brings the prompt at a place of the current text into the engine's cache.

        Raises: HostError if the host fails.
        """
        # Not automatic: a prompt that was put together in haste is made exact by this one.
        ask = Ask(uri, place.cursor, automatic=False, tokens_max=0)
        await self._choose_related(uri, place)
        prepared = self._prepare(ask, place, GREEDY)
        async with aclosing(self._suggestions(prepared)) as states:
            async for state in states:
                self._documents.set_marks(uri, anchored(prepared.context, state.marks))

    async def refine(self, document: Document, start: int, end: int, ask: RefineAsk) -> Refined:
        """Returns a selection refined, and shows it before to an editor that asked for drafts.

        Raises: HostError if the host fails.
        """
        with_ = self._refining(document)
        if ask.threshold is not None:
            with_ = replace(with_, threshold=ask.threshold)
        is_shown = ask.token is not None and self._settings_of(ask.uri).drafts
        async with aclosing(refine(document, start, end, with_)) as states:
            sequence = 0
            async for state in states:
                sequence += 1
                if is_shown:
                    assert ask.token is not None
                    self._editor.refinement(
                        RefinementNotice(ask.token, document, ask.start, ask.end, state, sequence)
                    )
                if state.final:
                    self._link.worked()
                    return state
        raise AssertionError("a refinement ends with a final state or an error")

    async def next_edit(self, asked: Asked) -> Proposal | None:
        """Returns the next edit of a document, or None.

        Raises: HostError if the host fails.
        """
        found = await next_edit(asked, self._refining(asked.document))
        self._link.worked()
        return found

    def _refining(self, document: Document) -> Refining:
        settings = self._settings_of(document.uri)
        body = to_body(settings, automatic=False, client=self._client).model_copy(
            update={"document": encodable(document.uri)[:DOCUMENT_CHARS_MAX]}
        )
        make_gate = partial(gate_for, document.language_id) if settings.syntax else None
        return Refining(self._link.host, body, make_gate)

    async def _run_quietly(
        self, ask: Ask, place: CompletionPlace, sampling: SamplingBody
    ) -> Completion:
        prepared = self._prepare(ask, place, sampling)
        async with aclosing(self._suggestions(prepared)) as suggestions:
            async for suggestion in suggestions:
                if suggestion.final:
                    return _completion(place.prefix, place.suffix, suggestion)
        raise AssertionError("a pipeline ends with a final state or an error")

    def _run(self, ask: Ask, place: CompletionPlace) -> Generation:
        prepared = self._prepare(ask, place, GREEDY)
        return Generation(prepared.context, place, self._suggestions(prepared))

    def _prepare(self, ask: Ask, place: CompletionPlace, sampling: SamplingBody) -> Prepared:
        settings = self._settings_of(ask.uri)
        body = to_body(settings, automatic=ask.automatic, client=self._client)
        marks = self._documents.marks(ask.uri)
        prepared = prepare(ask, place, marks, body, sampling, settings.limits.lines)
        context = prepared.context
        if settings.context.related_tokens != 0:
            context = with_related(context, self._related.of(place.document))
        prepared = replace(prepared, context=context, least=self._least_of(ask))
        if not settings.syntax:
            return prepared
        make_gate = partial(gate_for, context.language_id, context.prefix, context.suffix)
        return replace(prepared, make_gate=make_gate)

    async def _choose_related(
        self, uri: str, place: CompletionPlace, *, by_hand: bool = False
    ) -> None:
        """Chooses texts of other documents for a prompt; while the user types, the last choice
        holds."""
        if self._settings_of(uri).context.related_tokens != 0:
            await self._related.choose(place.document, place.offset, by_hand=by_hand)

    def _suggestions(self, prepared: Prepared) -> AsyncGenerator[Suggestion, None]:
        return complete(
            prepared.context,
            prepared.make_rules,
            prepared.body,
            self._link.host,
            prepared.make_gate,
            prepared.least,
        )

    def _note_marks(self, uri: str, generation: Generation, state: Suggestion) -> None:
        """Stores the marks of the run's prompt, moved by the edits since then."""
        if not generation.are_marks_noted:
            generation.are_marks_noted = True
            used = anchored(generation.context, state.marks)
            self._documents.set_marks(uri, moved(used, generation.edits))

    def _show_draft(self, slot: RequestSlot, place: CompletionPlace, state: Suggestion) -> None:
        """Sends a draft to an editor that asked for drafts."""
        if slot.ask.token is None or not self._settings_of(slot.ask.uri).drafts:
            return
        slot.sequence += 1
        slot.text_came()
        end = place.last
        if state.replaced:
            end = place.snapshot.position_at(place.end + state.replaced, self._encoding)
        self._editor.draft(
            DraftNotice(
                token=slot.ask.token,
                document=place.snapshot,
                position=place.cursor,
                start=place.first,
                end=end,
                lead=place.lead,
                state=state,
                sequence=slot.sequence,
            )
        )


def _completion(prefix: str, suffix: str, state: Suggestion) -> Completion:
    """Returns the completion of a final state at a place."""
    is_unsure = state.finish_reason == UNSURE
    return Completion(
        prefix=prefix,
        suffix=suffix,
        text=state.committed,
        replaced=state.replaced,
        logprobs=state.logprobs,
        is_unsure=is_unsure,
        mode=state.mode,
        usage=state.usage,
    )
