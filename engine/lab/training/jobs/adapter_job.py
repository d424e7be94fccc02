"""The part that jobs over an adapter share: AdamW for its few parameters, with a state on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from engine.errors import CheckpointError
from engine.lab.training.recipe import rate_share
from engine.lab.training.run import Position, write_state
from engine.model.network import Network


class AdapterJob:
    """An adapter of a frozen network in training: what `run.Job` has but for its steps."""

    def __init__(self, network: Network, adapter: nn.Module, rate: float) -> None:
        """
        Args:
            adapter: a module with fp32 parameters.
            rate: the peak learning rate.
        """
        self.position = Position()
        self._network, self._rate = network, rate
        self._parameters = dict(adapter.named_parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.95), weight_decay=0.0
        )

    def save(self, path: Path) -> None:
        """Writes parameters, optimizer and position."""
        state = {
            "weights": {name: value.detach() for name, value in self._parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "position": asdict(self.position),
        }
        write_state(path, state)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            CheckpointError: The state belongs to other parameters.
        """
        state = torch.load(path, weights_only=True)
        weights = state["weights"]
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        if {name: tensor.shape for name, tensor in weights.items()} != shapes:
            raise CheckpointError(
                f"{path} belongs to another adapter.", remedy="Give another --out.", param=path.name
            )
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])

    def _update(self, share: float) -> float:
        """One optimizer step along the gradients, which are then cleared; the learning rate."""
        rate = self._rate * rate_share(self.position.step, share)
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return rate
