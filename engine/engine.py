"""The engine: one loaded checkpoint that is served by one device thread.

Owns the runtime, which has the weights, and the cache. Takes prompts as token ids and emits text
events; knows neither files nor clients. The runtime computes; torch is imported only where its
runtime is loaded.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.api import (
    CAUSAL_MODES,
    LAST_EVENTS,
    MODES,
    Draft,
    Emit,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Handle,
    Preparing,
    Request,
    Sampling,
    Started,
    Stopped,
    Usage,
)
from engine.auto.checkpoint_stats import adapted_stats, read_stats
from engine.auto.measuring import measure
from engine.auto.step_times import (
    TimesFile,
    TimesKey,
    built_in_times,
    read_times,
    write_times,
)
from engine.config import EngineSettings
from engine.decoders import strategy_for
from engine.decoders.score import Score
from engine.decoders.strategy import Traits
from engine.device import default_threads, resolve, torch_unusable
from engine.errors import EngineFailure, RequestError
from engine.loop import Computed, Forward, TokenState, rounds
from engine.model.source import CheckpointSource, open_checkpoint
from engine.model.tokenizer import Tokenizer
from engine.packing import CPU_CACHED_MAX
from engine.reading import Reading
from engine.runtime import Cache, Runtime
from engine.scheduler import Scheduler, Turns
from engine.step import Step
from engine.transcript import Transcript, mean_confidence

logger = logging.getLogger(__name__)

# A step that takes less than this share of its time by the curve shows that the curve is wrong. A
# step has fewer cached tokens than those of the measurement at times, but they cost less than this.
MUCH_FASTER = 0.6
MEASUREMENTS_MAX = 4  # of one engine, the first included


class Engine:
    """Serves one checkpoint until it is closed. Any thread may call its methods."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        settings: EngineSettings,
        times_file: TimesFile | None = None,
    ) -> None:
        """
        Args:
            settings: the checkpoint, the capacity of the cache and the number of threads; device
                and dtype are the runtime's.
            times_file: where the step-time curve is kept. The engine measures the curve while there
                are no requests, and keeps the least times. None means a built-in curve.

        Raises:
            MemoryExhausted: the cache does not fit on the device.
        """
        config = runtime.config
        cache = runtime.new_cache(settings.cache_tokens)
        threads = settings.threads or default_threads()
        self.tokenizer = tokenizer
        self.end_ids = config.end_ids
        # A group of a mask adapter has as many rows as it has masks.
        self.block_length = min(
            config.block_length, len(runtime.draft_masks) or config.block_length
        )
        times, background = None, runtime.settle()
        self._times_file = times_file
        self._measurements_left = MEASUREMENTS_MAX
        if times_file is not None:
            times = read_times(times_file.path, _times_key(times_file, runtime, threads))
            background = itertools.chain(background, self._measure(times_file))
        stats = read_stats(
            settings.checkpoint_path(),
            is_released=config.is_released,
            has_drafter=runtime.has_drafter,
        )
        if runtime.draft_masks:
            stats = stats or adapted_stats()
        self.info = replace(
            _info(runtime, cache, tokenizer, settings.checkpoint_path(), threads),
            step_times=times,
            stats=stats,
        )
        self._runtime = runtime
        self._cache = cache
        self._config = config
        self._traits = Traits(
            config.mask_id,
            has_drafter=runtime.has_drafter,
            draft_masks=runtime.draft_masks,
            costs=times or built_in_times(runtime.device, has_masks=bool(runtime.draft_masks)),
        )
        self._room = min(config.positions_max, cache.capacity)
        self._threads = threads
        self._scheduler = Scheduler(
            self._events,
            self._compute,
            times=lambda: self._traits.costs,
            cached_max=CPU_CACHED_MAX if runtime.device == "cpu" else math.inf,
            background=background,
        )
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        settings: EngineSettings,
        times_file: TimesFile | None = None,
        preparing: Preparing | None = None,
    ) -> Engine:
        """Loads the checkpoint, which takes seconds, and longer the first time.

        Args:
            times_file: as in `__init__`.
            preparing: called repeatedly while the checkpoint is prepared for this machine.

        Raises:
            EngineError: there is no such device, a broken checkpoint, or not enough memory.
        """
        settings = resolve(settings)
        source = open_checkpoint(settings.checkpoint_path())
        runtime = _load_runtime(source, settings, preparing)
        return cls(runtime, source.tokenizer, settings, times_file)

    def submit(self, request: Request, emit: Emit) -> Handle:
        """Queues a request: Started, a Draft after every forward, then one of the last events.

        Args:
            emit: called on the engine thread; must not block.

        Raises:
            RequestError: the request does not fit this model.
        """
        needed = len(request.prompt) + request.length_max + request.block.length
        if needed > self._room:
            raise RequestError(
                f"prompt ({len(request.prompt)}), limits.tokens_max and block.length add up to "
                f"{needed} tokens; {self._room} fit.",
                remedy="Shorten the prompt or lower the limits.",
                param="prompt",
            )
        known = range(self._config.vocabulary)
        if not all(token in known for token in (*request.prompt, *request.given)):
            raise RequestError(
                f"prompt holds a token outside 0..{self._config.vocabulary - 1}.",
                remedy="Use this checkpoint's tokenizer.",
                param="prompt",
            )
        if request.mode not in self.info.modes:
            raise RequestError(
                f"mode {request.mode!r} needs a checkpoint that fills masks.",
                remedy=f"Use one of {self.info.modes}.",
                param="mode",
            )
        return self._scheduler.submit(request, emit)

    def uncached(self, prompt: tuple[int, ...], suffix: tuple[int, int]) -> int:
        """About how many tokens of a prompt would have to be computed by a request that reuses its
        suffix. An estimate, because requests may run meanwhile, and up to a page too high."""
        held = self._cache.held(prompt)
        if held <= suffix[0] < suffix[1] and self._cache.find_suffix(prompt, suffix):
            held += suffix[1] - suffix[0]
        return len(prompt) - held

    def stream(self, request: Request) -> Generator[Event]:
        """The events of a request as they come; the caller waits for each of them.

        Closing the generator cancels the request.

        Raises:
            RequestError: the request does not fit this model.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        handle = self.submit(request, events.put)
        try:
            while not isinstance(event := events.get(), LAST_EVENTS):
                yield event
            yield event
        finally:
            handle.cancel()

    def generate(self, request: Request) -> Finished:
        """Decodes a request to its end, and waits for it.

        Raises:
            RequestError: the request does not fit this model.
            EngineFailure: decoding failed, or the engine was closed before its end.
        """
        *_, event = self.stream(request)
        if isinstance(event, Failed):
            raise EngineFailure(event.message, param=event.param)
        if not isinstance(event, Finished):
            raise EngineFailure("The engine was closed before the request was finished.")
        return event

    def close(self) -> None:
        """Cancels all requests and ends the engine thread."""
        self._scheduler.close()
        self._thread.join()

    def _serve(self) -> None:
        self._runtime.begin_thread(self._threads)
        self._scheduler.run_forever()

    def _compute(self, step: Step, sampling: Sampling) -> Sequence[Reading]:
        """Computes a step, and has the curve measured again if it was much faster than the curve
        says: the machine was busy when that was measured."""
        began = time.perf_counter()
        readings = self._runtime(step, self._cache, sampling)
        taken_ms = (time.perf_counter() - began) * 1000
        known, file = self.info.step_times, self._times_file
        if known is None or file is None or self._measurements_left == 0:
            return readings
        if taken_ms < MUCH_FASTER * known.at(step.rows, masks=any(step.drafter)):
            self._scheduler.work_later(self._measure(file))
        return readings

    def _measure(self, file: TimesFile) -> Generator[None]:
        """Measures and keeps the step-time curve, which later requests use."""
        self._measurements_left -= 1
        times = yield from measure(self._runtime)
        if self.info.step_times is not None:
            times = times.least(self.info.step_times)
        write_times(file.path, _times_key(file, self._runtime, self._threads), times)
        self._traits = replace(self._traits, costs=times)
        self.info = replace(self.info, step_times=times)
        logger.info("steps of 1 and 32 rows take %.2f and %.2f ms", times.at(1), times.at(32))

    def _events(self, request: Request, is_cancelled: Callable[[], bool]) -> Turns:
        """The text events of one request, one for each forward, and the forwards themselves."""
        clock = _Clock(len(request.prompt))
        transcript = Transcript(self.tokenizer, request.stop)
        states = rounds(
            self._cache,
            Score() if request.given else strategy_for(request.mode, self._traits),
            request,
            self._traits,
            is_cancelled,
        )
        try:
            opened = next(states)
            assert isinstance(opened, TokenState)
            yield Started(clock.usage(opened))
            computed: Computed | None = None
            while True:
                made = states.send(computed)
                if isinstance(made, Forward):
                    computed = yield made
                    continue
                computed = None
                transcript.update(made.progress)
                event = _event(made, transcript, clock)
                yield event
                if isinstance(event, Finished | Stopped):
                    return
        finally:
            states.close()  # if a stop text ended decoding early, this frees the cache at once


def _load_runtime(
    source: CheckpointSource, settings: EngineSettings, preparing: Preparing | None
) -> Runtime:
    """The runtime with the weights of the checkpoint. Raises EngineError.

    Both runtimes are imported here, because torch takes a second and need not be installed.
    """
    if settings.backend == "onnx":
        from engine.model.onnx.runtime import OnnxRuntime

        return OnnxRuntime.load(source, settings, preparing)
    try:
        from engine.model.torch_runtime import TorchRuntime
    except (ImportError, OSError) as error:
        raise torch_unusable(error) from None
    return TorchRuntime.load(source, settings)


@dataclass(slots=True)
class _Clock:
    """Times one request, in milliseconds since its start."""

    prompt_tokens: int
    started: float = 0.0
    prefilled: float | None = None
    first_draft: float | None = None

    def __post_init__(self) -> None:
        self.started = time.perf_counter()

    def usage(self, state: TokenState) -> Usage:
        """The current counts and times."""
        now = (time.perf_counter() - self.started) * 1000
        progress = state.progress
        if not progress.prefilling and self.prefilled is None:
            self.prefilled = now
        has_text = progress.committed or any(p.token is not None for p in progress.draft)
        if has_text and self.first_draft is None:
            self.first_draft = now
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=state.cached,
            tokens=len(progress.committed),
            forwards=state.forwards,
            rows=state.rows,
            prefill_ms=now if self.prefilled is None else self.prefilled,
            first_draft_ms=self.first_draft,
            total_ms=now,
        )


def _event(state: TokenState, transcript: Transcript, clock: _Clock) -> Event:
    progress = state.progress
    usage = clock.usage(state)
    if state.stopped == "cancelled":
        return Stopped(transcript.finish(), usage, transcript.logprobs)
    reason = "stop" if transcript.stopped else progress.finished or state.stopped
    if reason is not None:
        confidence = mean_confidence(progress.confidences)
        text = transcript.finish()
        return Finished(text, reason, confidence, usage, transcript.logprobs)
    text, spans = transcript.draft(progress.draft)
    return Draft(transcript.committed, text, spans, usage, transcript.logprobs)


def _modes(runtime: Runtime) -> tuple[str, ...]:
    can_draft = runtime.config.family.fills_masks or runtime.draft_masks
    return MODES if can_draft else CAUSAL_MODES


def _times_key(file: TimesFile, runtime: Runtime, threads: int) -> TimesKey:
    """Identifies the step-time curve of this engine."""
    return TimesKey(
        checkpoint=file.checkpoint,
        machine=runtime.machine,
        device=runtime.device,
        dtype=runtime.dtype,
        threads=threads,
        program=f"{file.version}, {runtime.program}",
    )


def _info(
    runtime: Runtime, cache: Cache, tokenizer: Tokenizer, folder: Path, threads: int
) -> EngineInfo:
    config = runtime.config
    return EngineInfo(
        checkpoint=str(folder),
        device=runtime.device,
        dtype=runtime.dtype,
        threads=threads,
        parameters=config.parameters(),
        context_max=min(config.positions_max, cache.capacity) - config.block_length,
        vocabulary=config.vocabulary,
        modes=_modes(runtime),
        infilling=tokenizer.infill is not None,
        program=runtime.program,
        mask_adapter=bool(runtime.draft_masks),
    )
