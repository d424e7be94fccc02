"""An engine for the host's tests that plays a script: real threads, no model."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from dlm_lsp.host.backend import Load
from dlm_lsp.host.loading import Loader
from dlm_lsp.host.routes import make_runner
from dlm_lsp.host.state import Host, HostLimits
from engine.api import (
    LAST_EVENTS,
    Draft,
    Emit,
    EngineInfo,
    Event,
    Finished,
    Request,
    Started,
    Stopped,
    Usage,
)
from engine.config import EngineSettings
from tests.tiny import byte_tokenizer


@dataclass
class ToyJob:
    """A request being played. `cancel` is what a host calls."""

    request: Request
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()


Script = Callable[[ToyJob], Iterator[Event]]


def count_up(job: ToyJob) -> Iterator[Event]:
    """Commits a digit per forward, up to tokens_max of them."""
    tokens_max = job.request.limits.tokens_max
    usage = Usage(prompt_tokens=len(job.request.prompt))
    yield Started(usage)
    text = ""
    for number in range(tokens_max):
        text += str(number % 10)
        usage = Usage(len(job.request.prompt), 0, number + 1, number + 1, 1.0, 2.0, 3.0, number + 1)
        yield Draft(text, "░", (), usage)
    yield Finished(text, "length", 0.5, usage)


def prefill_until_cancelled(job: ToyJob) -> Iterator[Event]:
    """Starts, and then is busy with its prompt."""
    yield Started(Usage(prompt_tokens=len(job.request.prompt)))
    job.cancelled.wait()


def silent(job: ToyJob) -> Iterator[Event]:
    """Waits in the engine's queue until cancelled."""
    job.cancelled.wait()
    return
    yield


def draft_until_cancelled(job: ToyJob) -> Iterator[Event]:
    """Drafts for ever, one more character every millisecond."""
    yield Started(Usage(prompt_tokens=len(job.request.prompt)))
    number = 0
    while not job.cancelled.wait(0.001):
        number += 1
        yield Draft("x" * number, "░", (), Usage(tokens=number, forwards=number))


class ToyBackend:
    """Plays `script` for every request, each on a thread of its own."""

    block_length = 16
    end_ids = (2,)

    def __init__(self, script: Script = count_up) -> None:
        self.script = script
        self.tokenizer = byte_tokenizer()
        self.jobs: list[ToyJob] = []
        self.is_closed = False
        self.info = EngineInfo(
            checkpoint="/toy",
            device="cpu",
            dtype="float32",
            threads=1,
            parameters=1,
            context_max=2032,
            vocabulary=self.tokenizer.size,
        )

    def uncached(self, prompt: tuple[int, ...], suffix: tuple[int, int]) -> int:
        """Nothing is ever cached."""
        return len(prompt)

    def submit(self, request: Request, emit: Emit) -> ToyJob:
        job = ToyJob(request)
        self.jobs.append(job)
        threading.Thread(target=self._play, args=(job, emit), daemon=True).start()
        return job

    def close(self) -> None:
        self.is_closed = True
        for job in self.jobs:
            job.cancel()

    def _play(self, job: ToyJob, emit: Emit) -> None:
        last: Event = Started(Usage())
        for event in self.script(job):
            if job.cancelled.is_set():
                break
            last = event
            emit(event)
        if not isinstance(last, LAST_EVENTS):
            text = last.committed if isinstance(last, Draft) else ""
            emit(Stopped(text, last.usage))
        job.ended.set()


@dataclass
class ToyHost:
    """A host in this process, on a unix socket, and a session to it."""

    host: Host
    backend: ToyBackend
    socket: Path
    session: aiohttp.ClientSession

    async def post(self, body: object, **options: object) -> aiohttp.ClientResponse:
        """POST /v1/generate with a JSON body."""
        return await self.session.post("/v1/generate", json=body, **options)  # pyright: ignore


@asynccontextmanager
async def toy_host(
    folder: Path,
    script: Script = count_up,
    *,
    load: Load | None = None,
    token: str | None = None,
    limits: HostLimits | None = None,
    path: Path | None = None,
) -> AsyncIterator[ToyHost]:
    """Serves a toy backend on a unix socket.

    Args:
        folder: one with a short path.
        path: of the socket, where a name in `folder` will not do.
    """
    backend = ToyBackend(script)
    loader = Loader(load or (lambda settings, preparing: backend), EngineSettings())
    host = Host(loader, token, limits or HostLimits(drain_seconds=1))
    runner = make_runner(host)
    await runner.setup()
    path = path or folder / "toy.sock"
    await web.UnixSite(runner, str(path)).start()
    loader.start()
    connector = aiohttp.UnixConnector(str(path))
    try:
        async with aiohttp.ClientSession("http://host", connector=connector) as session:
            yield ToyHost(host, backend, path, session)
    finally:
        backend.close()
        await runner.cleanup()


def wait_until(condition: Callable[[], bool], seconds_max: float = 20.0) -> bool:
    """Whether a condition came true in time. For conditions that nothing signals."""
    give_up = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True
