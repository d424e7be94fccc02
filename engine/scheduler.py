"""Decides which requests run next on the one device thread. Torch-free.

Requests in progress take turns, one forward each, so that a long request does not delay a short
one; those that gain by it share a step (`engine.packing`). Requests beyond `active_max` wait: next
is the one whose owner has the fewest in progress, and of these the first to come. Requests that
only prepare the cache stand behind all others: they have turns while no other is in progress, and
are ended where another needs their room. While there are no requests, the thread does its
background work, one step at a time, and then sleeps.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from engine.api import (
    LAST_EVENTS,
    Emit,
    Event,
    Failed,
    Request,
    Sampling,
    Started,
    Stopped,
    Usage,
)
from engine.auto.step_times import StepTimes
from engine.cache.pages import CacheFull
from engine.errors import EngineError
from engine.loop import Computed, Forward
from engine.packing import chosen, shared_out
from engine.reading import Reading
from engine.step import Step, joined

logger = logging.getLogger(__name__)

ACTIVE_MAX = 8  # requests in progress; each has a copy of its keys and values on a CPU
RESERVED = 2  # places that no single owner takes, so that somebody else's request can begin
PREPARATIONS_MAX = 2  # in progress beside the others, since each has such a copy too
QUIET_SECONDS = 0.25  # without a request before background work goes on, so not between keystrokes
# The events of a request and the forwards that it needs, which are answered with what they gave.
Turns = Generator[Event | Forward, Computed | None]
Run = Callable[[Request, Callable[[], bool]], Turns]
Compute = Callable[[Step, Sampling], Sequence[Reading]]


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A submitted request. The caller holds it to cancel the request.

    Attributes:
        forward: what it waits for, while it is in progress.
    """

    request: Request
    emit: Emit
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: Turns | None = None
    forward: Forward | None = None

    def cancel(self) -> None:
        """Asks the engine to stop before its next forward. Idempotent; any thread may call it."""
        self.cancelled.set()


