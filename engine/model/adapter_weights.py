"""The factors of the drafter LoRA (`linear_spec_lora/`) as arrays, read in PEFT's layout.

That layout (https://github.com/huggingface/peft) is `adapter_config.json` with `r`, `lora_alpha`
and `target_modules`, and tensors by PEFT's names. Torch-free.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.model.config import ModelConfig
from engine.model.safetensors_file import SafetensorsWeights
from engine.model.weights import Float32

FOLDER = "linear_spec_lora"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = "base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{part}.weight"
DOWN, UP = "A", "B"  # as PEFT calls the parts


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """One pair of low-rank factors per layer: o_proj(x) gains alpha / rank * up down x.

    Attributes:
        down: for each layer, (rank, heads * head_dim) float32.
        up: for each layer, (hidden, rank) float32.
    """

    rank: int
    alpha: float
    down: tuple[Float32, ...]
    up: tuple[Float32, ...]


def read_adapter(checkpoint: Path, config: ModelConfig) -> AdapterWeights | None:
    """Reads `checkpoint/linear_spec_lora`; returns None if there is none, as for a GGUF file.

    Raises:
        CheckpointError: the adapter is incomplete or of another kind.
    """
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return None
    rank, alpha = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}.", remedy="Copy the adapter again.", param=WEIGHTS
        )
    shapes = {DOWN: (rank, config.heads * config.head_dim), UP: (config.hidden, rank)}
    layers = range(config.layers)
    expected = {
        TENSOR.format(layer=layer, part=part): shape
        for part, shape in shapes.items()
        for layer in layers
    }
    weights = SafetensorsWeights([path], expected)
    down, up = (
        tuple(weights.read(TENSOR.format(layer=layer, part=part)) for layer in layers)
        for part in (DOWN, UP)
    )
    return AdapterWeights(rank, alpha, down, up)


def _read_config(path: Path) -> tuple[int, float]:
    """(r, alpha) of a LoRA on o_proj only."""

    def refuse(what: str, key: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: {what}.",
            remedy="Use a LoRA on o_proj alone, or remove the folder.",
            param=key,
        )

    try:
        raw: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {error}", CONFIG) from None
    if not isinstance(raw, dict):
        raise refuse("is not a JSON object", CONFIG)
    rank, alpha, targets = raw.get("r"), raw.get("lora_alpha"), raw.get("target_modules")
    if not isinstance(rank, int) or rank < 1:
        raise refuse(f"r is {rank!r}", "r")
    if not isinstance(alpha, int | float):
        raise refuse(f"lora_alpha is {alpha!r}", "lora_alpha")
    names = [targets] if isinstance(targets, str) else targets
    if names != ["o_proj"]:
        raise refuse(f"target_modules is {targets!r}", "target_modules")
    return rank, float(alpha)
