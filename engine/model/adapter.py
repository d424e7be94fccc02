"""The drafter LoRA (`linear_spec_lora/`): a low-rank addition to o_proj for rows that draft.

Read and written in PEFT's layout (https://github.com/huggingface/peft): `adapter_config.json` with
`r`, `lora_alpha` and `target_modules`, tensors named
`base_model.model.encoder.layers.{i}.self_attn.o_proj.lora_{A,B}.weight`. Masked by row, so that
draft and verify rows share a step; that reads far less than a second, merged o_proj would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.model.checkpoint import read_tensors
from engine.model.config import ModelConfig

FOLDER = "linear_spec_lora"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{part}.weight"


class DrafterAdapter(nn.Module):
    """One pair of low-rank factors per layer: o_proj(x) gains scale * B A x.

    Attributes:
        down: per layer A (r, heads * head_dim).
        up: per layer B (hidden, r).
        alpha: scale = alpha / r, as PEFT defines it.
    """

    def __init__(self, config: ModelConfig, rank: int, alpha: float) -> None:
        super().__init__()
        width = config.heads * config.head_dim
        layers = range(config.layers)
        self.down = nn.ParameterList(nn.Parameter(torch.zeros(rank, width)) for _ in layers)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(config.hidden, rank)) for _ in layers)
        self.rank = rank
        self.alpha = alpha

    def forward(self, layer: int, x: Tensor, rows: Tensor) -> Tensor:
        """The addition to o_proj's output.

        Args:
            x: (..., T, heads * head_dim), o_proj's input.
            rows: (..., T, 1) in x's dtype: 1 for rows that draft, else 0.

        Returns:
            (..., T, hidden).
        """
        # In training the factors are fp32 beside a network in bf16; in the engine this is nothing.
        down, up = self.down[layer].to(x.dtype), self.up[layer].to(x.dtype)
        return x @ down.T @ up.T * (rows * (self.alpha / self.rank))


def load_adapter(
    checkpoint: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> DrafterAdapter | None:
    """Reads `checkpoint/linear_spec_lora`, or returns None where a checkpoint has none.

    Raises:
        CheckpointError: it is there, but incomplete or of another kind.
    """
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return None
    rank, alpha = _read_config(folder / _CONFIG)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {_WEIGHTS}.", remedy="Copy the adapter again.", param=_WEIGHTS
        )
    adapter = DrafterAdapter(config, rank, alpha)
    expected = {name: tuple(tensor.shape) for name, tensor in _named(adapter).items()}
    tensors = read_tensors([path], expected, device, dtype)
    for name, tensor in _named(adapter).items():
        tensor.data = tensors[name]
    return adapter.requires_grad_(False).eval()


def save_adapter(checkpoint: Path, adapter: DrafterAdapter) -> None:
    """Writes the adapter into `checkpoint/linear_spec_lora`, as `load_adapter` and PEFT read it."""
    folder = checkpoint / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in _named(adapter).items()
    }
    save_file(tensors, str(folder / _WEIGHTS), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": ["o_proj"],
        "bias": "none",
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _named(adapter: DrafterAdapter) -> dict[str, nn.Parameter]:
    return {
        _NAME.format(layer=layer, part=part): tensor
        for part, tensors in (("A", adapter.down), ("B", adapter.up))
        for layer, tensor in enumerate(tensors)
    }


def _read_config(path: Path) -> tuple[int, float]:
    """(r, alpha) of an o_proj-only LoRA."""

    def refuse(what: str, key: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: {what}.",
            remedy="Use a LoRA on o_proj alone, or remove the folder.",
            param=key,
        )

    try:
        raw: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {error}", _CONFIG) from None
    if not isinstance(raw, dict):
        raise refuse("is not a JSON object", _CONFIG)
    rank, alpha, targets = raw.get("r"), raw.get("lora_alpha"), raw.get("target_modules")
    if not isinstance(rank, int) or rank < 1:
        raise refuse(f"r is {rank!r}", "r")
    if not isinstance(alpha, int | float):
        raise refuse(f"lora_alpha is {alpha!r}", "lora_alpha")
    names = [targets] if isinstance(targets, str) else targets
    if names != ["o_proj"]:
        raise refuse(f"target_modules is {targets!r}", "target_modules")
    return rank, float(alpha)
