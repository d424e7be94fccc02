"""Where a real model for the peer tests comes from, if there is one.

A file of hundreds of megabytes is no part of the repository: `DLM_TEST_GGUF` names one, or the
product's own store has it. Without either the tests that need it are skipped by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dlm_lsp.store.catalogue import CATALOGUE
from dlm_lsp.store.folder import Store
from engine.model.checkpoint import build_network
from engine.model.source import open_checkpoint
from tests.engine.seeded import CPU, causal_logits

VARIABLE = "DLM_TEST_GGUF"


def real_model() -> Path:
    """A GGUF file of Qwen2.5-Coder; skips the test that asks where there is none.

    An environment variable that names no file is a mistake, and fails.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        assert path.is_file(), f"{VARIABLE} names {named}, which is no file"
        return path
    stored = stored_model()
    if stored is None:
        pytest.skip(f"no real model: {VARIABLE} names none, and the model store has none")
    return stored


def stored_model() -> Path | None:
    """The smallest Qwen2.5-Coder of the product's store that is a GGUF file; fetches nothing."""
    store = Store()
    kept = [store.find(entry) for entry in CATALOGUE if "qwen2.5-coder" in entry.name]
    files = [model for model in kept if model is not None and model.path.suffix == ".gguf"]
    return min(files, key=lambda model: model.bytes).path if files else None


# Token ids → logits of each of them, (T, V) in fp32.
Logits = Callable[[Sequence[int]], np.ndarray]


def our_logits(path: Path) -> Logits:
    """The engine's network on the weights of a GGUF file, multiplied out to fp32."""
    source = open_checkpoint(path)
    network = build_network(source.weights, source.config, device=CPU, dtype=torch.float32)

    def logits(tokens: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            return causal_logits(network, tuple(tokens)).numpy()

    return logits
