"""The engine: one loaded checkpoint behind one device thread.

Owns weights and cache. Takes prompts as token ids and emits text events; knows neither files nor
clients. Calling it needs no torch, loading does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.advice import read_advice
from engine.api import (
    CAUSAL_MODES,
    MODES,
    Draft,
    Emit,
    EngineInfo,
    Event,
    Finished,
    Handle,
    Request,
    Started,
    Stopped,
    Usage,
)
from engine.cache.storage import CacheShape, KVCache
from engine.config import EngineSettings
from engine.decoders import STRATEGIES
from engine.decoders.strategy import Traits
from engine.device import cpu_has_bfloat16, default_threads
from engine.errors import ConfigError, MemoryExhausted, RequestError
from engine.loop import TokenState, decode
from engine.measuring import machine_name, measure
from engine.model.adapter import load_adapter
from engine.model.checkpoint import build_network
from engine.model.config import ModelConfig
from engine.model.runner import Model
from engine.model.source import open_checkpoint
from engine.model.tokenizer import Tokenizer
from engine.scheduler import Scheduler
from engine.steptimes import StepTimes, TimesFile, TimesKey, built_in_times, read_times, write_times
from engine.transcript import Transcript, mean_confidence

logger = logging.getLogger(__name__)


class Engine:
    """Serves one checkpoint until closed. Methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        tokenizer: Tokenizer,
        settings: EngineSettings,
        times_file: TimesFile | None = None,
    ) -> None:
        """
        Args:
            settings: resolved ones, without "auto".
            times_file: where the step-time curve is kept. Every engine measures it while nothing
                is asked for, and keeps the least times. Without one a built-in curve is gone by.
        """
        config = model.network.config
        self.tokenizer = tokenizer
        self.end_ids = config.end_ids
        self.block_length = config.block_length
        times, background = None, None
        if times_file is not None:
            key = _times_key(times_file, settings)
            times = read_times(times_file.path, key)
            background = self._measure(times_file.path, key, times)
        self.info = replace(
            _info(config, cache, tokenizer, settings),
            step_times=times,
            advice=read_advice(settings.checkpoint_path(), has_drafter=model.adapter is not None),
        )
        self._model = model
        self._cache = cache
        self._config = config
        self._traits = Traits(
            config.mask_id,
            has_drafter=model.adapter is not None,
            costs=times or built_in_times(settings.device),
        )
        self._room = min(config.positions_max, cache.capacity)
        self._threads = settings.threads
        self._scheduler = Scheduler(self._events, background=background)
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, settings: EngineSettings, times_file: TimesFile | None = None) -> Engine:
        """Loads the checkpoint; takes seconds.

        Args:
            times_file: as in `__init__`.

        Raises:
            EngineError: no such device, a broken checkpoint, or not enough memory; says which.
        """
        settings = resolve(settings)
        path = settings.checkpoint_path()
        device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
        source = open_checkpoint(path)
        config = source.config
        network = build_network(source.weights, config, device=device, dtype=dtype)
        try:
            network.join()
        except torch.OutOfMemoryError:
            raise MemoryExhausted(
                f"The weights of {path} do not fit on {device} with room to lay them out.",
                remedy="Use a smaller checkpoint.",
                param="engine.checkpoint",
            ) from None
        shape = CacheShape(config.layers, config.kv_heads, config.head_dim)
        cache = KVCache(shape, settings.cache_tokens, device=device, dtype=dtype)
        adapter = load_adapter(path, config, device=device, dtype=dtype)
        model = Model(network, device=device, adapter=adapter)
        return cls(model, cache, source.tokenizer, settings, times_file)

    def submit(self, request: Request, emit: Emit) -> Handle:
        """Queues a request: Started, a Draft after every forward, then one of the last events.

        Args:
            emit: called on the engine thread; must not block.

        Raises:
            RequestError: the request does not fit this model.
        """
        needed = len(request.prompt) + request.limits.tokens_max + request.block.length
        if needed > self._room:
            raise RequestError(
                f"prompt ({len(request.prompt)}), limits.tokens_max and block.length add up to "
                f"{needed} tokens; {self._room} fit.",
                remedy="Shorten the prompt or lower the limits.",
                param="prompt",
            )
        if not all(0 <= token < self._config.vocabulary for token in request.prompt):
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

    def close(self) -> None:
        """Cancels all requests and ends the engine thread."""
        self._scheduler.close()
        self._thread.join()

    def _serve(self) -> None:
        torch.set_num_threads(self._threads or default_threads())
        self._scheduler.run_forever()

    def _measure(self, path: Path, key: TimesKey, known: StepTimes | None) -> Generator[None]:
        """The step-time curve, measured and kept; requests taken up afterwards go by it."""
        times = yield from measure(self._model, dtype=getattr(torch, key.dtype))
        if known is not None:
            times = times.least(known)
        write_times(path, key, times)
        self._traits = replace(self._traits, costs=times)
        self.info = replace(self.info, step_times=times)
        logger.info("steps of 1 and 32 rows take %.2f and %.2f ms", times.at(1), times.at(32))

    def _events(self, request: Request, is_cancelled: Callable[[], bool]) -> Generator[Event]:
        """The text events of one request, one per forward."""
        clock = _Clock(len(request.prompt))
        transcript = Transcript(self.tokenizer, request.stop)
        states = decode(
            self._model,
            self._cache,
            STRATEGIES[request.mode],
            request,
            self._traits,
            is_cancelled,
        )
        try:
            yield Started(clock.usage(next(states)))
            for state in states:
                transcript.update(state.progress)
                event = _event(state, transcript, clock)
                yield event
                if isinstance(event, Finished | Stopped):
                    return
        finally:
            states.close()  # a stop text ends decoding early: free the cache now, not at collection


