"""One editor's session: which of its requests is answered with what, and when.

Owns the latest request of each document, the results already shown, and the settings. The rules it
keeps: the latest request of a document wins; a request is answered only with what continues the
text as it is at that moment; what was shown is served again while it is typed. Knows no LSP; the
engine is behind `EngineLink`, the text behind `Documents`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import SamplingBody
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.session.cache import Completion, ResultCache, remainder
from dlm_lsp.session.context import anchored, gather, moved
from dlm_lsp.session.document import Change, Document, Edit, Encoding
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.engine_link import EngineLink, to_host_settings
from dlm_lsp.session.generation import Deviation, Generation, typed_through
from dlm_lsp.session.pipeline import Suggestion, complete, options_for
from dlm_lsp.session.requests import Answer, Ask, DraftNotice, Editor, Offer
from dlm_lsp.session.silence import why_silent
from dlm_lsp.settings.schema import Settings, load_settings
from engine.api import AskedMode

logger = logging.getLogger(__name__)

OFFERS_MAX = 256  # that can still be reported as accepted
# How further answers to an explicit request are drawn, where the first is greedy.
FURTHER = tuple(SamplingBody(temperature=0.8, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4))


@dataclass(slots=True)
class _Request:
    """A request in flight: the latest of its document."""

    ask: Ask
    task: asyncio.Task[object]
    began: float
    generation: Generation | None = None
    is_superseded: bool = False
    sequence: int = 0

    def supersede(self) -> None:
        """Makes the request answer that it is out of date, at once."""
        if not self.is_superseded:
            self.is_superseded = True
            self.task.cancel()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to complete: in the snapshot as it is, or with a popup menu's entry inserted.

    Attributes:
        snapshot: the document that the editor has.
        document, offset: the text to complete, and where.
        edits: that make `document` of `snapshot`.
        lead: the entry's text, with which every offer begins.
        start, end: what an offer replaces in the snapshot, apart from what shaping adds.
    """

    snapshot: Document
    document: Document
    offset: int
    edits: tuple[Edit, ...]
    lead: str
    start: int
    end: int

    @property
    def prefix(self) -> str:
        return self.document.text[: self.offset]

    @property
    def suffix(self) -> str:
        return self.document.text[self.offset :]


