"""The engine as its callers see it: text events from token prompts, and named refusals."""

from __future__ import annotations

import itertools
import queue
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from engine.api import (
    MODES,
    BlockOptions,
    Draft,
    Event,
    Failed,
    Finished,
    Limits,
    Request,
    Sampling,
    Started,
    Stopped,
)
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import CheckpointError, ConfigError, EngineFailure, MemoryExhausted, RequestError
from engine.model.checkpoint import save_checkpoint
from tests.engine.model.test_tokenizer import TOKENIZER
from tests.engine.seeded import CONFIG, seeded_network
from tests.engine.subjects import HAS_TRITON

CAPTURED = "captured steps"
SETTINGS = EngineSettings(device="cpu", dtype="float32", threads=1, cache_tokens=2048)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = replace(CONFIG, vocabulary=400)
    save_checkpoint(folder, seeded_network(config=config))
    TOKENIZER.save(folder)
    return folder


@pytest.fixture(scope="module", params=("onnx", "torch", *((CAPTURED,) if HAS_TRITON else ())))
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def engine(folder: Path, backend: str):
    engine = Engine.load(settings_of(folder, backend))
    assert engine.info.program.endswith(CAPTURED) == (backend == CAPTURED)
    yield engine
    engine.close()


def settings_of(folder: Path, backend: str) -> EngineSettings:
    """The settings for a backend, or for captured steps of torch."""
    if backend == CAPTURED:
        return replace(SETTINGS, checkpoint=folder, backend="torch", steps="captured")
    return replace(SETTINGS, checkpoint=folder, backend=backend)


def events_of(engine: Engine, request: Request) -> list[Event]:
    return list(engine.stream(request))


def prompt(engine: Engine, text: str = "def add(first, second):\n") -> tuple[int, ...]:
    return tuple(engine.tokenizer.encode(text))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_grow_into_the_finished_text(engine: Engine, mode: str, temperature: float) -> None:
    request = Request(prompt(engine), mode, Limits(24), Sampling(temperature), BlockOptions(8, 0.2))
    started, *drafts, finished = events_of(engine, request)
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    for earlier, later in itertools.pairwise(drafts):
        assert isinstance(earlier, Draft)
        assert isinstance(later, Draft)
        assert later.committed.startswith(earlier.committed)
        assert later.usage.forwards >= earlier.usage.forwards
    assert finished.text.startswith(drafts[-1].committed)
    assert 0 < finished.confidence <= 1
    usage = finished.usage
    assert usage.tokens == 24
    assert usage.forwards == (23 if mode == "ar" else usage.forwards)
    assert 0 < usage.prefill_ms <= (usage.first_draft_ms or 0) <= usage.total_ms
    again = events_of(engine, request)[-1]
    assert isinstance(again, Finished)
    # More of the prompt is cached, so its last step has other rows, whose last bits may differ.
    assert (again.text, again.reason) == (finished.text, finished.reason)
    assert again.confidence == pytest.approx(finished.confidence, rel=1e-4)


def test_a_repeated_prompt_comes_from_the_cache(engine: Engine) -> None:
    request = Request(prompt(engine, "x = [1, 2, 3]\n" * 10), "ar", Limits(2))
    events_of(engine, request)
    started = events_of(engine, request)[0]
    assert isinstance(started, Started)
    assert started.usage.cached_tokens >= len(request.prompt) - 16


