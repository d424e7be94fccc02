"""llama.cpp as a child of the benchmark beside it: its own HTTP server, by way of xllamacpp.

All settings are defaults except the threads, the slots (one unless more are asked for) and no old
prompts in memory. It is ready when its /health is, and answers each line of JSON with another one.
It imports nothing of an engine, so that its memory and its start are its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.lab.bench.llamacpp.channel import Channel, ask

CONTEXT = 2048
INFILL_CONTEXT = 8192  # More than a prompt ever is, since `/infill` cuts it to a batch.


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers until its input ends; returns 0, or 1 with the error as its last line."""
    parser = argparse.ArgumentParser(prog="python -m engine.lab.bench.llamacpp.theirs")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--infill", action="store_true", help="serve editors, as llama.vim asks")
    parser.add_argument("--slots", type=int, default=1, help="requests at once")
    options = parser.parse_args(arguments)
    channel = Channel()
    try:
        server = _start(options.checkpoint, options.threads, options.infill, options.slots)
    except ImportError:
        channel.send({"error": "xllamacpp is not installed.", "remedy": "pip install xllamacpp"})
        return 1
    except Exception as error:  # the bindings raise anything for a file that they refuse
        channel.send(
            {
                "error": f"it refuses {options.checkpoint}: {str(error).rstrip('.')}.",
                "remedy": "Give a GGUF file of an architecture that llama.cpp knows.",
            }
        )
        return 1
    address = server.listening_address
    ask(f"{address}/health")
    channel.send({"address": address})
    for asked in channel:
        channel.send(_answer(address, asked))
    return 0


def _start(path: Path, threads: int, is_infilling: bool, slots: int) -> Any:
    """The server with its model loaded. Raises ImportError, or whatever the library raises.

    Args:
        is_infilling: whether it has the settings of llama-server's presets for infilling, such as
            `--fim-qwen-1.5b-default`, which llama.vim names.
        slots: the most requests that it works on at once, each with the whole context.
    """
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it may be missing, and has no types
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0  # any that is free
    parameters.n_ctx = CONTEXT
    if is_infilling:
        parameters.n_ctx = INFILL_CONTEXT
        parameters.n_batch = parameters.n_ubatch = 1024
        parameters.n_cache_reuse = 256
    parameters.n_ctx *= slots
    parameters.n_parallel = slots
    parameters.cache_ram_mib = 0
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.n_gpu_layers = 0
    parameters.verbosity = 0
    return xllamacpp.Server(parameters)


def _answer(address: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Decodes exactly as many tokens as asked for, greedily."""
    body = {
        "prompt": asked["prompt"],
        "n_predict": asked["tokens"],
        "temperature": 0.0,
        "samplers": ["top_k"],
        "top_k": 1,
        "cache_prompt": asked["may_reuse"],
        "ignore_eos": True,
    }
    timings = json.loads(ask(f"{address}/completion", body))["timings"]
    return {
        "prompt_seconds": timings["prompt_ms"] / 1000,
        "computed": timings["prompt_n"],
        "seconds": timings["predicted_ms"] / 1000,
        # Its clock starts after the first token, which comes with the prompt.
        "decided": timings["predicted_n"] - 1,
        "per_token_ms": timings["predicted_per_token_ms"],
    }


if __name__ == "__main__":
    sys.exit(main())
