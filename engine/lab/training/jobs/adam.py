"""AdamW for the few parameters of an adapter, with a state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.lab.training.run import Position


class Adam:
    """AdamW over a few fp32 parameters, with the clipping and the state that a job needs."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.95), weight_decay=0.0
        )

    def update(self, rate: float) -> None:
        """One step along the gradients, which are then gone."""
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def save(self, path: Path, position: Position) -> None:
        """Writes parameters, optimizer and position, by rename."""
        weights: dict[str, Tensor] = {k: p.detach() for k, p in self._parameters.items()}
        state = {
            "weights": weights,
            "optimizer": self._optimizer.state_dict(),
            "position": asdict(position),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> Position:
        """Takes up what `save` wrote.

        Raises:
            CheckpointError: the state is of other parameters.
        """
        state = torch.load(path, weights_only=True)
        weights = state["weights"]
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        if {name: tensor.shape for name, tensor in weights.items()} != shapes:
            raise CheckpointError(
                f"{path} is of another adapter.", remedy="Give another --out.", param=path.name
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])
        self._optimizer.load_state_dict(state["optimizer"])
        return Position(**state["position"])