def test_a_stop_text_ends_decoding_and_frees_the_cache(engine: Engine) -> None:
    free = events_of(engine, Request(prompt(engine), "ar", Limits(40)))[-1]
    assert isinstance(free, Finished)
    stop = free.text[3:5]
    request = Request(prompt(engine), "ar", Limits(40), stop=(stop,))
    finished = events_of(engine, request)[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.text == free.text[: free.text.index(stop)]
    assert finished.usage.tokens < 40
    assert engine._cache.counts().in_use == 0


def test_cancelling_from_another_thread_stops(engine: Engine) -> None:
    received: queue.Queue[Event] = queue.Queue()
    handle = engine.submit(Request(prompt(engine), "ar", Limits(1500)), received.put)
    assert isinstance(received.get(timeout=60), Started)
    handle.cancel()
    handle.cancel()
    while isinstance(event := received.get(timeout=60), Draft):
        pass
    assert isinstance(event, Stopped)
    assert event.usage.tokens < 1500


def test_generate_gives_the_last_event(engine: Engine) -> None:
    request = Request(prompt(engine), "ar", Limits(6))
    assert engine.generate(request).text == events_of(engine, request)[-1].text  # type: ignore[union-attr]


def test_a_stream_that_is_closed_cancels_its_request(engine: Engine) -> None:
    events = engine.stream(Request(prompt(engine), "ar", Limits(1500)))
    assert isinstance(next(events), Started)
    events.close()
    # The next request is served, and the closed request's pages are free by then.
    engine.generate(Request(prompt(engine), "ar", Limits(40)))
    assert engine._cache.counts().in_use == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limits": Limits(2000)}, "limits.tokens_max"),
        ({"prompt": (400,)}, "outside"),
        ({"prompt": (-1,)}, "outside"),
    ],
)
def test_requests_that_cannot_fit_are_refused(
    engine: Engine, change: dict[str, object], named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        engine.submit(replace(Request((5,) * 100), **change), lambda event: None)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Request(()), "prompt"),
        (lambda: Request((1,), "diffuse"), "mode"),
        (lambda: Request((1,), stop=("",)), "stop"),
        (lambda: Limits(-1), "limits.tokens_max"),
        (lambda: Limits(5, 0), "limits.steps_max"),
        (lambda: Sampling(-1.0), "sampling.temperature"),
        (lambda: Sampling(float("nan")), "sampling.temperature"),
        (lambda: Sampling(top_p=0.0), "sampling.top_p"),
        (lambda: BlockOptions(1), "block.length"),
        (lambda: BlockOptions(threshold=-0.1), "block.threshold"),
        (lambda: EngineSettings(device="tpu"), "engine.device"),
        (lambda: EngineSettings(dtype="int4"), "engine.dtype"),
        (lambda: EngineSettings(backend="numpy"), "engine.backend"),
        (lambda: EngineSettings(threads=0), "engine.threads"),
        (lambda: EngineSettings(cache_tokens=1), "engine.cache_tokens"),
    ],
)
def test_out_of_range_fields_are_named(build, named: str) -> None:
    with pytest.raises((RequestError, ConfigError), match=named) as error:
        build()
    assert error.value.param == named


def test_a_missing_folder_and_a_foreign_tokenizer_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        Engine.load(replace(SETTINGS, checkpoint=tmp_path / "nothing"))
    save_checkpoint(tmp_path, seeded_network())  # 97 entries, the tokenizer has more
    TOKENIZER.save(tmp_path)
    with pytest.raises(CheckpointError, match="vocab_size"):
        Engine.load(replace(SETTINGS, checkpoint=tmp_path))


def test_a_cache_that_does_not_fit_is_named(
    folder: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = numpy.zeros

    def refuse(*args: object, **kwargs: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    def refuse_pages(shape, *args, **kwargs) -> numpy.ndarray:
        if isinstance(shape, tuple) and len(shape) == 5:
            raise MemoryError("no room")
        return zeros(shape, *args, **kwargs)

    monkeypatch.setattr(torch, "zeros", refuse)
    monkeypatch.setattr(numpy, "zeros", refuse_pages)
    with pytest.raises(MemoryExhausted, match="cache_tokens"):
        Engine.load(settings_of(folder, backend))


# What computes a step, and the errors that it may raise.
EXHAUSTED: dict[str, tuple[str, tuple[Exception, ...]]] = {
    "torch": ("engine.model.runner.ModelRunner._forward", (torch.OutOfMemoryError("no room"),)),
    CAPTURED: (
        "engine.model.captured.steps.CapturedSteps.run",
        (torch.OutOfMemoryError("no room"),),
    ),
    "onnx": (
        "engine.model.onnx.model.OnnxModel._forward",
        (
            MemoryError("Unable to allocate 9 GiB"),
            RuntimeError("Failed to allocate memory for requested buffer of size 9"),
        ),
    ),
}


def test_running_out_of_memory_in_a_step_fails_that_request_alone(
    engine: Engine, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computes, errors = EXHAUSTED[backend]
    request = Request(prompt(engine), "block", Limits(4))
    for error in errors:

        def exhaust(*args: object, error: Exception = error) -> torch.Tensor:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(computes, exhaust)
            failed = events_of(engine, request)[-1]
            with pytest.raises(EngineFailure):
                engine.generate(request)
        assert isinstance(failed, Failed)
        assert failed.code == "out_of_memory"
        assert isinstance(events_of(engine, request)[-1], Finished)
        assert engine._cache.counts().in_use == 0
