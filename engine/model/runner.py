"""Runs one step: rows in, logits out. The only place where the network meets the cache.

Builds the visibility mask from the step's arrays and computes attention as the torch reference
does. Decides nothing: which rows, and what becomes of the logits, is the strategy's business.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from engine.cache.storage import KVCache
from engine.errors import MemoryExhausted
from engine.model.adapter import DrafterAdapter
from engine.model.network import Draft, Network
from engine.step import Step, visible_rows


class Model:
    """A loaded network as a function of steps. Called by the engine thread alone."""

    def __init__(
        self, network: Network, *, device: torch.device, adapter: DrafterAdapter | None = None
    ) -> None:
        self.network = network
        self.adapter = adapter
        self.device = device

    @torch.inference_mode()
    def __call__(self, step: Step, cache: KVCache) -> Tensor:
        """Logits (len(step.read), V) fp32 of the rows the strategy reads.

        Raises:
            MemoryExhausted: the step does not fit on the device.
        """
        try:
            return self._forward(step, cache)
        except torch.OutOfMemoryError:
            raise MemoryExhausted(
                f"A step of {step.rows} rows does not fit on {self.device}.",
                remedy="Shorten the prompt or use a smaller checkpoint.",
                param="prompt",
            ) from None

    def _forward(self, step: Step, cache: KVCache) -> Tensor:
        view = cache.view(step)
        config = self.network.config
        mask = visibility_mask(step, cache.lengths(step)).to(self.device)
        mask = mask.repeat(config.heads // config.kv_heads, 1)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = view.extend(layer, key, value)
            return step_attention(query, keys, values, mask)

        tokens = torch.tensor(step.token, dtype=torch.int64).to(self.device)
        positions = torch.tensor(step.position, dtype=torch.int64).to(self.device)
        hidden = self.network(tokens, positions, attend, self._draft(step))
        read = torch.tensor(step.read, dtype=torch.int64).to(self.device)
        return self.network.logits(hidden.index_select(0, read)).float()

    def _draft(self, step: Step) -> Draft | None:
        if not any(step.drafter):
            return None
        adapter = self.adapter
        assert adapter is not None, "no drafter adapter is loaded"
        rows = torch.tensor(step.drafter, dtype=adapter.up[0].dtype)[:, None].to(self.device)
        return lambda layer, x: adapter(layer, x, rows)


def visibility_mask(step: Step, lengths: list[tuple[int, int]]) -> Tensor:
    """(R, P + R) bool: what each row sees of the cached tokens (laid out by `lengths`) and rows."""
    rows = step.rows
    width = -(-rows // 8)
    packed = b"".join(bits.to_bytes(width, "little") for bits in visible_rows(step))
    bits = numpy.frombuffer(packed, dtype=numpy.uint8).reshape(rows, width)
    among_rows = numpy.unpackbits(bits, axis=1, bitorder="little")[:, :rows].astype(bool)
    sequence = numpy.array(step.sequence)
    cached = [
        numpy.broadcast_to((sequence == number)[:, None], (rows, length))
        for number, length in lengths
    ]
    return torch.from_numpy(numpy.concatenate([*cached, among_rows], axis=1))


def step_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what the mask allows.

    The query heads that share a K/V head are laid out as further rows, so that K and V are read
    once and never repeated.

    Args:
        query: (R, H, D).
        key, value: (T, Hkv, D).
        mask: (H / Hkv * R, T) bool, True where visible; the (R, T) mask repeated.

    Returns:
        (R, H, D).
    """
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.unflatten(1, (kv_heads, heads // kv_heads)).permute(1, 2, 0, 3)
    mixed = functional.scaled_dot_product_attention(
        grouped.reshape(1, kv_heads, -1, width),
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
    )
    mixed = mixed.view(kv_heads, heads // kv_heads, rows, width)
    return mixed.permute(2, 0, 1, 3).reshape(rows, heads, width)
