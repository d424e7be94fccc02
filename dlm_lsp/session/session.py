"""One editor's session: decides which request is answered, when and how.

Owns the latest request of each document, the completions already shown, and the settings. Its
rules: a document's latest request wins; an answer always fits the text at the moment it is sent; a
completion that was shown is served again while the user types it. Knows no LSP; asks the engine
through `EngineLink` and reads the text from `Documents`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.session.ahead import REST_SECONDS, Ahead
from dlm_lsp.session.cache import Completion, ResultCache
from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.edits import Edits, Found
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.gate import Gate
from dlm_lsp.session.offers import Offers
from dlm_lsp.session.place import CompletionPlace, place_of, standing
from dlm_lsp.session.record import Record, Recorder
from dlm_lsp.session.related import RelatedDocuments
from dlm_lsp.session.requests import Answer, Ask, Editor, NextEditAsk, Offer, RefineAsk
from dlm_lsp.session.rhythm import Rhythm
from dlm_lsp.session.runs import EngineRuns
from dlm_lsp.session.slots import RequestSlot, RequestSlots
from dlm_lsp.session.sureness import UNSURE
from dlm_lsp.session.switches import SwitchBoard
from dlm_lsp.settings.schema import Settings
from engine.api import AskedMode

logger = logging.getLogger(__name__)


class Session:
    """Serves one editor. All calls run on one event loop.

    Args:
        editor_options: the editor's settings, as it sent them.
        folders: the editor's workspace folders.
        user_file: the user's settings file.
        rest_seconds: how long the cursor rests before the engine works ahead.
        are_settings_known: whether what the editor's settings silence is known by now; until then
            nothing is done ahead.
        recorder: writes statistics, if the settings allow it; None writes none.
    """

    def __init__(
        self,
        editor: Editor,
        encoding: Encoding,
        link: EngineLink,
        editor_options: object = None,
        folders: Sequence[Path] = (),
        user_file: Path | None = None,
        rest_seconds: float = REST_SECONDS,
        are_settings_known: Callable[[], bool] = lambda: True,
        recorder: Recorder | None = None,
    ) -> None:
        self._editor = editor
        self._encoding = encoding
        self._link = link
        self._slots = RequestSlots()
        self._cache = ResultCache()
        self._offers = Offers()
        self.counts: Counter[str] = Counter()
        self.documents = Documents(encoding, editor.log)
        self._gate = Gate(editor_options, user_file, editor.log, self._settings_changed)
        self._gate.use_folders(folders)
        # Text of a silenced document may not stand in another document's prompt.
        self._related = RelatedDocuments(
            self.documents, lambda one: self._gate.reason(one, 0, automatic=False) is None
        )
        self._runs = EngineRuns(
            editor,
            encoding,
            link,
            self.documents,
            self._cache,
            self._related,
            self._gate.settings_of,
            self._least_of,
        )
        self.edits = Edits(encoding, self.documents, self._runs, self.start)
        self._ahead = Ahead(
            self._gate,
            encoding,
            link,
            self._runs,
            self._cache,
            lambda: not self._slots and are_settings_known(),
            self.counts,
            rest_seconds,
        )
        self._rhythm = Rhythm()
        self.switches = SwitchBoard(self._gate, link, self._settings_changed, self._forget)
        self._host = to_host_settings(self.settings)
        self.record = Record(recorder, lambda: self.settings, lambda: self._host)
        # Whether the checkpoint may have left the store, or other settings mean another one.
        self._may_be_gone = False

    def open(self, document: Document) -> None:
        """Adds a document."""
        self._forget(document.uri)
        self.edits.forget(document.uri)
        self.documents.open(document)

    def change(self, uri: str, version: int, changes: Sequence[Change]) -> None:
        """Applies edits to a document."""
        self._rhythm.note(time.perf_counter())
        before = self.documents.get(uri)
        edits = self.documents.change(uri, version, changes)
        slot, document = self._slots.get(uri), self.documents.get(uri)
        self.edits.edited(before, changes, edits)
        if edits is None or document is None:
            self._forget(uri)
            return
        if slot is not None and slot.ends_with_edit and edits:
            slot.supersede()
        elif slot is not None and slot.generation is not None:
            slot.generation.edits.extend(edits)
        self._ahead.edited(document, edits)
        self.record.edited(document, edits)
        # An editor that never asks for suggestions is not prepared for.
        if edits and self.documents.marks(uri) is not None:
            self._ahead.rest(document, edits[-1].start + edits[-1].inserted)

    def rest_at(self, uri: str, position: Position) -> None:
        """Prepares for a request at the cursor's new place, if it rests there.

        Raises: DocumentError on an impossible position.
        """
        document = self.documents.get(uri)
        if document is not None and self._slots.get(uri) is None:
            self._ahead.rest(document, document.offset_at(position, self._encoding))

    def lose(self, uri: str, why: str) -> None:
        """Marks a document as out of step because an edit of it could not be read."""
        self._forget(uri)
        self.edits.forget(uri)
        self.documents.lose(uri, why)

    def close_document(self, uri: str) -> None:
        """Removes a document."""
        self._forget(uri)
        self._related.forget(uri)
        self.edits.forget(uri)
        self.documents.close(uri)

    @property
    def is_ready(self) -> bool:
        """Whether the engine can answer at once."""
        return self._link.is_ready

    async def start(self) -> None:
        """Starts to bring the engine up."""
        self._link.tell(replace(self._link.current, mode=self.settings.mode))
        await self._link.use(self._host)

    async def configure(self, editor_options: object) -> None:
        """Uses the editor's new settings and reads the settings files again."""
        self._gate.use_client(editor_options)
        self._settings_changed()
        await self.look_again()

    def use_folders(self, folders: Sequence[Path]) -> None:
        """Uses these workspace folders."""
        self._gate.use_folders(folders)
        self._settings_changed()

    def files_changed(self) -> None:
        """Reads settings and ignore files again, as the editor says that one has changed."""
        self._gate.expire()
        self._settings_changed()

    @property
    def settings(self) -> Settings:
        """The settings that hold for no document in particular."""
        return self._gate.general

    async def look_again(self) -> None:
        """Switches to the checkpoint of the settings, which a pulled model may have changed."""
        before, self._host = self._host, to_host_settings(self.settings)
        if self._host != before:
            self._cache.clear()
            self._forget_all()
        await self.start()

    @property
    def model_hint(self) -> str | None:
        """How to get a real model; None unless the bundled model is used for lack of one."""
        return self._host.hint

    def set_mode(self, mode: AskedMode) -> None:
        """Sets the decoding mode."""
        self._gate.use_mode(mode)
        self._cache.clear()
        self._ahead.drop()
        self._link.tell(replace(self._link.current, mode=mode))

    async def restart(self) -> None:
        """Restarts the engine host and reads settings files again; requests in flight are
        superseded."""
        self._gate.expire()
        self._cache.clear()
        self._forget_all()
        await self.look_again()
        await self._link.restart()

    async def close(self) -> None:
        """Stops all work for this editor."""
        self.switches.close()
        self._forget_all()
        self._ahead.drop()
        await self.record.close()
        await self._link.close()

    async def complete(self, ask: Ask) -> Answer | None:
        """Answers a request; returns None if the request is out of date.

        Each call for a document supersedes the previous one. Cancelling the call cancels the work
        in the engine.
        """

        async def work(
            slot: RequestSlot, document: Document, previous: RequestSlot | None
        ) -> Answer | None:
            place = place_of(document, ask, self._encoding)
            if previous is not None:
                slot.take_over(previous, place)
            return await self._answer(slot, place)

        return await self._in_slot(ask, work)

    async def refine(self, ask: RefineAsk) -> Answer | None:
        """Answers a request to refine a selection, as `complete` does; an offer replaces all of it.

        Raises: DocumentError on an impossible position.
        """
        return await self._edit(ask, ask.start, partial(self.edits.refined, ask=ask))

    async def next_edit(self, ask: NextEditAsk) -> Answer | None:
        """Answers a request for the next edit, as `complete` does; an offer replaces one line.

        A line that was offered is not offered again, unless no other is left.

        Raises: DocumentError on an impossible position.
        """
        return await self._edit(ask, ask.position, partial(self.edits.next, ask=ask))

    async def _edit(
        self,
        ask: RefineAsk | NextEditAsk,
        position: Position,
        find: Callable[[Document], Awaitable[Found]],
    ) -> Answer | None:
        """Answers a request for an edit, which any edit of the document makes useless."""

        async def work(
            slot: RequestSlot, document: Document, _: RequestSlot | None
        ) -> Answer | None:
            slot.ends_with_edit = True
            self._ahead.drop()
            offset = document.offset_at(position, self._encoding)
            found: Found | None = self._gate.reason(document, offset, automatic=False)
            found = found or await find(document)
            reason = found if isinstance(found, str) else None
            if self.documents.get(ask.uri) is not document:
                self._answered(slot, "The text has changed meanwhile.")
                return None
            self._answered(slot, reason)
            if isinstance(found, str):
                return Answer(document, reason=reason)
            start, end, text = found
            return Answer(document, (Offer(self._offers.add(len(text)), text, start, end),))

        return await self._in_slot(Ask(ask.uri, position, False, token=ask.token), work)

    async def _in_slot(
        self,
        ask: Ask,
        work: Callable[[RequestSlot, Document, RequestSlot | None], Awaitable[Answer | None]],
    ) -> Answer | None:
        """Does a request's work as the latest one of its document."""
        task = asyncio.current_task()
        assert task is not None
        slot = RequestSlot(ask, task, time.perf_counter())
        previous = self._slots.enter(slot)
        self._ahead.interrupt()
        self.counts["requests"] += 1
        document = self.documents.get(ask.uri)
        try:
            if document is None:
                self._answered(slot, self.documents.problem(ask.uri))
                return None
            return await work(slot, document, previous)
        except asyncio.CancelledError:
            slot.outcome = "superseded" if slot.is_superseded else "cancelled"
            self.counts[slot.outcome] += 1
            if slot.is_superseded and task.uncancel() == 0:
                return None
            raise
        except HostError as error:
            self.counts["failed"] += 1
            self._link.failed(error)
            self._may_be_gone = error.code == "load_failed"
            slot.outcome = error.message
            if document is None or self.documents.get(ask.uri) is not document:
                return None
            return Answer(document, reason=error.message)
        finally:
            if slot.generation is not None:
                slot.generation.cancel()
            self._slots.leave(slot)
            self.record.ended(slot, document)
            if not self._slots and self._link.current.state == "busy":
                self._link.tell(replace(self._link.current, state="ready"))

    def stands(self, ask: Ask, answer: Answer) -> bool:
        """Returns whether an answer may still be sent: its text stands, and is not silent now."""
        document, offers = answer.document, answer.offers
        is_silent = offers and self._gate.reason(document, offers[0].start, ask.automatic)
        return self.documents.get(ask.uri) is document and not is_silent

    def unanswered(self, uri: str, why: str) -> Answer | None:
        """Returns an empty answer to a request that nothing else answers, and reports why."""
        self.counts["unanswered"] += 1
        self._link.tell(replace(self._link.current, reason=why))
        document = self.documents.get(uri)
        return None if document is None else Answer(document, reason=why)

    def cancel(self, token: str | int) -> bool:
        """Supersedes the request with this token; returns whether there is one."""
        return self._slots.cancel(token)

    def accepted(self, offer_id: str, kind: str, length: int | None = None) -> bool:
        """Counts an offer that the user took in whole or in part; returns whether it is known.

        Args:
            length: the characters of the offer that are accepted so far, if only a part is.
        """
        is_known = offer_id in self._offers
        if is_known:
            self.counts[f"accepted_{kind}"] += 1
            self.record.accepted(offer_id, kind, length)
            if kind == "full" or length is not None:
                self.counts["accepted_characters"] += self._offers.accept(offer_id, length)
        return is_known

    def stats(self) -> dict[str, object]:
        """Returns the counts since the session began and the figures of the last completion."""
        latest = self._runs.latest
        usage = latest.usage.model_dump(by_alias=True) if latest is not None else None
        return {"counts": dict(self.counts), "last": usage}

    def _forget(self, uri: str) -> None:
        """Drops a document's cached completions and supersedes its request in flight."""
        self._cache.clear(uri)
        self.record.forget(uri)
        self._ahead.drop()
        if (slot := self._slots.get(uri)) is not None:
            slot.supersede()

    def _settings_changed(self) -> None:
        """Drops what was made by earlier settings, and requests that are silenced now."""
        self._cache.clear()
        self._ahead.renew()
        self._may_be_gone = True
        # The request that has noticed the change is asking the gate itself.
        for slot in self._slots.others(asyncio.current_task()):
            if (document := self.documents.get(slot.ask.uri)) is not None:
                offset = document.offset_at(slot.ask.position, self._encoding)
                if self._gate.reason(document, offset, slot.ask.automatic) is not None:
                    slot.supersede()

    def _forget_all(self) -> None:
        self._ahead.drop()
        for uri in self._slots.uris():
            self._forget(uri)

    async def _answer(self, slot: RequestSlot, place: CompletionPlace) -> Answer | None:
        ask = slot.ask
        reason = self._gate.reason(place.document, place.offset, ask.automatic)
        if reason is not None:
            return self._answer_with(slot, place, [], reason)
        if ask.automatic and ask.is_plain:
            shown = self._cache.find(ask.uri, place.prefix, place.suffix)
            if shown is not None:
                self.counts["from_cache"] += 1
                slot.source = "cache"
                return self._answer_with(slot, place, [shown])
            if slot.generation is None and (run := self._ahead.take(ask.uri, place)) is not None:
                slot.generation, slot.source = run, "ahead"
        self._ahead.drop()
        if ask.automatic and slot.generation is None:
            delay = self._gate.settings_of(ask.uri).delay
            await self._rhythm.wait(delay, time.perf_counter(), self.record.stretch)
        if self._may_be_gone:
            self._may_be_gone, self._host = False, to_host_settings(self.settings)
        await self.start()
        if self._link.current.state == "ready":
            self._link.tell(replace(self._link.current, state="busy"))
        first, is_taken_over = await self._runs.first(slot, place)
        if is_taken_over:
            self.counts["taken_over"] += 1
        else:
            slot.source = "engine"
        completions = [first]
        if self.documents.get(ask.uri) is place.snapshot:
            completions += await self._runs.further(slot, place)
        is_broken = self._runs.latest is not None and self._runs.latest.finish_reason == "syntax"
        reason = "The suggestion would not parse here." if is_broken else None
        return self._answer_with(slot, place, completions, reason)

    def _answer_with(
        self,
        slot: RequestSlot,
        place: CompletionPlace,
        completions: Sequence[Completion],
        reason: str | None = None,
    ) -> Answer | None:
        """Returns the answer for the text as it is now, or None if no completion fits it.

        `reason` says why there are no completions.
        """
        document = self.documents.get(slot.ask.uri)
        if document is not None and document is not place.snapshot:
            completions = standing(place, completions, document)
            document = document if completions else None
        if document is None:
            self._answered(slot, "The text has changed meanwhile.")
            return None
        if not place.lead:
            shown = completions[0] if completions else None
            offset = place.offset if shown is None else len(shown.prefix)
            self._ahead.rest(document, offset, shown)
        shift = len(document.text) - len(place.snapshot.text)
        offers: dict[tuple[str, int], Offer] = {}
        for completion in completions:
            key = (completion.text, completion.replaced)
            if completion.text and key not in offers and len(offers) < slot.ask.count:
                offers[key] = self._offer(place, shift, completion)
        if offers:
            reason = None
        elif reason is None and any(completion.is_unsure for completion in completions):
            reason = UNSURE
            self.counts["unsure"] += 1
        elif reason is None:
            reason = "The model has nothing to add here."
        slot.answered = completions[0] if completions else None
        self.record.offered(slot, document, tuple(offers.values()), len(place.lead))
        self._answered(slot, reason)
        return Answer(document, tuple(offers.values()), reason)

    def _least_of(self, ask: Ask) -> float:
        """Returns how probable what is shown must be."""
        if not ask.automatic:
            return 0.0
        return self.record.least(self._gate.settings_of(ask.uri).silence.confidence)

    def _offer(self, place: CompletionPlace, shift: int, completion: Completion) -> Offer:
        self.counts["offers"] += 1
        start, end = place.start + shift, place.end + shift + completion.replaced
        offer_id = self._offers.add(len(completion.text))
        return Offer(offer_id, place.lead + completion.text, start, end, completion.logprobs)

    def _answered(self, slot: RequestSlot, reason: str | None) -> None:
        """Logs and reports how a request ended; `reason` is None if it showed something."""
        milliseconds, slot.outcome = slot.elapsed_ms(), reason or "shown"
        latest = self._runs.latest
        usage = latest.usage if latest is not None else None
        logger.info("%s: %.0f ms, %s", slot.ask.uri, milliseconds, slot.outcome)
        self._link.tell(
            replace(
                self._link.current,
                reason=reason,
                mode=self._gate.settings_of(slot.ask.uri).mode,
                last_ms=milliseconds,
                tokens_per_forward=round(usage.tokens / usage.forwards, 2)
                if usage is not None and usage.forwards
                else None,
            )
        )
