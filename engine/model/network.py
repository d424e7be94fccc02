"""The Nemotron-Labs-Diffusion decoder: a Ministral-3 network whose head also fills masks.

Pre-RMSNorm, grouped-query attention, SwiGLU, no biases, YaRN rotary positions, Llama-4 query scale,
untied `diffusion_head`. Module names are the checkpoint's tensor names. The network knows neither
what a row may see nor the cache: the caller passes `attend`, which the engine builds from a step
and a cache, and training from a packed batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.config import ModelConfig
from engine.model.rotary import rotary_frequencies

Joined = tuple[Tensor, Tensor | None]  # stacked weights and biases of several projections


class Attend(Protocol):
    """Attention over the keys that the caller makes visible."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (..., T, H, D), key and value (..., T, Hkv, D), rotated → (..., T, H, D)."""
        ...


# The products of a layer, by what they compute: q_proj, k_proj and v_proj below each other; o_proj;
# gate_proj and up_proj below each other; down_proj.
Product = Literal["qkv", "o", "gate_up", "down"]


class Draft(Protocol):
    """What an adapter adds to the products of rows that draft."""

    def __call__(self, layer: int, product: Product, x: Tensor, /) -> Tensor | None:
        """(..., T, in), a product's input → (..., T, out), or None if nothing is added to it."""
        ...


class Rotation:
    """cos, sin (..., T, 1, D) and the query scale (..., T, 1, 1) or None for some positions."""

    def __init__(self, cos: Tensor, sin: Tensor, query_scale: Tensor | None) -> None:
        self.cos = cos
        self.sin = sin
        self.query_scale = query_scale

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate-half (NeoX) rotary embedding of (..., T, H, D)."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


class RMSNorm(nn.Module):
    """y = w * x * rsqrt(mean(x^2) + eps), in fp32 and rounded before the weight, as in Llama."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x_fp32 = x.float()
        normed = x_fp32 * torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; `attend` decides what is visible."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        has_bias = config.family.qkv_bias
        self.q_proj = nn.Linear(config.hidden, width, bias=has_bias)
        self.k_proj = nn.Linear(config.hidden, kv_width, bias=has_bias)
        self.v_proj = nn.Linear(config.hidden, kv_width, bias=has_bias)
        self.o_proj = nn.Linear(width, config.hidden, bias=False)
        self._joined: Joined | None = None
        normed = config.family.qk_norm
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend, draft: Draft | None) -> Tensor:
        query, key, value = self._project(x, draft)
        query = rotation.rotate(self.q_norm(query))
        key = rotation.rotate(self.k_norm(key))
        if rotation.query_scale is not None:
            query = query * rotation.query_scale
        mixed = attend(self.layer, query, key, value).flatten(-2)
        return _with_draft(self.o_proj(mixed), draft, self.layer, "o", mixed)

    def join(self) -> None:
        """Computes one product instead of three; see `Network.join`."""
        self._joined = _joined((self.q_proj, self.k_proj, self.v_proj))

    def joint(self) -> Joined:
        """The weights and biases of query, key and value below each other: the joined ones, or
        copies."""
        return self._joined or _stacked((self.q_proj, self.k_proj, self.v_proj))

    def _project(self, x: Tensor, draft: Draft | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query (..., T, H, D), key and value (..., T, Hkv, D), before rotation."""
        if self._joined is None:
            whole = torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), dim=-1)
        else:
            whole = functional.linear(x, *self._joined)
        counts = (self.heads, self.kv_heads, self.kv_heads)
        parts = _with_draft(whole, draft, self.layer, "qkv", x).split(
            [count * self.head_dim for count in counts], dim=-1
        )
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        return query, key, value


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.gate_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.down_proj = nn.Linear(config.intermediate, config.hidden, bias=False)
        self._joined: Joined | None = None

    def forward(self, x: Tensor, draft: Draft | None) -> Tensor:
        if self._joined is None:
            whole = torch.cat((self.gate_proj(x), self.up_proj(x)), dim=-1)
        else:
            whole = functional.linear(x, *self._joined)
        gate, up = _with_draft(whole, draft, self.layer, "gate_up", x).chunk(2, dim=-1)
        product = functional.silu(gate) * up
        return _with_draft(self.down_proj(product), draft, self.layer, "down", product)

    def join(self) -> None:
        """Computes one product instead of two; see `Network.join`."""
        self._joined = _joined((self.gate_proj, self.up_proj))

    def joint(self) -> Joined:
        """The weights of gate and up below each other: the joined ones, or copies."""
        return self._joined or _stacked((self.gate_proj, self.up_proj))


