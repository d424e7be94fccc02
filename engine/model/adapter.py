"""The drafter LoRA (`linear_spec_lora/`): a low-rank addition to o_proj for rows that draft.

It is read and written in PEFT's layout; see `adapter_weights`. A mask by row lets draft and verify
rows share a step, and reads far less memory than a second, merged o_proj would.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.model.adapter_weights import CONFIG, DOWN, FOLDER, TENSOR, UP, WEIGHTS, read_adapter
from engine.model.config import ModelConfig
from engine.model.network import Draft, Network, Product


class DrafterAdapter(nn.Module):
    """One pair of low-rank factors per layer: o_proj(x) gains alpha / rank * B A x.

    Attributes:
        down: A of each layer, (rank, heads * head_dim).
        up: B of each layer, (hidden, rank).
        alpha: the numerator of the scale, as PEFT defines it.
    """

    def __init__(self, config: ModelConfig, rank: int, alpha: float) -> None:
        super().__init__()
        width = config.heads * config.head_dim
        layers = range(config.layers)
        self.down = nn.ParameterList(nn.Parameter(torch.zeros(rank, width)) for _ in layers)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(config.hidden, rank)) for _ in layers)
        self.rank = rank
        self.alpha = alpha

    masks = 0  # those of the network's own are used

    def draft(self, rows: Tensor) -> Draft:
        """The adapter for some rows of a forward; (..., T, 1) in the weights' dtype, 1 or 0."""
        return lambda layer, product, x: self(layer, x, rows) if product == "o" else None

    def factors(self, layer: int, product: Product) -> tuple[Tensor, Tensor] | None:
        """A (rank, heads * head_dim) and the scaled B (hidden, rank); None for other products."""
        if product != "o":
            return None
        return self.down[layer], self.up[layer] * (self.alpha / self.rank)

    def embed(self, network: Network, tokens: Tensor) -> Tensor:
        """(..., T, hidden): this adapter's masks are tokens of the network's own."""
        return network.encoder.embed_tokens(tokens)

    def forward(self, layer: int, x: Tensor, rows: Tensor) -> Tensor:
        """The addition to o_proj's output.

        Args:
            x: (..., T, heads * head_dim), o_proj's input.
            rows: (..., T, 1) in x's dtype, 1 for rows that draft and 0 for others.

        Returns:
            (..., T, hidden).
        """
        # In training the factors are fp32 and the network is bf16; in the engine they agree.
        down, up = self.down[layer].to(x.dtype), self.up[layer].to(x.dtype)
        return x @ down.T @ up.T * (rows * (self.alpha / self.rank))


def load_adapter(
    checkpoint: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> DrafterAdapter | None:
    """Reads `checkpoint/linear_spec_lora`; returns None if the checkpoint has none.

    Raises:
        CheckpointError: the adapter is incomplete or of another kind.
    """
    weights = read_adapter(checkpoint, config)
    if weights is None:
        return None
    adapter = DrafterAdapter(config, weights.rank, weights.alpha)
    for parameters, factors in ((adapter.down, weights.down), (adapter.up, weights.up)):
        for parameter, factor in zip(parameters, factors, strict=True):
            parameter.data = torch.from_numpy(factor).to(device, dtype)
    return adapter.requires_grad_(False).eval()


def save_adapter(checkpoint: Path, adapter: DrafterAdapter) -> None:
    """Writes the adapter into `checkpoint/linear_spec_lora`, as `load_adapter` and PEFT read it."""
    folder = checkpoint / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in _named(adapter).items()
    }
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": ["o_proj"],
        "bias": "none",
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _named(adapter: DrafterAdapter) -> dict[str, nn.Parameter]:
    return {
        TENSOR.format(layer=layer, part=part): tensor
        for part, tensors in ((DOWN, adapter.down), (UP, adapter.up))
        for layer, tensor in enumerate(tensors)
    }
