"""llama.cpp, through xllamacpp: its HTTP server inside this process, on a port of its own.

`write_model` makes a GGUF file of a vocabulary with a network too small to say anything, since
llama.cpp's server loads no vocabulary alone.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp


class LlamaPeer:
    """One model in llama.cpp. Close it: its threads go on until then."""

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
    """Writes a GGUF file with this tokenizer and one layer of a seeded network, 32 wide."""
    vocabulary, hidden, inner, heads = len(metadata["tokenizer.ggml.tokens"]), 32, 64, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(1024)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocabulary)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (vocabulary, hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        **{f"blk.0.attn_{part}": (hidden, hidden) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_norm": (hidden,),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
