"""One editor's session: which of its requests is answered with what, and when.

Owns the latest request of each document, the results already shown, and the settings. The rules it
keeps: the latest request of a document wins; a request is answered only with what continues the
text as it is at that moment; what was shown is served again while it is typed. Knows no LSP; asks
the engine through `EngineLink` and reads the text from `Documents`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.session.cache import Completion, ResultCache
from dlm_lsp.session.document import Change, Document, Encoding
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.offers import Offers
from dlm_lsp.session.place import CompletionPlace, place_of, standing
from dlm_lsp.session.requests import Answer, Ask, Editor, Offer
from dlm_lsp.session.runs import EngineRuns
from dlm_lsp.session.silence import why_silent
from dlm_lsp.session.slots import RequestSlot, RequestSlots
from dlm_lsp.settings.schema import Settings, load_settings
from engine.api import AskedMode

logger = logging.getLogger(__name__)


class Session:
    """Serves one editor. All on one event loop.

    Args:
        editor_options: the editor's own settings, as it sent them.
        project_dir, user_file: where other settings come from.
    """

    def __init__(
        self,
        editor: Editor,
        encoding: Encoding,
        link: EngineLink,
        editor_options: object = None,
        project_dir: Path | None = None,
        user_file: Path | None = None,
    ) -> None:
        self._editor = editor
        self._encoding = encoding
        self._link = link
        self._files = (project_dir, user_file)
        self._reported: set[str] = set()
        self._slots = RequestSlots()
        self._cache = ResultCache()
        self._offers = Offers()
        self._counts: Counter[str] = Counter()
        self.documents = Documents(encoding, editor.log)
        self._runs = EngineRuns(editor, encoding, link, self.documents, self._cache)
        self._use(self._load(editor_options))
        self._host = to_host_settings(self.settings)
        self._may_be_gone = False  # the model, from the store: then the settings mean another one

    def open(self, document: Document) -> None:
        """Takes up a document."""
        self._forget(document.uri)
        self.documents.open(document)

    def change(self, uri: str, version: int, changes: Sequence[Change]) -> None:
        """Makes edits of a document."""
        edits = self.documents.change(uri, version, changes)
        slot = self._slots.get(uri)
        if edits is None:
            self._forget(uri)
        elif slot is not None and slot.generation is not None:
            slot.generation.edits.extend(edits)

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

    async def configure(self, editor_options: object) -> None:
        """Takes over new settings of the editor, and looks at the files again."""
        self._use(self._load(editor_options))
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
        self._use(self.settings.model_copy(update={"mode": mode}))
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
        slot = RequestSlot(ask, task, time.perf_counter())
        previous = self._slots.enter(slot)
        self._counts["requests"] += 1
        document = self.documents.get(ask.uri)
        try:
            if document is None:
                self._answered(slot, self.documents.problem(ask.uri))
                return None
            place = place_of(document, ask, self._encoding)
            if previous is not None:
                slot.take_over(previous, place)
            return await self._answer(slot, place)
        except asyncio.CancelledError:
            self._counts["superseded" if slot.is_superseded else "cancelled"] += 1
            if slot.is_superseded and task.uncancel() == 0:
                return None
            raise
        except HostError as error:
            self._counts["failed"] += 1
            self._link.failed(error)
            self._may_be_gone = error.code == "load_failed"
            return None if document is None else Answer(document, reason=error.message)
        finally:
            if slot.generation is not None:
                slot.generation.cancel()
            self._slots.leave(slot)
            if not self._slots and self._link.current.state == "busy":
                self._link.tell(replace(self._link.current, state="ready"))

    def cancel(self, token: str | int) -> bool:
        """Stops the request with this token, which is then out of date; whether there is one."""
        return self._slots.cancel(token)

    def accepted(self, offer_id: str, kind: str) -> bool:
        """Notes that the user took an offer, or a part of it; whether the offer is known."""
        is_known = offer_id in self._offers
        if is_known:
            self._counts[f"accepted_{kind}"] += 1
        return is_known

    def stats(self) -> dict[str, object]:
        """Counts since the session began, and the figures of the last completion."""
        latest = self._runs.latest
        usage = latest.usage.model_dump(by_alias=True) if latest is not None else None
        return {"counts": dict(self._counts), "last": usage}

    def _load(self, editor_options: object) -> Settings:
        project_dir, user_file = self._files
        loaded = load_settings(editor_options, project_dir, user_file)
        for problem in loaded.problems:
            if problem not in self._reported:
                self._reported.add(problem)
                self._editor.log(problem)
        return loaded.settings

    def _use(self, settings: Settings) -> None:
        """Takes settings up."""
        self.settings = settings
        self._runs.use(settings)

    def _forget(self, uri: str) -> None:
        """What was asked and shown of a document counts no longer."""
        self._cache.clear(uri)
        if (slot := self._slots.get(uri)) is not None:
            slot.supersede()

    def _forget_all(self) -> None:
        for uri in self._slots.uris():
            self._forget(uri)

    async def _answer(self, slot: RequestSlot, place: CompletionPlace) -> Answer | None:
        ask, settings = slot.ask, self.settings
        reason = why_silent(place.document, place.offset, settings, ask.automatic)
        if reason is not None:
            return self._answer_with(slot, place, [], reason)
        if ask.automatic and ask.is_plain:
            shown = self._cache.find(ask.uri, place.prefix, place.suffix)
            if shown is not None:
                self._counts["from_cache"] += 1
                return self._answer_with(slot, place, [shown])
        if self._may_be_gone:
            self._may_be_gone, self._host = False, to_host_settings(self.settings)
        await self.start()
        if self._link.current.state == "ready":
            self._link.tell(replace(self._link.current, state="busy"))
        first, is_taken_over = await self._runs.first(slot, place)
        if is_taken_over:
            self._counts["taken_over"] += 1
        completions = [first]
        if self.documents.get(ask.uri) is place.snapshot:
            completions += await self._runs.further(slot, place)
        return self._answer_with(slot, place, completions)

    def _answer_with(
        self,
        slot: RequestSlot,
        place: CompletionPlace,
        completions: Sequence[Completion],
        reason: str | None = None,
    ) -> Answer | None:
        """The answer that stands in the text as it is now; None where none does.

        `reason`: why there are no completions.
        """
        document = self.documents.get(slot.ask.uri)
        if document is not None and document is not place.snapshot:
            completions = standing(place, completions, document)
            document = document if completions else None
        if document is None:
            self._answered(slot, "The text has changed meanwhile.")
            return None
        shift = len(document.text) - len(place.snapshot.text)
        offers: dict[tuple[str, int], Offer] = {}
        for completion in completions:
            key = (completion.text, completion.replaced)
            if completion.text and key not in offers and len(offers) < slot.ask.count:
                offers[key] = self._offer(place, shift, completion)
        if offers:
            reason = None
        elif reason is None:
            reason = "The model has nothing to add here."
        self._answered(slot, reason)
        return Answer(document, tuple(offers.values()), reason)

    def _offer(self, place: CompletionPlace, shift: int, completion: Completion) -> Offer:
        self._counts["offers"] += 1
        start, end = place.start + shift, place.end + shift + completion.replaced
        return Offer(self._offers.add(), place.lead + completion.text, start, end)

    def _answered(self, slot: RequestSlot, reason: str | None) -> None:
        """Tells and logs how a request ended; `reason` is None where it showed something."""
        milliseconds = round((time.perf_counter() - slot.began) * 1000, 1)
        latest = self._runs.latest
        usage = latest.usage if latest is not None else None
        logger.info("%s: %.0f ms, %s", slot.ask.uri, milliseconds, reason or "shown")
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
