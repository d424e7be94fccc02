"""The network's activations at every depth, and how far they are from another implementation's.

A trace is one causal pass over a text without a cache: embeddings, each layer's output, final norm,
logits. One rule holds in every dtype: our error against a wider reference may be at most twice that
of the other implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.network import Network

# (T, width) fp32 by name, in the order of depth.
Trace = Mapping[str, Tensor]
ERROR_RATIO_MAX = 2.0
# Relative to the reference. fp32 has no wider one here: the reference is the other implementation.
ERROR_FLOORS = {torch.float32: 5e-5, torch.bfloat16: 1e-3}


@dataclass(frozen=True, slots=True)
class Error:
    """How far one activation is from the reference, relative to the reference's size.

    Attributes:
        ours, theirs: the root mean square of a token's difference over that of its reference, at
            the worst token.
        limit: the largest `ours` that is allowed.
        largest, mean: absolute differences of ours from theirs.
    """

    name: str
    ours: float
    theirs: float
    limit: float
    largest: float
    mean: float

    @property
    def is_ok(self) -> bool:
        """Whether the error is within its limit; NaN is not."""
        return self.ours <= self.limit


def trace(network: Network, tokens: Sequence[int]) -> Trace:
    """Activations of one causal pass over `tokens` at positions 0 and up."""
    encoder = network.encoder
    device = encoder.norm.weight.device
    ids = torch.tensor(tokens, dtype=torch.int64, device=device)
    positions = torch.arange(len(tokens), device=device)
    modules = layout(encoder.embed_tokens, encoder.layers, encoder.norm, network.diffusion_head)

    def run() -> None:
        network.logits(network(ids, positions, causal_attention))

    return capture(modules, run)


def layout(
    embeddings: nn.Module, layers: nn.ModuleList, norm: nn.Module, head: nn.Module
) -> dict[str, nn.Module]:
    """The modules whose outputs make a trace, by the names that both implementations share."""
    named = {f"layer {index}": layer for index, layer in enumerate(layers)}
    return {"embeddings": embeddings, **named, "final norm": norm, "logits": head}


@torch.inference_mode()
def capture(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> Trace:
    """The outputs of the modules during one `run`, in fp32, without a batch dimension."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            tensor = output if isinstance(output, Tensor) else output[0]
            seen[name] = tensor.float().reshape(-1, tensor.shape[-1])

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in modules}


def causal_attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`Attend` of a plain causal pass: (T, H, D), (T, Hkv, D) twice → (T, H, D)."""
    del layer
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mixed = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    return mixed.transpose(0, 1)


def compare(ours: Trace, theirs: Trace, reference: Trace, dtype: torch.dtype) -> list[Error]:
    """The errors in the order of depth; `dtype` is that of the weights of `ours` and `theirs`."""
    errors = []
    for name, wanted in reference.items():
        mine, other = ours[name], theirs[name]
        error = _relative(other, wanted)
        difference = (mine - other).abs()
        errors.append(
            Error(
                name=name,
                ours=_relative(mine, wanted),
                theirs=error,
                limit=max(ERROR_RATIO_MAX * error, ERROR_FLOORS[dtype]),
                largest=float(difference.max()),
                mean=float(difference.mean()),
            )
        )
    return errors


def _relative(values: Tensor, reference: Tensor) -> float:
    """The error of the worst row: a mistake at one position must not vanish in a mean."""
    error = (values - reference).square().mean(-1).sqrt()
    return float((error / reference.square().mean(-1).sqrt().clamp_min(1e-30)).max())


def same_top(ours: Tensor, theirs: Tensor) -> float:
    """The share of rows (T, V) whose largest logit is the same token's."""
    return float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
