"""The tokenizer of a GGUF file, from its metadata. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import CheckpointError
from engine.model.tokenizer import Tokenizer


def tokenizer_from_gguf(metadata: Mapping[str, object], source: str) -> Tokenizer:
    """
    Args:
        metadata: the file's keys.
        source: the file, for messages.

    Raises:
        CheckpointError: always, so far.
    """
    raise CheckpointError(
        f"{source}: the tokenizer of a GGUF file is not read yet.",
        remedy="Use the checkpoint's folder.",
        param="tokenizer.ggml.model",
    )
