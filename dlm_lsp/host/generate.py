"""`POST /v1/generate`: takes text with marks and streams newline-delimited JSON events.

Owns one request from its body to its last event: layout, engine request, deadline, cancellation
and log line. Text never goes to the log. Knows no document and no editor.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import ValidationError

from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    SpanBody,
    StartedEvent,
    StoppedEvent,
    UsageBody,
    to_line,
)
from dlm_lsp.host.backend import Backend
from dlm_lsp.host.bridge import EventStream
from dlm_lsp.host.fitting import Haste, fitting_layout
from dlm_lsp.host.layout import Layout, PromptBudget, TextPieces, budget_for
from dlm_lsp.host.modes import choose_mode, step_times
from dlm_lsp.host.replies import ApiError, invalid, unavailable
from dlm_lsp.host.state import Host
from engine.api import (
    LAST_EVENTS,
    BlockOptions,
    Draft,
    Event,
    Failed,
    Finished,
    Handle,
    Limits,
    LogProbs,
    Request,
    Sampling,
    Started,
    Stopped,
    Usage,
)
from engine.auto.mode_selection import ModeRecord, quadratic_length

logger = logging.getLogger(__name__)

TOKENS_MAX = 128  # The default length limit of a completion.
_RAN_TO_ITS_END = ("end", "stop", "length", "steps")  # Values of `engine.api.Finished.reason`.
_GRACE_SECONDS = 0.25  # After a deadline, the time for the engine to finish its current forward.
# Matches in JSON an escaped surrogate pair, an escaped lone surrogate (group 1) or another escape.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_body(raw: bytes) -> GenerateBody:
    """Reads the body of a request. A lone surrogate becomes U+FFFD, so that offsets stay right.

    Raises:
        ApiError: status 400; the message names the field.
    """
    if _SURROGATE.search(raw):  # pydantic refuses text with lone surrogates.
        raw = _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], raw)
    try:
        return GenerateBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise invalid(f"{param} is not a known field.", param) from None
        raise invalid(f"{param or 'body'}: {first['msg']}.", param or None) from None


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of a body, with defaults for everything that the body leaves open."""

    mode: str
    limits: Limits
    block: BlockOptions
    budget: PromptBudget
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]


def _options(body: GenerateBody, backend: Backend, records: Mapping[str, ModeRecord]) -> _Options:
    """Returns a body's options. Raises RequestError, which names the field."""
    tokens_max = TOKENS_MAX if body.limits.tokens_max is None else body.limits.tokens_max
    limits = Limits(tokens_max=tokens_max, steps_max=body.limits.steps_max)
    length = body.block.length or backend.block_length
    longer = max(0, length - backend.block_length)
    budget = budget_for(
        backend.info.context_max - longer,
        tokens_max,
        prefix=body.budget.prefix_tokens,
        suffix=body.budget.suffix_tokens,
        related=body.budget.related_tokens if body.related else 0,
    )
    mode = body.mode
    if mode == "auto":
        mode = choose_mode(
            backend.info,
            records,
            limits,
            block_length=length,
            stop=body.stop,
            exact=body.exact,
        ).mode
    if mode == "quadratic_spec" and body.block.length is None:
        length = quadratic_length(step_times(backend.info), length)
    infill = backend.tokenizer.infill
    return _Options(
        mode=mode,
        limits=limits,
        block=BlockOptions(length, body.block.threshold, body.block.revisions),
        budget=budget,
        stop=(*body.stop, *(infill.end_texts if infill else ())),
        stop_token_ids=(*(infill.end_ids if infill else ()), *backend.end_ids),
    )


def to_engine(
    body: GenerateBody, backend: Backend, records: Mapping[str, ModeRecord]
) -> tuple[Request, Layout]:
    """Returns the engine's request for a body, and the layout of its text.

    Args:
        records: the records of this host's finished requests, by which "auto" chooses.

    Raises:
        RequestError: the request does not fit the loaded model; the error names the field.
    """
    given = tuple(backend.tokenizer.encode(body.given))
    if given:  # They need the room of a completion.
        limits = body.limits.model_copy(update={"tokens_max": len(given)})
        body = body.model_copy(update={"limits": limits, "mode": "ar"})
    options = _options(body, backend, records)
    pieces = TextPieces(
        body.prefix,
        body.suffix,
        body.marks.prefix_start,
        body.marks.far_suffix_start,
        body.name,
        tuple((file.name, file.text) for file in body.related),
        body.repository,
    )
    layout = fitting_layout(pieces, options.budget, backend, _haste(body))
    sampling = body.sampling
    request = Request(
        prompt=layout.prompt,
        mode=options.mode,
        limits=options.limits,
        sampling=Sampling(sampling.temperature, sampling.top_p, sampling.seed),
        block=options.block,
        stop=options.stop,
        stop_token_ids=options.stop_token_ids,
        exact=body.exact,
        suffix=layout.suffix,
        reuses_suffix=body.soon,
        given=given,
        owner=body.client,
    )
    return request, layout


