"""Writes a trained adapter as the engine reads it: PEFT's layout, matrices as int8."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.lab.training.mask_adapter.adapter import MaskAdapter
from engine.model.config import ModelConfig
from engine.model.mask_adapter import (
    AFTER,
    BEFORE,
    CONFIG,
    DIGEST,
    DRAFT_IDS,
    EXTRAS,
    MASKS,
    WEIGHTS,
    fingerprint,
    peft_name,
)
from engine.model.quantized import quantize, scale_name
from engine.model.weights import Weights


@dataclass(frozen=True, slots=True)
class Base:
    """The checkpoint that an adapter belongs to, by a name for people."""

    name: str
    config: ModelConfig
    weights: Weights


def export(adapter: MaskAdapter, base: Base, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` into the folder."""
    config, lowrank = base.config, adapter.lowrank
    matrices: dict[str, Tensor] = {BEFORE: adapter.before, AFTER: adapter.after.T}
    for key in lowrank.down:
        linear = "encoder.layers." + key.replace("/", ".")
        matrices[peft_name(config, linear, "A")] = lowrank.down[key]
        matrices[peft_name(config, linear, "B")] = lowrank.up[key]
    drafted = torch.zeros(1, config.vocabulary)
    drafted[0, adapter.draft_ids.cpu()] = 1.0
    matrices[DRAFT_IDS] = drafted
    tensors: dict[str, Tensor] = {MASKS: adapter.mask_vectors.detach().float().cpu()}
    for name, matrix in matrices.items():
        values, scale = quantize(name, matrix.detach().cpu())
        tensors[name], tensors[scale_name(name)] = values.contiguous(), scale
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    text = json.dumps(_config(adapter, base, digest), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _config(adapter: MaskAdapter, base: Base, digest: str) -> dict[str, object]:
    options = adapter.options
    linears = sorted({key.rsplit("/", 1)[-1] for key in adapter.lowrank.down})
    return {
        "peft_type": "LORA",
        "r": options.rank,
        "lora_alpha": options.alpha,
        "target_modules": linears,
        "bias": "none",
        "base_model_name_or_path": base.name,
        EXTRAS: {
            "base": {
                "name": base.name,
                "fingerprint": fingerprint(base.config, base.weights),
                "layers": base.config.layers,
                "hidden": base.config.hidden,
            },
            "shift": True,
            "masks": options.masks,
            "draft_vocabulary": len(adapter.draft_ids),
            "markov_rank": options.markov_rank,
            DIGEST: digest,
        },
    }
