"""Matrices of ggml's quantised blocks, laid out for kernels, and what they mean in torch.

A file has a row's blocks one after another, each with its scales among its integers, so that no two
programs read neighbouring bytes. `fill` lays the same bits out in planes, once, when a matrix is
loaded. A chunk is 32 columns; programs that hold neighbouring rows read neighbouring addresses in
every plane. Nothing is rounded: `dequantize` gives what ggml's library gives, to the bit. Imports
no Triton, and knows neither files nor networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHUNK, HALF = 32, 16  # columns of a chunk; byte j of `low` has columns j and HALF + j
SUPER = 8  # chunks of a superblock
_ENTRIES_AT_ONCE = 1 << 24  # dequantised at once


@dataclass(frozen=True, slots=True)
class BlockType:
    """How one of ggml's types represents an entry: scale * (integer - zero) - minimum.

    Attributes:
        bytes: of a block, which is a chunk, or a superblock if `is_super`.
        bits: of an integer.
        has_minimum: whether each chunk has a minimum. Without one, chunks of superblocks have two
            scales, one for each half.
    """

    bytes: int
    bits: int
    zero: int
    is_super: bool = False
    has_minimum: bool = False

    @property
    def columns(self) -> int:
        """The columns of a block."""
        return CHUNK * SUPER if self.is_super else CHUNK

    @property
    def words(self) -> int:
        """The 32-bit words of a chunk's integers above the low four bits."""
        return {4: 0, 5: 1, 6: 2, 8: 0}[self.bits]