def _haste(body: GenerateBody) -> Haste:
    """How soon a prompt has to be computed, by its body."""
    if body.limits.tokens_max == 0:
        return Haste.IDLE
    return Haste.SOON if body.soon and not body.exact else Haste.NONE


async def generate(http: web.Request, host: Host) -> web.StreamResponse:
    """Handles one request. A closed connection cancels this task and with it the engine's work.

    Raises:
        ApiError: the request is refused before its first event.
        RequestError: the request does not fit the loaded model.
    """
    taken = time.monotonic()
    body = parse_body(await _read(http, host))
    if host.requests >= host.limits.requests_max:
        raise unavailable("busy", f"{host.requests} requests are in flight already.")
    with host.working():
        backend = await _loaded(host)
        request, layout = to_engine(body, backend, host.records.by_mode)
        exchange = _Exchange(taken, body, request, layout)
        try:
            async with aclosing(_events(exchange, backend, host)) as events:
                return await _respond(http, events, host)
        finally:
            exchange.account(host)


@dataclass(slots=True)
class _Exchange:
    """One request that the engine has accepted, and its outcome."""

    taken: float  # time.monotonic()
    body: GenerateBody
    request: Request
    layout: Layout
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    has_started: bool = False
    drafts: int = 0
    committed: str = ""
    logprobs: LogProbs = ()
    engine_usage: Usage = field(default_factory=Usage)
    usage: UsageBody = field(default_factory=UsageBody)
    outcome: str = "cancelled"
    is_late: bool = False

    def note(self, event: Event, waited_ms: float) -> None:
        """Keeps the data of an event for the log, the metrics and the next message.

        Args:
            waited_ms: the time from the request's arrival here until the engine accepted it.
        """
        if isinstance(event, Failed):
            self.outcome = event.code
            return
        self.engine_usage = event.usage
        self.usage = _to_usage(event.usage, waited_ms)
        match event:
            case Started():
                self.has_started = True
            case Draft():
                self.drafts += 1
                self.committed, self.logprobs = event.committed, event.logprobs
            case Finished():
                self.outcome = "warm" if self.request.limits.tokens_max == 0 else event.reason
            case Stopped():
                # A request whose client listens is stopped by its deadline, by a newer one for the
                # document that is typed, by one that needs the room of a preparation, or by the
                # end of the host.
                self.outcome = "time" if self.is_late else "stopped"

    def message(self, event: Event) -> HostEvent:
        """Returns the message to the client for an event that was passed to `note`."""
        match event:
            case Started():
                marks = Marks(
                    prefix_start=self.layout.prefix_start,
                    far_suffix_start=self.layout.far_suffix_start,
                )
                return StartedEvent(
                    mode=self.request.mode,
                    exact=self.request.exact,
                    marks=marks,
                    usage=self.usage,
                )
            case Draft():
                spans = tuple(
                    SpanBody(start=s.start, end=s.end, confidence=s.confidence) for s in event.spans
                )
                return DraftEvent(
                    sequence=self.drafts,
                    committed=event.committed,
                    draft=event.draft,
                    spans=spans,
                    logprobs=event.logprobs,
                    usage=self.usage,
                )
            case Finished():
                return self._finished(event, event.confidence)
            case Stopped():
                if self.is_late:
                    # The model's confidence in a partial text is unknown.
                    return self._finished(event, 0.0)
                return StoppedEvent(text=event.text, logprobs=event.logprobs, usage=self.usage)
            case Failed():
                error = ErrorBody(code=event.code, message=event.message, param=event.param)
                return ErrorEvent(error=error)

    def _finished(self, event: Finished | Stopped, confidence: float) -> FinishedEvent:
        return FinishedEvent.model_validate(
            {
                "text": event.text,
                "finish_reason": self.outcome,
                "confidence": confidence,
                "logprobs": event.logprobs,
                "mode": self.request.mode,
                "exact": self.request.exact,
                "usage": self.usage,
            }
        )

    def account(self, host: Host) -> None:
        """Counts and logs the finished request."""
        total_ms = (time.monotonic() - self.taken) * 1000
        self.usage = self.usage.model_copy(update={"total_ms": total_ms})
        host.metrics.count_request(self.request.mode, self.outcome, self.usage)
        if self.outcome in _RAN_TO_ITS_END:
            host.records.count(self.request.mode, self.engine_usage, self.outcome)
        logger.info(
            "request %s mode=%s outcome=%s prompt=%d cached=%d forwards=%d tokens=%d ms=%.0f",
            self.id,
            self.request.mode,
            self.outcome,
            self.usage.prompt_tokens,
            self.usage.cached_tokens,
            self.usage.forwards,
            self.usage.tokens,
            total_ms,
        )


