"""The network's weights as captured steps read them, by layer.

Joint projections stand as one matrix. Nothing is copied but what a network that was not joined
keeps apart. A projection of another class than `nn.Linear`, such as one with quantised weights, is
called as it is. Knows neither steps nor the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.drafting import DraftHead
from engine.kernels.products import ROWS as SKINNY
from engine.kernels.skinny_gemm import skinny_gemm
from engine.model.config import ModelConfig
from engine.model.network import Joined, Layer, Network, Product, RMSNorm
from engine.model.runner import RowAdapter

Multiply = Callable[[Tensor], Tensor]
Joint = Callable[[], Joined]


@dataclass(frozen=True, slots=True)
class Linear:
    """A product of rows with a weight (out, in), and what an adapter adds in flagged rows.

    Attributes:
        multiply: (R, in) → (R, out), with the bias.
        lora: (rank, in) and (out, rank), scaled; None if nothing is added to this product.
    """

    multiply: Multiply
    lora: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer.

    Attributes:
        before_attention, before_mlp: (hidden,), the weights of the norms.
        query_norm, key_norm: (D,), for families that norm queries and keys by heads.
    """

    before_attention: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    before_mlp: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """What turns hidden states of draft rows into drafts; see `engine.drafting.DraftHead`.

    Attributes:
        head: (D, hidden), the output head's rows of the draft vocabulary; None if it is no
            `nn.Linear`.
        ids: (D,) int64, the draft vocabulary's tokens.
        place: (V,) int64, each token's row of `before`.
        before: (D + 2, m) fp32.
        after: (m, D) fp32.
    """

    head: Tensor | None
    ids: Tensor
    place: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All that a step computes with.

    Attributes:
        embed: token ids (R,) → (R, hidden); where rows run with the adapter, `embed_adapted`.
        frequencies: (D/2,) fp32, radians per position.
        norm: (hidden,), of the last norm.
        head: (V, hidden); or what computes the logits (N, V), if it is no `nn.Linear`.
        drafts: None without a mask adapter.
    """

    config: ModelConfig
    embed: Callable[[Tensor], Tensor]
    embed_adapted: Callable[[Tensor], Tensor]
    layers: tuple[LayerWeights, ...]
    frequencies: Tensor
    norm: Tensor
    head: Tensor | Multiply
    drafts: DraftWeights | None

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.dtype


def weights_of(network: Network, adapter: RowAdapter | None, drafts: DraftHead | None) -> Weights:
    """The weights of a network on its device."""
    head = network.diffusion_head
    embed = network.encoder.embed_tokens

    def embed_adapted(tokens: Tensor) -> Tensor:
        return embed(tokens) if adapter is None else adapter.embed(network, tokens)

    layers: list[LayerWeights] = []
    for number, layer in enumerate(network.encoder.layers):
        assert isinstance(layer, Layer)
        layers.append(_layer(layer, number, adapter))
    return Weights(
        config=network.config,
        embed=embed,
        embed_adapted=embed_adapted,
        layers=tuple(layers),
        frequencies=network.frequencies.to(network.encoder.norm.weight.device),
        norm=network.encoder.norm.weight.data,
        head=head.weight.data if type(head) is nn.Linear else head,
        drafts=None if drafts is None else _drafts(drafts, network),
    )


def dense(weight: Tensor, bias: Tensor | None) -> Multiply:
    """The product with a matrix (out, in) and a bias (out,).

    More rows than the skinny GEMM has in a tile would read the weights again: they go to the
    library's.
    """

    def multiply(x: Tensor) -> Tensor:
        if len(x) <= SKINNY[-1]:
            return skinny_gemm(x, weight, bias)
        out = x @ weight.T
        return out if bias is None else out + bias

    return multiply


def _layer(layer: Layer, number: int, adapter: RowAdapter | None) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    output, down = attention.o_proj, mlp.down_proj

    def linear(product: Product, parts: Sequence[nn.Module], joint: Joint) -> Linear:
        lora = None if adapter is None else adapter.factors(number, product)
        if lora is not None:
            lora = (lora[0].contiguous(), lora[1].contiguous())
        if all(type(part) is nn.Linear for part in parts):
            return Linear(dense(*joint()), lora)
        return Linear(lambda x: torch.cat([part(x) for part in parts], dim=-1), lora)

    query_norm, key_norm = (
        each.weight.data if isinstance(each, RMSNorm) else None
        for each in (attention.q_norm, attention.k_norm)
    )
    return LayerWeights(
        before_attention=layer.input_layernorm.weight.data,
        qkv=linear("qkv", (attention.q_proj, attention.k_proj, attention.v_proj), attention.joint),
        query_norm=query_norm,
        key_norm=key_norm,
        output=linear("o", (output,), lambda: (output.weight.data, None)),
        before_mlp=layer.post_attention_layernorm.weight.data,
        gate_up=linear("gate_up", (mlp.gate_proj, mlp.up_proj), mlp.joint),
        down=linear("down", (down,), lambda: (down.weight.data, None)),
    )


def _drafts(drafts: DraftHead, network: Network) -> DraftWeights:
    head, device = network.diffusion_head, network.encoder.norm.weight.device
    ids = torch.from_numpy(drafts.ids).to(device)
    vocabulary = network.config.vocabulary
    place = torch.full((vocabulary,), len(ids), dtype=torch.int64, device=device)
    place[ids] = torch.arange(len(ids), device=device)
    return DraftWeights(
        head=head.weight.data[ids].contiguous() if type(head) is nn.Linear else None,
        ids=ids,
        place=place,
        before=torch.from_numpy(drafts.before).to(device, torch.float32),
        after=torch.from_numpy(drafts.after).to(device, torch.float32),
    )