class Scheduler:
    """Owns the queue of requests.

    Any thread may call `submit` and `close`; the device thread calls `run_forever`.
    """

    def __init__(
        self,
        run: Run,
        compute: Compute,
        *,
        times: Callable[[], StepTimes | None] = lambda: None,
        cached_max: float = math.inf,
        active_max: int = ACTIVE_MAX,
        background: Iterator[None] | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        """
        Args:
            run: yields the events of a request and the forwards that it needs, given the request
                and a function that says whether it was cancelled. May raise CacheFull before the
                first event.
            compute: computes a step.
            times: the machine's step times as they are known now; without them each forward is
                computed by itself.
            cached_max: as for `engine.packing.chosen`.
            background: work to do after `quiet_seconds` without a request; each `next`, on the
                device thread, does one step of it. A failure ends only the background work.
        """
        self._run = run
        self._compute = compute
        self._times = times
        self._cached_max = cached_max
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
            self._changed.notify()

    def work_later(self, background: Iterator[None]) -> None:
        """Gives background work, unless some is left. Only the device thread may call it."""
        if self._background is None:
            self._background = background

    def run_forever(self) -> None:
        """Serves until closed."""
        while self._wait_for_work():
            self._admit()
            if self._active:
                self._take_turns()
            else:
                self._work_in_background()

    def _wait_for_work(self) -> bool:
        """False once the scheduler is closed and nothing is in progress. Also returns when
        background work may go on."""
        with self._changed:
            if self._closed:  # Not in `close`, which may come while a step is being computed.
                for job in (*self._waiting, *self._active):
                    job.cancel()
            timeout = None if self._background is None else self._quiet_seconds
            while not (self._waiting or self._active):
                if self._closed:
                    return False
                if not self._changed.wait(timeout):
                    return True
            return True

    def _work_in_background(self) -> None:
        """Works step by step until nothing is left or a request arrives."""
        while self._background is not None:
            try:
                next(self._background)
            except StopIteration:
                self._background = None
            except Exception:  # the boundary: requests are served without the background work
                logger.exception("background work failed")
                self._background = None
            with self._changed:
                if self._waiting or self._closed:
                    return

    def _admit(self) -> None:
        """Activates waiting requests; one that does not fit into the cache yet stays the first."""
        self._let_go()
        while True:
            with self._changed:
                job = self._next_waiting()
                if job is None:
                    return
                self._waiting.remove(job)
            job.events = self._run(job.request, job.cancelled.is_set)
            try:
                is_running = self._advance(job, None)
            except CacheFull:
                if not _prepares(job) and self._end_preparations():
                    with self._changed:
                        self._waiting.appendleft(job)
                    continue
                if not self._active:
                    _told(job, Failed("out_of_memory", "The request does not fit into the cache."))
                    continue
                with self._changed:
                    self._waiting.appendleft(job)
                return
            if is_running:
                self._active.append(job)

    def _end_preparations(self) -> bool:
        """Ends the preparations in progress, whose finished pages stay cached; returns whether
        there were any."""
        ended = [job for job in self._active if _prepares(job)]
        for job in ended:
            job.cancel()
            self._active.remove(job)
            while self._advance(job, None):
                pass  # planning anew, it notices
        return bool(ended)

    def _let_go(self) -> None:
        """Ends the waiting requests that were cancelled, which need no room."""
        with self._changed:
            cancelled = [job for job in self._waiting if job.cancelled.is_set()]
            for job in cancelled:
                self._waiting.remove(job)
        for job in cancelled:
            usage = Usage(prompt_tokens=len(job.request.prompt))
            _told(job, Started(usage))
            _told(job, Stopped("", usage))

    def _next_waiting(self) -> QueuedRequest | None:
        """The waiting request that may begin next; None if none may."""
        running = Counter(job.request.owner for job in self._active if not _prepares(job))
        room = max(1, self._active_max - RESERVED)
        may_begin = running.total() < self._active_max
        may_prepare = len(self._active) - running.total() < PREPARATIONS_MAX

        def may(job: QueuedRequest) -> bool:
            if _prepares(job):
                return may_prepare
            return may_begin and running[job.request.owner] < room

        def order(job: QueuedRequest) -> tuple[bool, int]:
            return _prepares(job), running[job.request.owner]

        return min(filter(may, self._waiting), key=order, default=None)

    def _take_turns(self) -> None:
        """Computes the forward of the request whose turn it is, and of those that share its step.

        They go behind the others.
        """
        for job in [job for job in self._active if job.cancelled.is_set()]:
            if not self._advance(job, None):  # planning anew, it notices
                self._active.remove(job)
        if not self._active:
            return
        waiting = [job for job in self._active if not _prepares(job)] or list(self._active)
        forwards = [job.forward for job in waiting if job.forward is not None]
        taken = [waiting[number] for number in chosen(forwards, self._times(), self._cached_max)]
        for job in taken:
            self._active.remove(job)
        for job, computed in zip(taken, self._computed(taken), strict=True):
            if self._advance(job, computed):
                self._active.append(job)

    def _computed(self, jobs: Sequence[QueuedRequest]) -> Iterator[Computed | Exception]:
        """Yields what the forwards of these requests gave, or why one could not be computed."""
        forwards = [job.forward for job in jobs if job.forward is not None]
        step = joined([forward.step for forward in forwards])
        try:
            readings = self._compute(step, forwards[0].sampling)
        except Exception as error:
            if len(jobs) == 1:
                yield error
                return
            for job in jobs:  # What one of them cannot have does not fail the others.
                yield from self._computed([job])
            return
        yield from shared_out(forwards, step, readings)

    def _advance(self, job: QueuedRequest, computed: Computed | Exception | None) -> bool:
        """Runs one request up to its next forward; returns false once the request has ended.

        Args:
            computed: what its last forward gave; None to have it planned anew, or to begin.

        Raises:
            CacheFull: the request could not begin.
        """
        assert job.events is not None
        job.forward = None
        while True:
            try:
                if isinstance(computed, Exception):
                    made = job.events.throw(computed)
                else:
                    made = job.events.send(computed)
            except CacheFull:
                raise
            except EngineError as error:
                made = Failed(error.code, str(error), error.param)
            except (
                Exception
            ) as error:  # the boundary: one request's failure must not end the engine
                logger.exception("decoding failed")
                made = Failed("engine_failure", f"The engine failed: {type(error).__name__}.")
            if isinstance(made, Forward):
                job.forward = made
                return True
            if isinstance(made, LAST_EVENTS):
                job.events.close()  # frees its cache before its client can send another request
                _told(job, made)
                return False
            if not _told(job, made):
                job.events.close()
                return False
            computed = None


def _prepares(job: QueuedRequest) -> bool:
    return job.request.is_preparation


def _told(job: QueuedRequest, event: Event) -> bool:
    """Gives a request's event to whoever waits for it; returns false if that fails."""
    try:
        job.emit(event)
    except Exception:  # the boundary: one caller's failure must not end the engine
        logger.exception("an event could not be delivered")
        return False
    return True