def _to_usage(usage: Usage, waited_ms: float) -> UsageBody:
    first = usage.first_draft_ms
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        tokens=usage.tokens,
        forwards=usage.forwards,
        prefill_ms=usage.prefill_ms,
        first_draft_ms=None if first is None else first + waited_ms,
        total_ms=usage.total_ms + waited_ms,
    )


async def _read(http: web.Request, host: Host) -> bytes:
    if http.content_type != "application/json":
        raise invalid(f"Content-Type is {http.content_type}; send application/json.", status=415)
    try:
        async with asyncio.timeout(host.limits.body_seconds):
            return await http.read()
    except TimeoutError:
        raise invalid("The body did not arrive in time.", status=408) from None


async def _loaded(host: Host) -> Backend:
    """Waits for loading and returns the backend."""
    try:
        await host.loader.wait(host.limits.load_seconds)
    except TimeoutError:
        raise unavailable("loading", host.loader.message, retry_seconds=5) from None
    if host.loader.error is not None:
        error = host.loader.error
        raise ApiError(503, ErrorBody(code=error.code, message=str(error), type="load_error"))
    if host.stop.is_set() or host.loader.backend is None:
        raise unavailable("stopping", "The host is ending.")
    return host.loader.backend


async def _events(
    exchange: _Exchange, backend: Backend, host: Host
) -> AsyncGenerator[HostEvent, None]:
    """Submits the request and yields its events for the client; closing cancels the request.

    The deadline counts from here, so waiting for the model to load does not use it up.
    """
    loop = asyncio.get_running_loop()
    stream = EventStream()
    handle = backend.submit(exchange.request, stream.emit)
    timer, give_up = None, None
    milliseconds_max = exchange.body.limits.milliseconds_max
    if milliseconds_max is not None:
        # A timer, because a slowly reading client would delay a time-out around the reads.
        timer = loop.call_later(milliseconds_max / 1000, _expire, exchange, handle)
        give_up = loop.time() + milliseconds_max / 1000 + _GRACE_SECONDS
    newest = ExitStack()
    if exchange.body.soon:
        body = exchange.body
        newest.enter_context(host.as_newest(body.client, body.document, handle))
    try:
        with host.metrics.queued.track_inprogress():
            event = await _next(stream, exchange, give_up)
        waited_ms = ((stream.first_event_at or time.monotonic()) - exchange.taken) * 1000
        with host.metrics.in_flight.track_inprogress():
            while not isinstance(event, LAST_EVENTS):
                exchange.note(event, waited_ms)
                if exchange.body.draft or not isinstance(event, Draft):
                    yield exchange.message(event)
                event = await _next(stream, exchange, give_up)
            exchange.note(event, waited_ms)
            yield exchange.message(event)
    finally:
        newest.close()
        handle.cancel()
        if timer is not None:
            timer.cancel()


def _expire(exchange: _Exchange, handle: Handle) -> None:
    exchange.is_late = True
    handle.cancel()


async def _next(stream: EventStream, exchange: _Exchange, give_up: float | None) -> Event:
    """Returns the engine's next event, or a last event in its place if it comes too late.

    Args:
        give_up: the time limit on the loop's clock; None means no limit.
    """
    try:
        async with asyncio.timeout_at(give_up):
            return await stream.next()
    except TimeoutError:
        if not exchange.has_started:
            return Started(Usage(prompt_tokens=len(exchange.request.prompt)))
        return Stopped(exchange.committed, exchange.engine_usage, exchange.logprobs)


async def _respond(
    http: web.Request, events: AsyncGenerator[HostEvent, None], host: Host
) -> web.StreamResponse:
    """Writes events as they come; disconnects a client that does not read them."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        async for event in events:
            if not response.prepared:
                await response.prepare(http)
            async with asyncio.timeout(host.limits.write_seconds):
                await response.write(to_line(event))
        await response.write_eof()
    except TimeoutError:
        if http.transport is not None:
            http.transport.abort()
    except ConnectionError:
        pass  # The client has gone; returning cancels the request.
    return response
