"""Loads the checkpoint for an examination, as an engine would, and checks that it holds numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineSettings
from engine.errors import EngineError
from engine.lab.verify.contents import size
from engine.lab.verify.report import Check, Section, failed, passed
from engine.model.adapter import load_adapter
from engine.model.checkpoint import load_network
from engine.model.config import ModelConfig
from engine.model.network import Network
from engine.model.runner import ModelRunner
from engine.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that is ready to compute."""

    folder: Path
    tokenizer: Tokenizer
    model: ModelRunner
    device: torch.device
    dtype: torch.dtype

    @property
    def network(self) -> Network:
        return self.model.network

    @property
    def config(self) -> ModelConfig:
        return self.network.config


def load(
    settings: EngineSettings, config: ModelConfig, tokenizer: Tokenizer
) -> tuple[Section, Loaded | None]:
    """Reads the weights, as an engine would, and checks that all are finite numbers.

    Args:
        settings: resolved settings, without "auto".
    """
    title = "loading"
    folder = settings.checkpoint_path()
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    began = time.monotonic()
    try:
        network = load_network(folder, config, device=device, dtype=dtype)
        adapter = load_adapter(folder, config, device=device, dtype=dtype)
    except EngineError as error:
        return Section(title, (failed("weights", error),)), None
    seconds = time.monotonic() - began
    held = config.parameters() * dtype.itemsize
    found = f"{size(held)} in {settings.dtype} on {settings.device}, {seconds:.1f} s"
    checks = (passed("weights", found, seconds=seconds, bytes=held), _finite(network))
    model = ModelRunner(network, device=device, adapter=adapter)
    loaded = Loaded(folder, tokenizer, model, device, dtype)
    section = Section(title, checks)
    return section, loaded if section.is_ok else None


def _finite(network: Network) -> Check:
    broken = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if not broken:
        return passed("finite", f"all of {len(network.state_dict())} tensors")
    return Check(
        "finite",
        "failed",
        f"{len(broken)} tensors hold infinities or NaN: {broken[0]}.",
        "The file is damaged, or its numbers do not fit this dtype: try --dtype float32.",
        {"count": len(broken)},
    )
