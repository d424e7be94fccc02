"""llama.cpp, through xllamacpp: its HTTP server inside this process, on a port of its own.

`write_model` writes a GGUF file of a vocabulary with a small seeded network, because the server of
llama.cpp cannot load a vocabulary without a network.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from tests.engine.gguf_files import arrays_of, keys_of, seeded_peer, write_gguf


class LlamaPeer:
    """One model in llama.cpp, whose threads run until it is closed."""

    def __init__(self, path: Path, *, threads: int = 1, context: int = 1024) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0  # any that is free
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_gpu_layers = 0
        parameters.warmup = False
        parameters.verbosity = 0
        self._server: xllamacpp.Server | None = xllamacpp.Server(parameters)

    def close(self) -> None:
        """Ends the server and frees the model."""
        self._server = None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of one of the server's JSON endpoints."""
        assert self._server is not None
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        """Ids of text: no token in front, names of markers read as text."""
        body = {"content": text, "add_special": False, "parse_special": False}
        return self.post("/tokenize", body)["tokens"]

    def greedy(self, prompt: Sequence[int], tokens_max: int) -> list[int]:
        """The likeliest continuation, token by token; ends early only at the model's own end."""
        body = {
            "prompt": list(prompt),
            "n_predict": tokens_max,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
        }
        return self.post("/completion", body)["tokens"]


def write_model(path: Path, metadata: dict[str, Any]) -> None:
    """Writes a GGUF file with this tokenizer and a small seeded network."""
    peer = seeded_peer("llama", vocab_size=len(metadata["tokenizer.ggml.tokens"]))
    keys = {**keys_of(peer, "llama"), **metadata}
    write_gguf(path, "llama", arrays_of(peer, "llama"), keys)
