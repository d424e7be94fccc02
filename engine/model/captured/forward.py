"""The function of a bucket: from the integers of a step to hidden states and records.

It reads and writes fixed buffers only, and no shape and no branch depends on what stands in them,
so that it can be captured. Its operations are those of `engine.kernels`, which choose between
Triton and torch. It means what `engine.model.network` means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.rms_norm import rms_norm
from engine.kernels.rotary_write import rotary_write
from engine.kernels.row_attention import row_attention
from engine.kernels.row_lora import row_lora
from engine.kernels.swiglu import swiglu
from engine.kernels.tile_attention import tile_attention
from engine.kernels.tile_plan import TilePlan
from engine.model.captured.buckets import Bucket
from engine.model.captured.inputs import Inputs, TileInputs
from engine.model.captured.records import records_of
from engine.model.captured.weights import LayerWeights, Linear, Weights


@dataclass(frozen=True, slots=True)
class Buffers:
    """What the function of a bucket reads and writes beside the weights.

    Attributes:
        store: (L, slots, 2, Hkv, D), the cached tokens, which it only reads.
        new: (L, R, 2, Hkv, D), the keys and values of the step's rows; for a tile of exact mode
            those of all rows of its step, of which it writes its own rows'.
        hidden: (R, hidden), after the last norm.
        records: (N, columns) fp64, as `engine.model.captured.records`.
    """

    inputs: Inputs | TileInputs
    store: Tensor
    new: Tensor
    hidden: Tensor
    records: Tensor


class StepFunction:
    """The forward of one bucket. Calling it leaves its results in the buffers."""

    def __init__(self, weights: Weights, bucket: Bucket, buffers: Buffers) -> None:
        self._weights = weights
        self._bucket = bucket
        self._buffers = buffers

    def __call__(self) -> None:
        weights, inputs = self._weights, self._buffers.inputs
        eps = weights.config.norm_eps
        flags = inputs.flags != 0 if self._bucket.is_adapted else None
        embed = weights.embed if flags is None else weights.embed_adapted
        added, total = embed(inputs.tokens.long()), None
        rotation = self._rotation()
        for number, layer in enumerate(weights.layers):
            normed, total = rms_norm(added, total, layer.before_attention, eps)
            joint = self._joint(normed, layer, flags)
            added = product(self._attended(joint, number, rotation), layer.output, flags)
            normed, total = rms_norm(added, total, layer.before_mlp, eps)
            added = product(swiglu(product(normed, layer.gate_up, flags)), layer.down, flags)
        normed, _ = rms_norm(added, total, weights.norm, eps)
        self._buffers.hidden.copy_(normed)
        if self._bucket.reads:
            read = normed.index_select(0, inputs.reads)
            records = records_of(read, weights, inputs.follows, self._bucket.draft_depth)
            self._buffers.records.copy_(records)

    def _joint(self, normed: Tensor, layer: LayerWeights, flags: Tensor | None) -> Tensor:
        """(R, (H + 2 Hkv) D): queries, keys and values before rotation."""
        joint = product(normed, layer.qkv, flags)
        if layer.query_norm is None or layer.key_norm is None:
            return joint
        config = self._weights.config
        widths = [config.heads * config.head_dim, config.kv_heads * config.head_dim]
        query, key, value = joint.split([*widths, widths[1]], dim=1)
        normed_parts = [
            rms_norm(part.reshape(-1, config.head_dim), None, weight, config.norm_eps)[0]
            for part, weight in ((query, layer.query_norm), (key, layer.key_norm))
        ]
        return torch.cat([*(each.view(len(joint), -1) for each in normed_parts), value], dim=1)

    def _attended(
        self, joint: Tensor, number: int, rotation: tuple[Tensor, Tensor, Tensor | None]
    ) -> Tensor:
        """(R, H D); writes the layer's keys and values."""
        buffers = self._buffers
        new, inputs = buffers.new[number], buffers.inputs
        query = rotary_write(joint, *rotation, new, inputs.slots)
        store, plan = buffers.store[number], inputs.plan
        if isinstance(plan, TilePlan):
            mixed = tile_attention(query, new, store, plan)
        else:
            mixed = row_attention(query, new[:, 0], new[:, 1], store, plan)
        return mixed.flatten(1)

    def _rotation(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """cos and sin (R, D), and the scale of queries (R,) or None."""
        weights, positions = self._weights, self._buffers.inputs.positions
        rope, dtype = weights.config.rope, weights.dtype
        half = positions[:, None].float() * weights.frequencies
        angles = torch.cat((half, half), dim=-1)
        cos, sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
        scale = None
        if rope.query_scale_beta:  # 1 at positions of the original context
            steps = torch.floor(positions / rope.original_positions)
            scale = (1 + rope.query_scale_beta * torch.log1p(steps)).to(dtype)
        return cos.to(dtype), sin.to(dtype), scale


def product(x: Tensor, linear: Linear, flags: Tensor | None) -> Tensor:
    """(R, out), with the adapter's addition in flagged rows (R,) bool."""
    out = linear.multiply(x)
    if flags is None or linear.lora is None:
        return out
    return row_lora(out, x, *linear.lora, flags)
