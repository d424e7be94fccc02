"""This engine as a child of the benchmark beside llama.cpp, which answers lines of JSON. No torch.

It is ready when its step times are measured; from then on it sleeps until it is asked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.api import Limits, Request
from engine.auto.step_times import TimesFile
from engine.config import EngineSettings
from engine.device import resolve
from engine.engine import Engine
from engine.errors import EngineError
from engine.lab.bench.asking import AutoMode, run_request, wait_for_curve
from engine.lab.bench.llamacpp.channel import Channel
from engine.model.onnx.probe import probe


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers until its input ends; returns 0, or 1 with the error as its last line."""
    parser = argparse.ArgumentParser(prog="python -m engine.lab.bench.llamacpp.ours")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--graphs", type=Path, required=True)
    options = parser.parse_args(arguments)
    channel = Channel()
    settings = EngineSettings(
        options.checkpoint,
        device="cpu",
        backend="onnx",
        threads=options.threads,
        graphs=options.graphs,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = TimesFile(Path(folder) / "times.json", "bench", "bench")
            engine = Engine.load(settings, file)
            try:
                _serve(engine, channel, resolve(settings))
            finally:
                engine.close()
    except EngineError as error:
        channel.send({"error": str(error)})
        return 1
    return 0


def _serve(engine: Engine, channel: Channel, settings: EngineSettings) -> None:
    times = wait_for_curve(engine)
    auto = AutoMode(engine, times)
    products = probe(settings.threads or 1, settings.graphs).products
    channel.send(
        {
            "dtype": engine.info.dtype,
            "steps": {"rows": times.rows, "milliseconds": times.milliseconds},
            "context": times.context,
            "products": [asdict(product) for product in products],
        }
    )
    for asked in channel:
        channel.send(_answer(engine, auto, asked))


def _answer(engine: Engine, auto: AutoMode, asked: dict[str, Any]) -> dict[str, Any]:
    """Decodes exactly as many tokens as asked for, or up to the end of a middle."""
    ends: tuple[int, ...] = engine.end_ids if asked["may_end"] else ()
    infill = engine.tokenizer.infill
    if asked["may_end"] and infill is not None:
        ends = (*infill.end_ids, *ends)
    request = Request(
        prompt=tuple(asked["prompt"]),
        mode="ar",
        limits=Limits(tokens_max=asked["tokens"]),
        stop_token_ids=ends,
    )
    timed = auto(request) if asked["mode"] == "auto" else run_request(engine, request)
    return {
        "prompt_seconds": timed.prefill_seconds,
        "cached": timed.cached,
        "seconds": timed.seconds,
        "decided": timed.decided,
        "forwards": timed.forwards,
        "mode": timed.mode,
    }


if __name__ == "__main__":
    sys.exit(main())
