"""What a session records of itself: the figures of its last requests, and statistics.

Makes figures of requests and of what is shown; `session/fates.py` follows what becomes of it,
`dlm_lsp/statistics` keeps it, and what that says of this machine comes back as `tuned`. Nothing
recorded is a text, a path or a name of a file.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.session.document import Document, Edit
from dlm_lsp.session.fates import Fates, Later, on_loop
from dlm_lsp.session.request_log import RequestFigures, RequestLog
from dlm_lsp.session.requests import Answer, Offer
from dlm_lsp.session.slots import RequestSlot
from dlm_lsp.session.sureness import AUTO, first_line, probability, threshold
from dlm_lsp.settings.schema import Settings
from dlm_lsp.statistics.rows import Change, Row, new_id, plain_word
from dlm_lsp.statistics.tuning import Tuned
from dlm_lsp.store.choice import name_of

TUNE_EVERY = 50  # The suggestions that are shown between two looks at the evidence.
_UNSENT_MAX = 32


class Recorder(Protocol):
    """The part of `dlm_lsp.statistics.recorder.Recorder` that a session uses. No method waits."""

    def put(self, item: Row | Change) -> None: ...
    def tune(self, model: str, default: float) -> None: ...
    def tuned(self, model: str) -> Tuned | None: ...
    def close(self) -> None: ...


class Record:
    """The record of one session.

    Args:
        recorder: writes the statistics; None writes none, whatever the settings say.
        settings: returns the settings that hold for no document in particular.
        host: returns the host that answers.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        settings: Callable[[], Settings],
        host: Callable[[], HostSettings],
        clock: Callable[[], float] = time.monotonic,
        later: Later = on_loop,
    ) -> None:
        self._recorder = recorder
        self._settings = settings
        self._host = host
        self._fates = Fates(self._put, clock, later)
        self._unsent: OrderedDict[str, tuple[Row, int]] = OrderedDict()
        self._model = ("", HostSettings())
        self._until_tuned = 0
        self.requests = RequestLog()

    @property
    def model(self) -> str:
        """The name under which the model is recorded."""
        name, host = self._model
        if not name or host is not self._host():
            self._model = name, _ = recorded_name(self._host()), self._host()
            self._until_tuned = 0
        return name

    @property
    def tuned(self) -> Tuned | None:
        """What local evidence says of the model; None without evidence, or if it is not wanted."""
        statistics = self._settings().statistics
        is_wanted = statistics.enabled and statistics.tune
        if self._recorder is None or not is_wanted or self._host().is_bundled:
            return None
        model = self.model
        if self._until_tuned == 0:
            self._until_tuned = TUNE_EVERY
            self._recorder.tune(model, AUTO)
        return self._recorder.tuned(model)

    def least(self, setting: float | Literal["auto"]) -> float:
        """Returns how probable a text must be to be shown while the user types.

        Args:
            setting: the setting `silence.confidence`.
        """
        tuned = self.tuned if setting == "auto" else None
        return threshold(setting, self._host().is_bundled, tuned and tuned.confidence)

    @property
    def stretch(self) -> float:
        """The factor by which a request waits longer for the next key than it would by itself."""
        tuned = self.tuned
        return 1.0 if tuned is None else tuned.stretch

    def offered(
        self, slot: RequestSlot, document: Document, offers: Sequence[Offer], lead: int
    ) -> None:
        """Makes the figures of an answer, which is not sent yet.

        Args:
            lead: the length of the popup menu's entry with which each offer begins.
        """
        slot.text_came()
        slot.offers = tuple(offers)
        if not offers or self._recorder is None:
            return
        text, logprobs = offers[0].text[lead:], offers[0].logprobs
        row = Row(
            id=new_id(),
            time=round(time.time(), 3),
            language=plain_word(document.language_id),
            model=self.model,
            mode=plain_word(slot.answered.mode) if slot.answered else "other",
            automatic=slot.ask.automatic,
            lines=_num_lines(text),
            characters=len(text),
            probability=_rounded(probability(text, logprobs)),
            line_probability=_rounded(probability(first_line(text), logprobs)),
            first_ms=slot.first_ms or 0.0,
            answer_ms=slot.elapsed_ms(),
            source=slot.source,
        )
        self._unsent[offers[0].id] = row, lead
        if len(self._unsent) > _UNSENT_MAX:
            self._unsent.popitem(last=False)

    def shown(self, answer: Answer) -> None:
        """Notes that an answer is sent to the editor, which shows it."""
        if not answer.offers:
            return
        row, lead = self._unsent.pop(answer.offers[0].id, (None, 0))
        if row is not None and self._settings().statistics.enabled:
            self._until_tuned = max(0, self._until_tuned - 1)
            self._fates.show(answer.document, answer.offers, row, lead)

    def edited(self, document: Document, edits: Sequence[Edit]) -> None:
        """Notes the edits of a document."""
        self._fates.edited(document, edits)

    def accepted(self, offer_id: str, kind: str, length: int | None) -> None:
        """Notes that an offer was accepted, or so many characters of it, if that is known."""
        self._fates.accepted(offer_id, None if kind == "full" else length or 0)

    def forget(self, uri: str) -> None:
        """Follows nothing of a document any longer."""
        self._fates.forget(uri)

    def ended(self, slot: RequestSlot, document: Document | None) -> None:
        """Logs a request that has ended."""
        offers = slot.offers
        text = offers[0].text if offers else ""
        answered = slot.answered
        self.requests.add(
            RequestFigures(
                time=time.time(),
                language=document.language_id if document is not None else "",
                automatic=slot.ask.automatic,
                mode=(answered.mode if answered is not None else "") or None,
                model=self.model,
                outcome=slot.outcome or "failed",
                lines=_num_lines(text),
                characters=len(text),
                probability=probability(text, offers[0].logprobs) if offers else None,
                usage=answered.usage if answered is not None else None,
                first_ms=slot.first_ms if offers else None,
                answer_ms=slot.elapsed_ms(),
                source=slot.source,
            )
        )

    async def close(self) -> None:
        """Ends the record; what is known is written, for a short time at most."""
        self._fates.close()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def _put(self, item: Row | Change) -> None:
        if self._recorder is not None and self._settings().statistics.enabled:
            self._recorder.put(item)


def recorded_name(host: HostSettings) -> str:
    """Returns the name of a host's model in records: a name of the catalogue, or a word that says
    nothing of where it lies."""
    if host.url is not None:
        return "remote"
    name = name_of(host.engine.checkpoint)
    if plain_word(name) == name:
        return name
    return f"own-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _num_lines(text: str) -> int:
    return len(text.splitlines())