# By ggml's names (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
TYPES = {
    "Q4_0": BlockType(18, bits=4, zero=8),
    "Q5_0": BlockType(22, bits=5, zero=16),
    "Q8_0": BlockType(34, bits=8, zero=0),
    "Q4_K": BlockType(144, bits=4, zero=0, is_super=True, has_minimum=True),
    "Q5_K": BlockType(176, bits=5, zero=0, is_super=True, has_minimum=True),
    "Q6_K": BlockType(210, bits=6, zero=32, is_super=True),
}


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix (out, in) in planes of C = in / 32 chunks, on one device.

    Attributes:
        kind: a name in TYPES.
        low: (C, out, 16) uint8, the low four bits of the integers of columns j and, above them, 16
            + j. With 8 bits, (C, out, 32), int8 in the order of columns.
        high: (C, W, out) int32, the other bits. With 5 bits, W is 1 and bit j is column j's. With
            6, bits 2 j and 2 j + 1 of word w are column 16 w + j's. Else W is 0.
        scales: (C, 1, out) fp16; with superblocks (C, 2, out) int8: scale and minimum, or the
            scales of both halves.
        supers: (C / 8, 1, out) fp16, the factor of the scales of a superblock, or (C / 8, 2, out)
            with that of the minima. (0, 1, out) without superblocks.
    """

    kind: str
    low: Tensor
    high: Tensor
    scales: Tensor
    supers: Tensor

    @property
    def type(self) -> BlockType:
        """What `kind` names."""
        return TYPES[self.kind]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.low.shape[1], len(self.low) * CHUNK

    @property
    def nbytes(self) -> int:
        """The memory of all planes."""
        return sum(each.nbytes for each in (self.low, self.high, self.scales, self.supers))

    def rows(self, rows: Tensor | slice) -> Blocks:
        """Some rows: (N,) int64 on the same device gives a copy, a slice views."""
        return Blocks(
            self.kind,
            self.low[:, rows],
            self.high[:, :, rows],
            self.scales[:, :, rows],
            self.supers[:, :, rows],
        )

    def parts(self) -> Iterator[tuple[slice, Blocks]]:
        """All rows, so many at a time as are dequantised at once."""
        count, width = self.shape
        step = max(1, _ENTRIES_AT_ONCE // width)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            yield part, self.rows(part)


def empty_blocks(kind: str, shape: tuple[int, int], device: torch.device) -> Blocks:
    """Planes for a matrix (out, in) whose rows are to be filled. Rows hold whole blocks."""
    found = TYPES[kind]
    (rows, width), is_super = shape, found.is_super
    chunks = width // CHUNK
    assert width % found.columns == 0
    low = torch.int8 if found.bits == 8 else torch.uint8
    return Blocks(
        kind,
        torch.empty((chunks, rows, CHUNK if found.bits == 8 else HALF), dtype=low, device=device),
        torch.empty((chunks, found.words, rows), dtype=torch.int32, device=device),
        torch.empty(
            (chunks, 2 if is_super else 1, rows),
            dtype=torch.int8 if is_super else torch.float16,
            device=device,
        ),
        torch.empty(
            (chunks // SUPER if is_super else 0, 2 if found.has_minimum else 1, rows),
            dtype=torch.float16,
            device=device,
        ),
    )


def fill(blocks: Blocks, start: int, stored: Tensor) -> None:
    """Writes some rows into the planes.

    Args:
        start: the first of the rows.
        stored: (N, bytes) uint8 on the planes' device, as in a file.
    """
    found = blocks.type
    raw = stored.unflatten(1, (-1, found.bytes))  # (N, blocks, bytes)
    integers, scales, supers = _SPLIT[blocks.kind](raw)
    part = blocks.rows(slice(start, start + len(stored)))
    part.scales.copy_(scales.permute(1, 2, 0))
    if found.is_super:
        part.supers.copy_(supers.permute(1, 2, 0))
    if found.bits == 8:
        part.low.copy_(integers.view(torch.int8).transpose(0, 1))
        return
    low = integers & 15
    part.low.copy_((low[..., :HALF] | low[..., HALF:] << 4).transpose(0, 1))
    if found.words:
        part.high.copy_(_words(integers >> 4, found.bits - 4).permute(1, 2, 0))


def _words(bits: Tensor, count: int) -> Tensor:
    """(N, C, 32) uint8, each of `count` bits, as (N, C, count) int32."""
    shifts = torch.arange(0, 8, count, dtype=torch.uint8, device=bits.device)
    octets = (bits.unflatten(-1, (4 * count, -1)) << shifts).sum(-1, dtype=torch.uint8)
    return octets.view(torch.int32)


def _half(raw: Tensor) -> Tensor:
    """(N, blocks, 2 k) bytes as (N, blocks, k) fp16."""
    return raw.contiguous().view(torch.float16)


def _nibbles(raw: Tensor) -> Tensor:
    """(..., n) bytes as (..., 2, n): the low four bits, the high ones."""
    return torch.stack((raw & 15, raw >> 4), dim=-2)


# Each of these splits (N, blocks, bytes) into integers (N, C, 32) uint8, scales (N, C, k) and the
# superblocks' factors (N, C / 8, k). They follow the comments in ggml-common.h.


def _split_q4_0(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales = _half(raw[..., :2])
    return _nibbles(raw[..., 2:]).flatten(-2), scales, scales


def _split_q5_0(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales = _half(raw[..., :2])
    places = torch.arange(8, dtype=torch.uint8, device=raw.device)
    fifth = (raw[..., 2:6, None] >> places & 1).flatten(-2)
    return _nibbles(raw[..., 6:]).flatten(-2) | fifth << 4, scales, scales


def _split_q8_0(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales = _half(raw[..., :2])
    return raw[..., 2:].contiguous(), scales, scales


def _six_bits(raw: Tensor) -> Tensor:
    """The scales and minima of superblocks, six bits each, (N, B, 12) bytes, as (N, 8 B, 2)."""
    first, second, rest = raw.unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat((first & 63, (rest & 15) | (first >> 2 & 48)), dim=-1)
    minima = torch.cat((second & 63, (rest >> 4) | (second >> 2 & 48)), dim=-1)
    return torch.stack((scales, minima), dim=-1).view(torch.int8).flatten(1, 2)


def _split_q4_k(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    integers = _nibbles(raw[..., 16:].unflatten(-1, (4, 32)))
    return integers.flatten(1, 3), _six_bits(raw[..., 4:16]), _half(raw[..., :4])


def _split_q5_k(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    places = torch.arange(8, dtype=torch.uint8, device=raw.device)
    fifth = raw[..., 16:48].unsqueeze(-2) >> places[:, None] & 1  # (N, B, 8, 32)
    integers = _nibbles(raw[..., 48:].unflatten(-1, (4, 32))).flatten(2, 3) | fifth << 4
    return integers.flatten(1, 2), _six_bits(raw[..., 4:16]), _half(raw[..., :4])


def _split_q6_k(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low = _nibbles(raw[..., :128].unflatten(-1, (2, 64))).unflatten(-1, (2, 32))
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=raw.device)
    top = raw[..., 128:192].unflatten(-1, (2, 1, 32)) >> shifts[:, None] & 3  # (N, B, 2, 4, 32)
    integers = low.flatten(3, 4) | top << 4
    scales = raw[..., 192:208].contiguous().view(torch.int8).unflatten(-1, (8, 2))
    return integers.flatten(1, 3), scales.flatten(1, 2), _half(raw[..., 208:])


_SPLIT = {
    "Q4_0": _split_q4_0,
    "Q5_0": _split_q5_0,
    "Q8_0": _split_q8_0,
    "Q4_K": _split_q4_k,
    "Q5_K": _split_q5_k,
    "Q6_K": _split_q6_k,
}


def dequantize(blocks: Blocks) -> Tensor:
    """(out, in) fp32, what ggml's library gives for the stored rows, to the bit."""
    found = blocks.type
    integers = _integers(blocks).float() - found.zero  # (C, out, 32)
    scales = blocks.scales.float().transpose(1, 2)  # (C, out, k)
    if not found.is_super:
        entries = scales * integers
    else:
        factors = blocks.supers.float().transpose(1, 2).repeat_interleave(SUPER, dim=0)
        scales = scales * factors
        if found.has_minimum:
            entries = scales[..., :1] * integers - scales[..., 1:]
        else:
            entries = scales.repeat_interleave(HALF, dim=-1) * integers
    return entries.transpose(0, 1).flatten(1)


def _integers(blocks: Blocks) -> Tensor:
    """(C, out, 32) int32, before the zero is subtracted."""
    found = blocks.type
    if found.bits == 8:
        return blocks.low.int()
    low = blocks.low.int()
    integers = torch.cat((low & 15, low >> 4), dim=-1)
    if not found.words:
        return integers
    count = found.bits - 4
    shifts = torch.arange(0, 32, count, dtype=torch.int32, device=low.device)
    high = blocks.high.transpose(1, 2).unsqueeze(-1) >> shifts & (1 << count) - 1
    return integers | high.flatten(-2) << 4


def block_gemm_torch(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    """The meaning of `block_gemm`: the product with the entries rounded to x's dtype, as a network
    of dequantised weights computes it."""
    parts = [
        functional.linear(x, dequantize(part).to(x.dtype), None if bias is None else bias[rows])
        for rows, part in blocks.parts()
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
