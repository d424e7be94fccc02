"""llama.cpp's `/infill`, asked as llama.vim asks it (its defaults of 2025).

The prompt is made of 256 lines above the cursor and 64 below, the text left of the cursor on its
line is the beginning of the middle, and a first answer ends with a line after 250 ms. There is no
further context from other files, as for this server. The answer is not streamed.
"""

from __future__ import annotations

import json
import time
from typing import Any

from dlm_lsp.evaluation.latency.answers import Theirs
from engine.lab.bench.llamacpp.channel import ask

PREFIX_LINES, SUFFIX_LINES = 256, 64
TOKENS_MAX = 128
PROMPT_MS_MAX, PREDICT_MS_MAX = 500, 250
LINE_AFTER_MAX = 8  # With more characters right of the cursor llama.vim does not ask by itself.


def infill(address: str, text: str, cursor: int, slot: int = 0) -> Theirs | None:
    """Asks for what stands at an offset; returns None where llama.vim would not ask.

    Raises: OSError if the server fails.
    """
    if len(text[cursor:].partition("\n")[0]) > LINE_AFTER_MAX:
        return None
    body = {**request_body(text, cursor), "id_slot": slot}
    began = time.perf_counter()
    answer = json.loads(ask(f"{address}/infill", body))
    final = round((time.perf_counter() - began) * 1000, 2)
    return Theirs(final, int(answer["timings/prompt_n"]), not str(answer["content"]).strip())


def request_body(text: str, cursor: int) -> dict[str, Any]:
    """Returns the body of a request as llama.vim makes it."""
    above, _, before = text[:cursor].rpartition("\n")
    after, _, below = text[cursor:].partition("\n")
    indent = len(before + after) - len((before + after).lstrip())
    if not (before + after).strip():  # A line of blanks begins anew.
        before, after, indent = "", "", 0
    lines_above = above.split("\n")[-PREFIX_LINES:]
    lines_below = below.split("\n")[:SUFFIX_LINES]
    return {
        "id_slot": 0,
        "input_prefix": "\n".join(lines_above) + "\n",
        "input_suffix": "\n".join((after, *lines_below)) + "\n",
        "input_extra": [],
        "prompt": before,
        "n_predict": TOKENS_MAX,
        "stop": [],
        "n_indent": indent,
        "top_k": 40,
        "top_p": 0.90,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": PROMPT_MS_MAX,
        "t_max_predict_ms": PREDICT_MS_MAX,
        "response_fields": [
            "content",
            "timings/prompt_n",
            "timings/prompt_ms",
            "timings/predicted_n",
            "timings/predicted_ms",
            "truncated",
            "tokens_cached",
        ],
    }
