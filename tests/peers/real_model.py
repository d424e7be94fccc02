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
    """The model of the product's store, if it was fetched.

    TO BE PLUGGED IN: `dlm_lsp.store`. It must look only at what is there, and fetch nothing.
    """
    return None


# Token ids → logits of each of them, (T, V) in fp32.
Logits = Callable[[Sequence[int]], np.ndarray]


def our_logits(path: Path) -> Logits:
    """The engine's network on the weights of a GGUF file.

    TO BE PLUGGED IN: whatever loads GGUF weights into `engine.model.network.Network`; then

        network = ...
        return lambda tokens: causal_logits(network, tuple(tokens)).numpy()

    with `tests.engine.seeded.causal_logits`.
    """
    pytest.skip(f"the engine does not read the weights of {path.suffix} files yet")