class Session:
    """Serves one editor. All on one event loop.

    Args:
        client_options: the editor's own settings, as it sent them.
        project_dir, user_file: where other settings come from.
    """

    def __init__(
        self,
        editor: Editor,
        encoding: Encoding,
        link: EngineLink,
        client_options: object = None,
        project_dir: Path | None = None,
        user_file: Path | None = None,
    ) -> None:
        self._editor = editor
        self._encoding = encoding
        self._link = link
        self._files = (project_dir, user_file)
        self._reported: set[str] = set()
        self._requests: dict[str, _Request] = {}
        self._cache = ResultCache()
        self._offers: OrderedDict[str, None] = OrderedDict()
        self._offer_ids = itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._last: Suggestion | None = None
        self.documents = Documents(encoding, editor.log)
        self.settings = self._load(client_options)
        self._host = to_host_settings(self.settings)
        self._may_be_gone = False  # the model, from the store: then the settings mean another one

    def open(self, document: Document) -> None:
        """Takes up a document."""
        self._forget(document.uri)
        self.documents.open(document)

    def change(self, uri: str, version: int, changes: Sequence[Change]) -> None:
        """Makes edits of a document."""
        edits = self.documents.change(uri, version, changes)
        request = self._requests.get(uri)
        if edits is None:
            self._forget(uri)
        elif request is not None and request.generation is not None:
            request.generation.edits.extend(edits)

    def lose(self, uri: str, why: str) -> None:
        """Notes edits of a document that could not even be read."""
        self._forget(uri)
        self.documents.lose(uri, why)

    def close_document(self, uri: str) -> None:
        """Forgets a document."""
        self._forget(uri)
        self.documents.close(uri)

    @property
    def is_ready(self) -> bool:
        """Whether the engine can answer at once."""
        return self._link.is_ready

    async def start(self) -> None:
        """Begins to bring the engine up."""
        self._link.tell(replace(self._link.current, mode=self.settings.mode))
        await self._link.use(self._host)

    async def configure(self, client_options: object) -> None:
        """Takes over new settings of the editor, and looks at the files again."""
        self.settings = self._load(client_options)
        self._cache.clear()
        await self.look_again()

    async def look_again(self) -> None:
        """Turns to the checkpoint that the settings mean now: a model may have been pulled."""
        before, self._host = self._host, to_host_settings(self.settings)
        if self._host != before:
            self._cache.clear()
            self._forget_all()
        await self.start()

    @property
    def model_hint(self) -> str | None:
        """How to get a real model, where the bundled one is used for want of one."""
        return self._host.hint

    def set_mode(self, mode: AskedMode) -> None:
        """How to decode from now on."""
        self.settings = self.settings.model_copy(update={"mode": mode})
        self._cache.clear()
        self._link.tell(replace(self._link.current, mode=mode))

    async def restart(self) -> None:
        """Ends the engine host and starts it again; requests in flight are out of date."""
        self._forget_all()
        await self.look_again()
        await self._link.restart()

    async def close(self) -> None:
        """Stops everything that runs for this editor."""
        self._forget_all()
        await self._link.close()

    async def complete(self, ask: Ask) -> Answer | None:
        """Answers a request; None where it is out of date.

        Every call of a document makes the one before it out of date. Cancelling the call cancels
        the work in the engine.
        """
        task = asyncio.current_task()
        assert task is not None
        request, previous = _Request(ask, task, time.perf_counter()), self._requests.get(ask.uri)
        self._requests[ask.uri] = request
        if previous is not None:
            previous.supersede()
        self._counts["requests"] += 1
        document = self.documents.get(ask.uri)
        try:
            if document is None:
                self._answered(request, self.documents.problem(ask.uri))
                return None
            place = self._place(document, ask)
            if previous is not None:
                _take_over(request, previous, place)
            return await self._answer(request, place)
        except asyncio.CancelledError:
            self._counts["superseded" if request.is_superseded else "cancelled"] += 1
            if request.is_superseded and task.uncancel() == 0:
                return None
            raise
        except HostError as error:
            self._counts["failed"] += 1
            self._link.failed(error)
            self._may_be_gone = error.code == "load_failed"
            return None if document is None else Answer(document, reason=error.message)
        finally:
            if request.generation is not None:
                request.generation.cancel()
            if self._requests.get(ask.uri) is request:
                del self._requests[ask.uri]
            if not self._requests and self._link.current.state == "busy":
                self._link.tell(replace(self._link.current, state="ready"))

    def cancel(self, token: str | int) -> bool:
        """Stops the request with this token, which is then out of date; whether there is one."""
        found = [request for request in self._requests.values() if request.ask.token == token]
        for request in found:
            request.supersede()
        return bool(found)

    def accepted(self, offer_id: str, kind: str) -> bool:
        """Notes that the user took an offer, or a part of it; whether the offer is known."""
        is_known = offer_id in self._offers
        if is_known:
            self._counts[f"accepted_{kind}"] += 1
        return is_known

    def stats(self) -> dict[str, object]:
        """Counts since the session began, and the figures of the last completion."""
        usage = self._last.usage.model_dump(by_alias=True) if self._last is not None else None
        return {"counts": dict(self._counts), "last": usage}

    def _load(self, client_options: object) -> Settings:
        project_dir, user_file = self._files
        loaded = load_settings(client_options, project_dir, user_file)
        for problem in loaded.problems:
            if problem not in self._reported:
                self._reported.add(problem)
                self._editor.log(problem)
        return loaded.settings

    def _forget(self, uri: str) -> None:
        """What was asked and shown of a document counts no longer."""
        self._cache.clear(uri)
        if (request := self._requests.get(uri)) is not None:
            request.supersede()

    def _forget_all(self) -> None:
        for uri in list(self._requests):
            self._forget(uri)

    def _place(self, document: Document, ask: Ask) -> _Place:
        """Where an ask wants a completion. Raises DocumentError on an impossible position."""
        offset = document.offset_at(ask.position, self._encoding)
        if ask.selected is None:
            return _Place(document, document, offset, (), "", offset, offset)
        change = Change(ask.selected.start, ask.selected.end, ask.selected.text)
        changed, edits = document.apply([change], document.version, self._encoding)
        start = document.offset_at(ask.selected.start, self._encoding)
        end = document.offset_at(ask.selected.end, self._encoding)
        lead = ask.selected.text
        return _Place(document, changed, start + len(lead), edits, lead, start, end)

    async def _answer(self, request: _Request, place: _Place) -> Answer | None:
        ask, settings = request.ask, self.settings
        reason = why_silent(place.document, place.offset, settings, ask.automatic)
        if reason is not None:
            return self._answer_with(request, place, [], reason)
        if ask.automatic and ask.is_plain:
            shown = self._cache.find(ask.uri, place.prefix, place.suffix)
            if shown is not None:
                self._counts["from_cache"] += 1
                return self._answer_with(request, place, [shown])
        if self._may_be_gone:
            self._may_be_gone, self._host = False, to_host_settings(self.settings)
        await self.start()
        if self._link.current.state == "ready":
            self._link.tell(replace(self._link.current, state="busy"))
        completions = [await self._first(request, place)]
        if self.documents.get(ask.uri) is place.snapshot:
            completions += await self._further(request, place)
        return self._answer_with(request, place, completions)

    async def _first(self, request: _Request, place: _Place) -> Completion:
        """The greedy answer: of the run that was taken over if it leads here, else of its own."""
        if request.generation is not None:
            try:
                left = await self._follow(request, request.generation, place)
            except Deviation:
                left = None
            if left is not None:
                self._counts["taken_over"] += 1
                return left
            request.generation.cancel()
        request.generation = self._run(request.ask, place)
        left = await self._follow(request, request.generation, place)
        assert left is not None, "a run continues the text that it was started on"
        return left

    async def _follow(
        self, request: _Request, generation: Generation, place: _Place
    ) -> Completion | None:
        """What a run comes to at this place, showing its drafts; None if it leads elsewhere.

        Raises: Deviation as soon as that is certain.
        """
        typed = place.prefix[len(generation.prefix) :]
        async with aclosing(generation.follow()) as states:
            async for state in states:
                view = typed_through(state, typed)
                if not state.final:
                    if view is not None and (view.committed or view.draft):
                        self._show_draft(request, place, view)
                    continue
                self._last = state
                self._link.worked()
                completion = Completion(
                    generation.prefix, generation.suffix, state.committed, state.replaced
                )
                if request.ask.is_plain and state.finish_reason != "stopped":
                    self._cache.put(request.ask.uri, completion)
                left = remainder(completion, place.prefix, place.suffix)
                if left is not None and left.text:
                    self._show_draft(
                        request, place, replace(state, committed=left.text, replaced=left.replaced)
                    )
                return left
        raise AssertionError("a run ends with a final state or an error")

    async def _further(self, request: _Request, place: _Place) -> list[Completion]:
        """More answers to an explicit request, drawn at random; failures only make them fewer."""
        runs = [
            self._run_quietly(request.ask, place, sampling)
            for sampling in FURTHER[: request.ask.count - 1]
        ]
        results = await asyncio.gather(*runs, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, HostError):
                raise result
        return [result for result in results if isinstance(result, Completion)]

    async def _run_quietly(self, ask: Ask, place: _Place, sampling: SamplingBody) -> Completion:
        async with aclosing(self._suggestions(ask, place, [], sampling)) as suggestions:
            async for suggestion in suggestions:
                if suggestion.final:
                    text, replaced = suggestion.committed, suggestion.replaced
                    return Completion(place.prefix, place.suffix, text, replaced)
        raise AssertionError("a pipeline ends with a final state or an error")

    def _run(self, ask: Ask, place: _Place) -> Generation:
        edits: list[Edit] = []
        suggestions = self._suggestions(ask, place, edits, SamplingBody())
        return Generation(place.prefix, place.suffix, ask.automatic, edits, suggestions)

    async def _suggestions(
        self, ask: Ask, place: _Place, edits: list[Edit], sampling: SamplingBody
    ) -> AsyncGenerator[Suggestion, None]:
        """The pipeline at a place; notes the prompt's marks, moved by `edits` made meanwhile."""
        marks = self.documents.marks(ask.uri)
        marks = marks and moved(marks, place.edits)
        context = gather(place.document, place.offset, marks)
        rules = rules_for(context, ask.automatic)
        is_main = sampling == SamplingBody()
        options = replace(
            options_for(self.settings, automatic=ask.automatic, drafts=True, document=ask.uri),
            sampling=sampling,
            draft=is_main,
        )
        if ask.tokens_max is not None:
            limits = options.limits.model_copy(update={"tokens_max": ask.tokens_max})
            options = replace(options, limits=limits)
        is_noted = not is_main
        async with aclosing(complete(context, rules, options, self._link.client)) as suggestions:
            async for suggestion in suggestions:
                if not is_noted:
                    is_noted = True
                    undone = [Edit(e.start, e.inserted, e.removed) for e in reversed(place.edits)]
                    used = moved(anchored(context, suggestion.marks), [*undone, *edits])
                    self.documents.set_marks(ask.uri, used)
                yield suggestion

    def _answer_with(
        self,
        request: _Request,
        place: _Place,
        completions: Sequence[Completion],
        reason: str | None = None,
    ) -> Answer | None:
        """The answer that stands in the text as it is now; None where none does.

        `reason`: why there are no completions.
        """
        document = self.documents.get(request.ask.uri)
        if document is not None and document is not place.snapshot:
            completions = _standing(place, completions, document)
            document = document if completions else None
        if document is None:
            self._answered(request, "The text has changed meanwhile.")
            return None
        shift = len(document.text) - len(place.snapshot.text)
        offers: dict[tuple[str, int], Offer] = {}
        for completion in completions:
            key = (completion.text, completion.replaced)
            if completion.text and key not in offers and len(offers) < request.ask.count:
                offers[key] = self._offer(place, shift, completion)
        if offers:
            reason = None
        elif reason is None:
            reason = "The model has nothing to add here."
        self._answered(request, reason)
        return Answer(document, tuple(offers.values()), reason)

    def _offer(self, place: _Place, shift: int, completion: Completion) -> Offer:
        offer_id = f"{next(self._offer_ids):x}"
        self._offers[offer_id] = None
        if len(self._offers) > OFFERS_MAX:
            self._offers.popitem(last=False)
        self._counts["offers"] += 1
        start, end = place.start + shift, place.end + shift + completion.replaced
        return Offer(offer_id, place.lead + completion.text, start, end)

    def _show_draft(self, request: _Request, place: _Place, state: Suggestion) -> None:
        """Sends a draft to an editor that wants them."""
        if request.ask.token is None or not self.settings.drafts:
            return
        request.sequence += 1
        self._editor.draft(
            DraftNotice(
                token=request.ask.token,
                document=place.snapshot,
                offset=place.snapshot.offset_at(request.ask.position, self._encoding),
                start=place.start,
                end=place.end + state.replaced,
                committed=place.lead + state.committed,
                draft=state.draft,
                spans=state.spans,
                sequence=request.sequence,
                final=state.final,
            )
        )

    def _answered(self, request: _Request, reason: str | None) -> None:
        """Tells and logs how a request ended; `reason` is None where it showed something."""
        milliseconds = round((time.perf_counter() - request.began) * 1000, 1)
        usage = self._last.usage if self._last is not None else None
        logger.info("%s: %.0f ms, %s", request.ask.uri, milliseconds, reason or "shown")
        self._link.tell(
            replace(
                self._link.current,
                reason=reason,
                mode=self.settings.mode,
                last_ms=milliseconds,
                tokens_per_forward=round(usage.tokens / usage.forwards, 2)
                if usage is not None and usage.forwards
                else None,
            )
        )


def _take_over(request: _Request, previous: _Request, place: _Place) -> None:
    """Lets a request go on with the run of the one before it, where that leads to its place."""
    generation = previous.generation
    if (
        generation is not None
        and all(one.ask.automatic and one.ask.is_plain for one in (request, previous))
        and generation.can_serve(place.prefix, place.suffix)
    ):
        request.generation, previous.generation = generation, None


def _standing(
    place: _Place, completions: Sequence[Completion], document: Document
) -> list[Completion]:
    """What is left of completions in a newer text, in which their beginning was typed."""
    shift = len(document.text) - len(place.snapshot.text)
    if shift < 0 or place.lead:
        return []
    offset = place.offset + shift
    prefix, suffix = document.text[:offset], document.text[offset:]
    standing = [remainder(completion, prefix, suffix) for completion in completions]
    return [left for left in standing if left is not None]
