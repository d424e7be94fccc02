"""What a captured step reads: one block of integers, at the same place on the device for ever.

The host lays a step out in memory of its own and copies it at once. Dead rows are written as well,
so that nothing depends on the steps before: they are token 0 at position 0, have no slot and stand
in no tile. Knows steps and pages, and neither networks nor kernels' operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy
import torch

from engine.cache.pages import PAGE_TOKENS
from engine.kernels.attention_plan import AttentionPlan, in_tiles, tile_of
from engine.kernels.rotary_write import NO_SLOT
from engine.model.captured.buckets import Bucket
from engine.step import PLAIN, Step, visible_rows

_ALIGNED = 4  # integers: pointers of kernels are multiples of 16 bytes


class Inputs:
    """The integers of one bucket, on the host and on the device.

    Attributes:
        tokens, positions: (R,) int32.
        slots: (R,) int32, each row's own number, where its key and value belong among those of the
            step, or NO_SLOT for a dead row.
        flags: (R,) int32, 1 for rows that run with the adapter.
        reads: (N,) int32, the rows to be read; dead entries read row 0.
        follows: (N,) int32, as `Step.follows`, PLAIN for dead entries.
        plan: what the rows see.
        device: all of these, as they lie on the device, (n,) int32.
        host: the same on the host; pinned where the device is a card.
    """

    def __init__(
        self, bucket: Bucket, pages_max: int, *, heads_per_kv_head: int, device: torch.device
    ) -> None:
        """
        Args:
            pages_max: the most pages of a sequence.
        """
        rows, sequences = bucket.rows, bucket.sequences
        tile = tile_of(rows, heads_per_kv_head)
        self._rows_per_tile = tile // heads_per_kv_head
        # Each further sequence begins a tile of its own.
        tiles = min(rows, -(-rows // self._rows_per_tile) + sequences - 1)
        words = rows // 32 + (rows % 32 > 0)
        sizes = {
            "tokens": rows, "positions": rows, "slots": rows, "flags": rows, "order": rows,
            "reads": bucket.reads, "follows": bucket.reads, "lengths": sequences,
            "tiles": tiles * 5, "visible": rows * words, "pages": sequences * pages_max,
        }  # fmt: skip
        self._places: dict[str, slice] = {}
        end = 0
        for name, size in sizes.items():  # the pages stand last, as most of them are not copied
            self._places[name] = slice(end, end + size)
            end += -(-size // _ALIGNED) * _ALIGNED
        self.host = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
        self.device = torch.zeros(end, dtype=torch.int32, device=device)
        self._numbers = self.host.numpy()
        self._pages_max = pages_max
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self.tokens, self.positions, self.slots, self.flags, self.reads, self.follows = (
            self.device[self._places[name]]
            for name in ("tokens", "positions", "slots", "flags", "reads", "follows")
        )
        self.plan = AttentionPlan(
            order=self.device[self._places["order"]],
            tiles=self.device[self._places["tiles"]].view(tiles, 5),
            pages=self.device[self._places["pages"]].view(sequences, pages_max),
            lengths=self.device[self._places["lengths"]],
            visible=self.device[self._places["visible"]].view(rows, words),
            page_tokens=PAGE_TOKENS,
            tile=tile,
        )
        self._words = words

    def load(self, step: Step, cached: Sequence[tuple[list[int], int]]) -> None:
        """Lays a step out and begins its copy to the device, which the stream's work waits for.

        Args:
            cached: the page numbers and the cached tokens of each sequence, in the order of first
                rows.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the copy of the step before still reads the host's memory
        numbers = {one: index for index, one in enumerate(dict.fromkeys(step.sequence))}
        order, tiles = in_tiles(
            [numbers[one] for one in step.sequence], len(numbers), self._rows_per_tile
        )
        self._write("tokens", step.token, 0)
        self._write("positions", step.position, 0)
        self._write("slots", range(step.rows), NO_SLOT)
        self._write("flags", step.drafter, 0)
        self._write("order", order, 0)
        self._write("tiles", tiles, 0)
        self._write("lengths", [length for _, length in cached], 0)
        if self.reads.numel():
            self._write("reads", step.read, 0)
            self._write("follows", step.follows, PLAIN)
        bits = b"".join(mask.to_bytes(4 * self._words, "little") for mask in visible_rows(step))
        self._write("visible", numpy.frombuffer(bits, dtype=numpy.int32), 0)
        first = end = self._places["pages"].start
        for index, (pages, _) in enumerate(cached):
            begin = first + index * self._pages_max
            end = begin + len(pages)
            self._numbers[begin:end] = pages
        self.device[:end].copy_(self.host[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _write(self, name: str, values: Iterable[int], padding: int) -> None:
        part = self._numbers[self._places[name]]
        found = numpy.asarray(values if isinstance(values, numpy.ndarray) else list(values))
        part[: len(found)] = found
        part[len(found) :] = padding
