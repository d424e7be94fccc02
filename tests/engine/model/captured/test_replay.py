"""The order of a capture, with a stand-in for the card: what is really captured only a card shows
(`test_on_card.py`). Torch's own signatures are asked whether they take what is passed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from engine.model.captured.replay import Capture, Replay


class Card:
    """Records what happens, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        card, graph_arguments = self, inspect.signature(torch.cuda.graph)

        class Stream:
            def __init__(self, name: object) -> None:
                self.name = "current" if name == "current" else "side"

            def wait_stream(self, other: Stream) -> None:
                card.events.append(f"{self.name} waits for {other.name}")

            def synchronize(self) -> None:
                card.events.append(f"host waits for {self.name}")

        class Graph:
            def replay(self) -> None:
                card.events.append("replay")

        @contextmanager
        def on_stream(stream: Stream) -> Iterator[None]:
            card.events.append(f"on {stream.name}")
            yield

        @contextmanager
        def capturing(*arguments: object, **options: object) -> Iterator[None]:
            bound = graph_arguments.bind(*arguments, **options).arguments
            assert bound["capture_error_mode"] == "thread_local"
            card.events.append(f"capture into {bound['pool']} on {bound['stream'].name}")
            yield
            card.events.append("captured")

        for name, value in {
            "Stream": Stream,
            "current_stream": lambda device: Stream("current"),
            "graph_pool_handle": lambda: "the pool",
            "CUDAGraph": Graph,
            "stream": on_stream,
            "graph": capturing,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def run(self) -> None:
        self.events.append("function")


def test_a_function_warms_up_on_its_stream_is_captured_once_and_then_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card(monkeypatch)
    capture = Capture(torch.device("cuda"))
    replay = Replay(card.run, capture)
    replay()
    assert card.events == [
        "side waits for current",
        "on side",
        "function",
        "function",
        "host waits for side",
        "capture into the pool on side",
        "function",
        "captured",
        "current waits for side",
        "replay",
    ]
    card.events.clear()
    replay.prepare()
    replay()
    assert card.events == ["replay"]
    other = Replay(card.run, capture)
    other.prepare()
    assert "capture into the pool on side" in card.events
    assert "replay" not in card.events[1:]


def test_on_a_processor_a_function_is_called() -> None:
    calls: list[int] = []
    replay = Replay(lambda: calls.append(1), None)
    replay.prepare()
    assert not calls
    replay()
    replay()
    assert calls == [1, 1]
    assert replay.graph is None
