"""Low-rank additions to a frozen network, trained in fp32: to all linears, and for new tokens.

y = W x + (alpha / r) B A x, as PEFT defines it (Hu et al., arXiv 2106.09685). New tokens get rows
of their own in the embedding and the output head, so that the tables themselves stay frozen. The
result is merged into the weights, so that the engine runs it as any checkpoint. (The drafter, which
is switched on row by row, stays an adapter: `engine.model.adapter`.)
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.network import Network

_SEED = 1


class LowRank(nn.Module):
    """The additions for one network.

    Attributes:
        down, up: A (r, in) and B (out, r) of each linear in fp32, by its name with dots as slashes.
        rows, head_rows: (K, hidden) fp32, added to the rows of K new tokens in embedding and head;
            the same parameter if the head is tied.
    """

    def __init__(self, network: Network, rank: int, alpha: float, tokens: Sequence[int]) -> None:
        super().__init__()
        config = network.config
        device = network.encoder.embed_tokens.weight.device
        self.rank, self.alpha = rank, alpha
        draw = torch.Generator().manual_seed(_SEED)  # a resumed run starts from the same values
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, linear in linears(network).items():
            down = torch.empty(rank, linear.in_features)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=draw)
            self.down[_key(name)] = nn.Parameter(down.to(device))
            up = torch.zeros(linear.out_features, rank, device=device)
            self.up[_key(name)] = nn.Parameter(up)
        self.tokens = tuple(tokens)
        self.rows = nn.Parameter(torch.zeros(len(tokens), config.hidden, device=device))
        if config.tied_head:
            self.head_rows = self.rows
        else:
            self.head_rows = nn.Parameter(torch.zeros(len(tokens), config.hidden, device=device))

    @contextmanager
    def attached(self, network: Network) -> Generator[None]:
        """Inside this context the network computes with the additions."""
        handles = [
            linear.register_forward_hook(self._linear_hook(_key(name)))
            for name, linear in linears(network).items()
        ]
        if self.tokens:
            # The index of each token's row; a last row of zeros stands for all other tokens.
            size, device = network.config.vocabulary, self.rows.device
            place = torch.full((size,), len(self.tokens), dtype=torch.int64, device=device)
            ids = torch.tensor(self.tokens, dtype=torch.int64, device=device)
            place[ids] = torch.arange(len(self.tokens), device=device)
            embedding = network.encoder.embed_tokens
            handles.append(embedding.register_forward_hook(self._embedding_hook(place)))
            handles.append(network.diffusion_head.register_forward_hook(self._head_hook(ids)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def merge(self, network: Network) -> None:
        """Adds everything to the network's weights permanently."""
        for name, linear in linears(network).items():
            added = self.up[_key(name)] @ self.down[_key(name)] * (self.alpha / self.rank)
            _add(linear.weight, added)
        if self.tokens:
            ids = list(self.tokens)
            embedding, head = network.encoder.embed_tokens.weight, network.diffusion_head.weight
            embedding[ids] = (embedding[ids].float() + self.rows).to(embedding.dtype)
            if head is not embedding:
                head[ids] = (head[ids].float() + self.head_rows).to(head.dtype)

    def _linear_hook(self, key: str) -> Any:
        def add(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            del module
            x = arguments[0]
            low = functional.linear(x, self.down[key].to(x.dtype))
            high = functional.linear(low, self.up[key].to(x.dtype))
            return output + high * (self.alpha / self.rank)

        return add

    def _embedding_hook(self, place: Tensor) -> Any:
        def add(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            del module
            rows = functional.pad(self.rows, (0, 0, 0, 1)).to(output.dtype)
            return output + rows[place[arguments[0]]]

        return add

    def _head_hook(self, ids: Tensor) -> Any:
        def add(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            del module
            x = arguments[0]
            return output.index_add(-1, ids, functional.linear(x, self.head_rows.to(x.dtype)))

        return add


def linears(network: Network) -> dict[str, nn.Linear]:
    """Every linear of the layers by its name, without the head."""
    return {
        name: module
        for name, module in network.encoder.layers.named_modules()
        if isinstance(module, nn.Linear)
    }


def parameters_at(network: Network, rank: int) -> int:
    """The number of parameters of a LoRA on all linears, without the rows of new tokens."""
    return sum(rank * (each.in_features + each.out_features) for each in linears(network).values())


def _add(weight: Tensor, added: Tensor) -> None:
    weight.copy_((weight.float() + added).to(weight.dtype))


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict's keys hold no dot