def resolve(settings: EngineSettings) -> EngineSettings:
    """A copy without "auto".

    Raises:
        ConfigError: the device asked for is not there.
    """
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise ConfigError(
            'engine.device is "cuda", but torch finds no usable CUDA device.',
            remedy='Install a CUDA build of torch and its driver, or set engine.device = "auto".',
            param="engine.device",
        )
    device = ("cuda" if has_cuda else "cpu") if settings.device == "auto" else settings.device
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"
    return replace(
        settings, device=device, dtype=dtype, threads=settings.threads or default_threads()
    )


@dataclass(slots=True)
class _Clock:
    """Times one request, in milliseconds since it was taken up."""

    prompt_tokens: int
    started: float = 0.0
    prefilled: float | None = None
    first_draft: float | None = None

    def __post_init__(self) -> None:
        self.started = time.perf_counter()

    def usage(self, state: TokenState) -> Usage:
        """Counts and times as of now."""
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
        return Stopped(transcript.finish(), usage)
    reason = "stop" if transcript.stopped else progress.finished or state.stopped
    if reason is not None:
        confidence = mean_confidence(progress.confidences)
        return Finished(transcript.finish(), reason, confidence, usage)
    text, spans = transcript.draft(progress.draft)
    return Draft(transcript.committed, text, spans, usage)


def _times_key(file: TimesFile, settings: EngineSettings) -> TimesKey:
    """What a curve of this engine's holds for. `settings` are resolved ones."""
    return TimesKey(
        checkpoint=file.checkpoint,
        machine=machine_name(settings.device),
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads or default_threads(),
        program=f"{file.version}, torch {torch.__version__}",
    )


def _info(
    config: ModelConfig, cache: KVCache, tokenizer: Tokenizer, settings: EngineSettings
) -> EngineInfo:
    return EngineInfo(
        checkpoint=str(settings.checkpoint_path()),
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads or default_threads(),
        parameters=config.parameters(),
        context_max=min(config.positions_max, cache.capacity) - config.block_length,
        vocabulary=config.vocabulary,
        modes=MODES if config.family.fills_masks else CAUSAL_MODES,
        infilling=tokenizer.infill is not None,
    )