class Layer(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = MLP(config, layer)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend, draft: Draft | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend, draft)
        return x + self.mlp(self.post_attention_layernorm(x), draft)


class Encoder(nn.Module):
    """Embedding, layers and final norm, under the name that checkpoints use."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # An embedding that is given its weight draws none. Drawing one on the meta device would
        # import torch's compiler, which takes a second at every start.
        weight = torch.empty(config.vocabulary, config.hidden)
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden, _weight=weight)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)


class Network(nn.Module):
    """The whole decoder. `state_dict()` has exactly the checkpoint's tensor names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.diffusion_head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        if config.tied_head:
            self.diffusion_head.weight = self.encoder.embed_tokens.weight
        # Always fp32, and not in the state dict, since the config determines them.
        self.frequencies = torch.from_numpy(rotary_frequencies(config.rope, config.head_dim))

    def forward(
        self, tokens: Tensor, positions: Tensor, attend: Attend, draft: Draft | None = None
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: (..., T) int64.
            positions: (..., T) int64.
            draft: an adapter that some rows run with, if any.

        Returns:
            (..., T, hidden) in the weights' dtype.
        """
        return self.from_embeddings(self.encoder.embed_tokens(tokens), positions, attend, draft)

    def from_embeddings(
        self, x: Tensor, positions: Tensor, attend: Attend, draft: Draft | None = None
    ) -> Tensor:
        """As `forward`, of rows whose embeddings (..., T, hidden) the caller has looked up, such as
        masks that have vectors of their own."""
        rotation = self._rotation(positions, x.dtype)
        for layer in self.encoder.layers:
            x = layer(x, rotation, attend, draft)
        return self.encoder.norm(x)

    def join(self) -> None:
        """Joins projections of the same input into one product, for decoding: the cost of a step
        with few rows depends on the number of products.

        The weights keep their names and become views of the joined ones. They must not be moved or
        trained afterwards.
        """
        for layer in self.encoder.layers:
            assert isinstance(layer, Layer)
            layer.self_attn.join()
            layer.mlp.join()

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., hidden) → (..., V) in the weights' dtype. Row i fills place i if token i is a
        mask, and predicts place i + 1 if row i is causal."""
        return self.diffusion_head(hidden)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        rope = self.config.rope
        if self.frequencies.device != positions.device:
            self.frequencies = self.frequencies.to(positions.device)
        angles = positions[..., None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)[..., None, :]
        scale = None
        if rope.query_scale_beta and int(positions.max()) >= rope.original_positions:
            steps = torch.floor(positions / rope.original_positions)
            scale = (1 + rope.query_scale_beta * torch.log1p(steps))[..., None, None].to(dtype)
        factor = rope.attention_factor
        return Rotation((angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype), scale)


def _with_draft(
    out: Tensor, draft: Draft | None, layer: int, product: Product, x: Tensor
) -> Tensor:
    """A product's result (..., T, out) with what an adapter adds for the input x (..., T, in)."""
    added = None if draft is None else draft(layer, product, x)
    return out if added is None else out + added


def _joined(parts: Sequence[nn.Linear]) -> Joined:
    """The projections stacked into one, of which they become views."""
    weight, bias = _stacked(parts)
    low = 0
    for part in parts:
        high = low + part.out_features
        part.weight.data = weight[low:high]
        if bias is not None:
            part.bias.data = bias[low:high]
        low = high
    return weight, bias


def _stacked(parts: Sequence[nn.Linear]) -> Joined:
    weight = torch.cat([part.weight.data for part in parts])
    biases = [part.bias.data for part in parts if part.bias is not None]
    return weight, torch.cat(biases) if biases else None
