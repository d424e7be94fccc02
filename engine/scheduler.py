"""Which request runs next on the one device thread. No torch.

Requests in progress take turns, one forward each, so that a long one does not hold up a short one;
more than `active_max` wait in order of arrival. When nothing is asked for, the thread does its
background work, of which a request never waits for more than one step, and then sleeps.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from engine.api import LAST_EVENTS, Emit, Event, Failed, Request
from engine.cache.pages import CacheFull
from engine.errors import EngineError

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.25  # without a request, before background work goes on: not between keystrokes
Run = Callable[[Request, Callable[[], bool]], Generator[Event]]


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A submitted request; what the caller holds to cancel it."""

    request: Request
    emit: Emit
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: Generator[Event] | None = None

    def cancel(self) -> None:
        """Asks the engine to stop before its next forward. Any thread; idempotent."""
        self.cancelled.set()


class Scheduler:
    """Owns the queue. `submit` and `close` from any thread, `run_forever` on the device thread."""

    def __init__(
        self,
        run: Run,
        *,
        active_max: int = 4,
        background: Iterator[None] | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        """
        Args:
            run: the events of one request, given it and a function that tells whether it was
                cancelled. May raise CacheFull before its first event.
            background: work for when nothing was asked for `quiet_seconds`; each `next` is one step
                of it, on the device thread. Its failure ends it alone.
        """
        self._run = run
        self._active_max = active_max
        self._background = background
        self._quiet_seconds = quiet_seconds
        self._waiting: deque[QueuedRequest] = deque()
        self._active: deque[QueuedRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, request: Request, emit: Emit) -> QueuedRequest:
        """Queues a request. `emit` is called on the device thread and must not block."""
        job = QueuedRequest(request, emit)
        with self._changed:
            if self._closed:
                raise EngineError("The engine is closed.", remedy="Start it again.")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Cancels everything and lets `run_forever` return."""
        with self._changed:
            self._closed = True
            for job in (*self._waiting, *self._active):
                job.cancel()
            self._changed.notify()

    def run_forever(self) -> None:
        """Serves until closed."""
        while self._wait_for_work():
            self._admit()
            if self._active:
                job = self._active.popleft()
                if self._advance(job):
                    self._active.append(job)
            else:
                self._work_in_background()

    def _wait_for_work(self) -> bool:
        """False once closed. Returns without a request where background work may go on."""
        with self._changed:
            timeout = None if self._background is None else self._quiet_seconds
            while not (self._waiting or self._active):
                if self._closed:
                    return False
                if not self._changed.wait(timeout):
                    return True
            return True

    def _work_in_background(self) -> None:
        """Step by step until there is none left or a request comes."""
        while self._background is not None:
            try:
                next(self._background)
            except StopIteration:
                self._background = None
            except Exception:  # the boundary: nobody waits for it, and requests are served without
                logger.exception("background work failed")
                self._background = None
            with self._changed:
                if self._waiting or self._closed:
                    return

    def _admit(self) -> None:
        """Moves waiting requests into the round; one that does not fit yet stays first in line."""
        while len(self._active) < self._active_max:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            job.events = self._run(job.request, job.cancelled.is_set)
            try:
                is_running = self._advance(job)
            except CacheFull:
                if not self._active:
                    job.emit(Failed("out_of_memory", "The request does not fit into the cache."))
                    continue
                with self._changed:
                    self._waiting.appendleft(job)
                return
            if is_running:
                self._active.append(job)

    def _advance(self, job: QueuedRequest) -> bool:
        """Runs one request up to its next event; false once it has ended.

        Raises CacheFull, from a request that could not begin.
        """
        assert job.events is not None
        try:
            event = next(job.events)
        except CacheFull:
            raise
        except EngineError as error:
            event = Failed(error.code, str(error), error.param)
        except Exception as error:  # the boundary: one request's failure must not end the engine
            logger.exception("decoding failed")
            event = Failed("engine_failure", f"The engine failed: {type(error).__name__}.")
        is_last = isinstance(event, LAST_EVENTS)
        if is_last:
            job.events.close()  # its cache is free before its client can ask for more
        job.emit(event)
        return not is_last
