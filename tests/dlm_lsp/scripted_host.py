"""An engine host that does what a test tells it, request by request, over real HTTP.

Stands where a real one would: the language server reaches it by `engine.url`. Owns the requests it
was sent; knows nothing of models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    Marks,
    SpanBody,
    StartedEvent,
    UsageBody,
    to_line,
)
from dlm_lsp.version import PROTOCOL, VERSION

SECONDS_MAX = 60.0
USAGE = UsageBody(prompt_tokens=10, tokens=4, forwards=2, total_ms=5.0)
READY: dict[str, Any] = {
    "status": "ok",
    "protocol": PROTOCOL,
    "version": VERSION,
    "checkpoint": "/toy",
    "device": "cpu",
}


class Job:
    """One request as it arrived; the test plays the engine."""

    def __init__(self, body: GenerateBody) -> None:
        self.body = body
        self._lines: asyncio.Queue[BaseModel | None] = asyncio.Queue()
        self._closed = asyncio.Event()
        self._sequence = 0

    @property
    def is_cancelled(self) -> bool:
        return self._closed.is_set()

    async def cancelled(self) -> None:
        """Waits until the client has closed the stream, which cancels a real engine."""
        async with asyncio.timeout(SECONDS_MAX):
            await self._closed.wait()

    def start(self, marks: Marks | None = None) -> None:
        marks = marks or Marks(prefix_start=0, far_suffix_start=0)
        self._lines.put_nowait(StartedEvent(mode="block", marks=marks, usage=USAGE))

    def draft(self, committed: str, draft: str = "", *spans: tuple[int, int, float]) -> None:
        self._sequence += 1
        bodies = tuple(SpanBody(start=s, end=e, confidence=c) for s, e, c in spans)
        self._lines.put_nowait(
            DraftEvent(
                sequence=self._sequence,
                committed=committed,
                draft=draft,
                spans=bodies,
                usage=USAGE,
            )
        )

    def finish(self, text: str) -> None:
        self._lines.put_nowait(
            FinishedEvent(text=text, finish_reason="end", confidence=0.9, mode="block", usage=USAGE)
        )

    def score(self, *values: tuple[int, float]) -> None:
        """Ends a request to score its given text: each token's end and log probability."""
        self._lines.put_nowait(
            FinishedEvent(
                text=self.body.given,
                finish_reason="scored",
                confidence=0.9,
                logprobs=values,
                mode="ar",
                usage=USAGE,
            )
        )

    def fail(self, code: str, message: str) -> None:
        self._lines.put_nowait(ErrorEvent(error=ErrorBody(code=code, message=message)))

    def die(self) -> None:
        """Breaks the connection, as a killed host does."""
        self._lines.put_nowait(None)

    async def play(self, request: web.Request, response: web.StreamResponse) -> None:
        try:
            while True:
                event = await self._lines.get()
                if event is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return
                await response.write(to_line(event))
                if isinstance(event, FinishedEvent | ErrorEvent):
                    return
        except (asyncio.CancelledError, ConnectionError):
            self._closed.set()
            raise


class ScriptedHost:
    """A host on a loopback port.

    Attributes:
        health: status and body of the answer to `/health`.
        script: texts answered to the next requests by themselves; while it is empty, requests
            wait for the test to take them by `job`.
        bodies: every request so far, but not those that only fill the cache.
        warmed: the requests that only fill the cache, which are answered by themselves.
    """

    def __init__(self) -> None:
        self.url = ""
        self.health: tuple[int, dict[str, Any]] = (200, READY)
        self.script: list[str] = []
        self.bodies: list[GenerateBody] = []
        self.warmed: asyncio.Queue[GenerateBody] = asyncio.Queue()
        self.num_shutdowns = 0
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()

    async def job(self, seconds: float | None = SECONDS_MAX) -> Job:
        """Waits for and returns the next request that the script does not answer."""
        async with asyncio.timeout(seconds):
            return await self._jobs.get()

    async def on_health(self, _: web.Request) -> web.Response:
        status, body = self.health
        return web.json_response(body, status=status)

    async def on_shutdown(self, _: web.Request) -> web.Response:
        self.num_shutdowns += 1
        return web.json_response({}, status=202)

    async def on_generate(self, request: web.Request) -> web.StreamResponse:
        job = Job(GenerateBody.model_validate_json(await request.read()))
        if job.body.limits.tokens_max == 0:
            self.warmed.put_nowait(job.body)
            job.start()
            job.finish("")
            return await self._play(job, request)
        self.bodies.append(job.body)
        if self.script:
            job.start()
            job.finish(self.script.pop(0))
        else:
            self._jobs.put_nowait(job)
        return await self._play(job, request)

    async def _play(self, job: Job, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await job.play(request, response)
        return response


@asynccontextmanager
async def scripted_host(host: ScriptedHost | None = None) -> AsyncIterator[ScriptedHost]:
    """Serves, with a host of the caller's if one is given, until the end of the block."""
    host = host or ScriptedHost()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/health", host.on_health)
    app.router.add_post("/v1/generate", host.on_generate)
    app.router.add_post("/v1/shutdown", host.on_shutdown)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield host
    finally:
        await runner.cleanup()
